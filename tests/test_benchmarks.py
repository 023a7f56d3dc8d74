# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the benchmark programs that figures depend on; the programs themselves are run by hand."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.table import Table


ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    for folder in ("benchmarks", "examples/icons"):
        monkeypatch.syspath_prepend(ROOT / folder)


def test_comparison_takes_turns_and_gives_medians_of_ratios():
    import throughput

    order = []

    def rate(name, values):
        def run():
            order.append(name)
            return values.pop(0)

        return run

    result = throughput.compare({"old": rate("old", [10.0, 20.0, 40.0]), "new": rate("new", [15.0, 20.0, 80.0])}, 3)
    assert order == ["old", "new", "new", "old", "old", "new"]
    assert result["new_rate_over_old"] == {"median": 1.5, "min": 1.0, "max": 2.0, "all": [1.5, 1.0, 2.0]}
    assert result["new_time_over_old"]["median"] == pytest.approx(2 / 3, abs=1e-4)
    assert result["old_images_per_second"]["median"] == 20


def test_every_comparison_of_the_data_path_is_held_against_the_aim():
    import throughput

    def comparison(ratio):
        return {"cached_rate_over_uncached": {"median": ratio}}

    data_path = {"full": {"32 px": comparison(1.25), "512 px": comparison(1.5)}, "lora": {"32 px": comparison(1.6)}}
    found = [("full, 32 px", 1.25, False), ("full, 512 px", 1.5, True), ("lora, 32 px", 1.6, True)]
    assert throughput.aims(data_path) == found


def test_enlarged_drawings_are_the_same_rows(tmp_path):
    import throughput

    own = pq.read_table(throughput.stored_at(throughput.RESOLUTION, tmp_path))
    large = pq.read_table(throughput.stored_at(40, tmp_path))
    assert list(tmp_path.iterdir()) == [tmp_path / "images_40.parquet"]
    assert large["text"].to_pylist() == own["text"].to_pylist()
    small, image = (
        Image.open(io.BytesIO(table["image"][5]["bytes"].as_py())).convert("RGB") for table in (own, large)
    )
    assert image.size == (40, 40)
    difference = np.asarray(image.resize(small.size), dtype=float) - np.asarray(small, dtype=float)
    assert abs(difference).mean() < 5


def test_steps_of_another_program_are_timed_by_its_progress_bar(tmp_path):
    import throughput

    program = tmp_path / "train.py"
    program.write_text(
        "import time\nfrom tqdm import tqdm\n"
        "for i in tqdm(range(14), desc='Steps'):\n    time.sleep(0.3 if i < 10 else 0.05)\n"
    )
    assert 0.04 < throughput.seconds_per_step([sys.executable, str(program)], 14) < 0.25


def test_a_program_that_does_not_run_is_reported_in_a_sentence(tmp_path, capsys):
    import argparse

    import throughput

    upstream = tmp_path / "train_text_to_image.py"
    upstream.write_text("import surely_absent\n")
    arguments = argparse.Namespace(pipeline=tmp_path, batch_size=1, steps=12, pairs=1, upstream=upstream)
    message = throughput.beside_upstream(arguments, tmp_path)
    assert message.startswith("Not measured: train_text_to_image.py stopped with") and "surely_absent" in message


def test_rate_of_a_run_leaves_out_its_first_ten_steps(tmp_path):
    import finetune

    rates = [1.0] * 10 + [5.0] * 10 + [7.0] * 10
    lines = [json.dumps({"step": step + 1, "images_per_second": rate}) for step, rate in enumerate(rates)]
    (tmp_path / "training_log.jsonl").write_text("\n".join(lines))
    assert finetune.images_per_second(tmp_path) == 6.0


def test_table_has_mean_and_deviation_over_seeds():
    import retention_prompts

    run = {"target": "fluent-emoji", "retention_prompts": "empty", "bank_guidance_scale": 1.0}
    figures = {"fid_target": 7.0, "forgetting_source": 0.02, "loss_change_target": -0.1}
    runs = [run | {"by_step": {"150": figures | {"kid_target": kid}}} for kid in (2.0, 4.0)]
    row = retention_prompts.table(runs).splitlines()[-1]
    assert row == "| fluent-emoji | empty | 1.0 | 2 | 3.00 ± 1.41 | 7.0 ± 0.0 | -10.00 ± 0.00 | 2.00 ± 0.00 |"


def test_the_recipe_is_chosen_by_standard_and_from_what_all_seeds_tried():
    import recipe

    def tried(objective, rate, *kids):
        figures = [{"kid_target": kid} for kid in kids]
        return {(objective, "constant", rate, 150): figures}

    groups = tried("standard", 1e-4, 5.0, 5.0) | tried("standard", 2e-4, 1.0, 8.0) | tried("standard", 3e-4, 1.0)
    groups |= tried("difftune", 1e-4, 2.0, 2.0) | tried("difftune", 2e-4, 9.0, 9.0)
    assert recipe.best_of(groups, "standard") == ("standard", "constant", 2e-4, 150)
    assert recipe.best_of(groups, "difftune") == ("difftune", "constant", 1e-4, 150)


def test_measured_runs_are_made_once_and_never_overwritten(tiny_pipeline, tmp_path, capsys):
    import recipe

    command = ["--pipeline", tiny_pipeline, "--output", tmp_path / "results.csv", "--work", tmp_path / "work"]
    command += ["--steps", 2, 4, "--learning_rates", 1e-3, "--seeds", 1, "--bank_samples", 4, "--images", 66]
    command += ["--samples_per_caption", 1, "--rows", 2, "--sampling_steps", 1]

    def run(*more):
        recipe.main([str(word) for word in (*command, *more)])
        return capsys.readouterr().out

    assert "0 of 2 runs are there" in run("--estimate") and not (tmp_path / "results.csv").exists()
    said = run("--lr_schedulers", "constant")
    assert "Chosen for both, by standard: constant rate of 0.001, " in said and "Diff-Tuning's own best: " in said
    made = (tmp_path / "results.csv").read_bytes()
    there = Table(tmp_path / "results.csv").read()
    assert {name.partition("/")[2] for name in there} == {
        "flat-color-icons-standard-lr0.001-constant-steps4-seed1",
        "flat-color-icons-difftune-sampled-guidance1-lr0.001-constant-steps4-seed1",
    }
    for result in there.values():
        assert list(result["by_step"]) == ["2", "4"] and result["checkpoints"] == [2, 4] and result["weights"]
        assert result["by_step"]["2"]["loss_change_target"] != result["by_step"]["4"]["loss_change_target"]
    assert not list((tmp_path / "work").rglob("checkpoint-*"))

    assert "2 of 2 runs are there" in run()
    assert "2 of 6 runs are there" in run("--lr_schedulers", "constant", "cosine", "--estimate")
    with pytest.raises(SystemExit, match="was made with rows 2"):
        run("--rows", 3)
    assert (tmp_path / "results.csv").read_bytes() == made
