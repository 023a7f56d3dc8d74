# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the ControlNet benchmark that its figures depend on; the runs themselves are made by hand."""

import argparse
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.table import Table
from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.evaluation.forgetting import denoising_loss_by_level, forgetting
from diffusers_difftune.objective import DiffTuningObjective


ROOT = Path(__file__).parents[1]
BARE = {"top5_of_100": 0.8, "fid": 150.0, "kid": 20.0, "drift": 0.004, "forgetting": 0.02}


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    for folder in ("examples/icons", "benchmarks", "benchmarks/controlnet"):
        monkeypatch.syspath_prepend(ROOT / folder)


def finished(condition, method, seed, rate, fall, bare=None):
    """What is kept of a run whose error falls by e in `fall` points of ten steps."""
    errors = np.exp(-np.arange(121) / fall).tolist()
    names = ("ssim", "mse") if condition == "edge" else ("mse",)
    flags = {"control_evaluation_samples": 32, "learning_rate": rate, "seed": seed}
    return {
        "condition": condition,
        "method": method,
        "seed": seed,
        "learning_rate": rate,
        "condition_error": {"steps": list(range(0, 1210, 10))} | dict.fromkeys(names, errors),
        "bare_model": BARE | (bare or {}),
        "images_per_second": 80.0,
        "seconds": {"training": 3000.0, "measurement": 600.0},
        "resumed": False,
        "settings": {"pipeline": "abc", "flags": flags},
        "machine": {"processor": "a processor", "commit": "abc"},
    }


@pytest.fixture
def runs():
    """Diff-Tuning is a fifth faster on edges and two fifths on depth, and drifts half as far; extracted saves nothing."""
    found = []
    for condition, saved in (("edge", 0.2), ("depth", 0.4)):
        for seed in (1, 2, 3):
            fall = 20 + seed
            found += [
                finished(condition, "standard", seed, 3e-4, fall),
                finished(condition, "blank", seed, 3e-4, fall * (1 - saved), {"drift": 0.002}),
            ]
        found += [finished(condition, "standard", seed, 3e-4, 20) for seed in (11, 12)]
        found += [finished(condition, "standard", seed, 1e-3, 50) for seed in (11, 12)]
    return found + [finished("depth", "extracted", seed, 3e-4, 20 + seed) for seed in (1, 2)]


def test_summary_has_the_steps_saved_and_what_is_forgotten(runs):
    import evidence

    found = evidence.summarise(runs, {"fid": 140.0, "kid": 18.0, "top5_of_100": 0.9}, 3e-4)
    edge, depth = (found["conditions"][kind] for kind in ("edge", "depth"))
    assert edge["mean_step_reduction"] == pytest.approx(0.2, abs=1e-3) and edge["metric"] == "ssim"
    assert depth["mean_step_reduction"] == pytest.approx(0.4, abs=1e-3) and depth["metric"] == "mse"
    assert found["mean_step_reduction"] == pytest.approx(0.3, abs=1e-3)
    assert found["ci95"] is None  # of two conditions
    # the tuning runs fall to e^-5.95 in the end, the median of their last three points
    level = math.exp(-119 / 20 / 2)
    assert depth["threshold"] == pytest.approx(level)
    assert depth["standard_steps"] == pytest.approx(-10 * 22 * math.log(level), rel=1e-3)  # the median of the seeds
    assert depth["final_error"]["standard"] == pytest.approx(math.exp(-119 / 22))
    assert found["edge_by_mse"]["mean_step_reduction"] == pytest.approx(0.2, abs=1e-3)
    assert found["search"] == {"0.0003": pytest.approx(math.exp(-3)), "0.001": pytest.approx(math.exp(-1.2))}
    assert found["ablations"]["extracted"]["mean_step_reduction"] == pytest.approx(0, abs=1e-9)
    assert found["ablations"]["extracted"]["num_pairs"] == 2 and found["ablations"]["blank"]["num_pairs"] == 6
    assert set(found["ablations"]["extracted"]["conditions"]) == {"depth"}
    assert found["without_part_in_the_choice"] is None  # both kinds had one
    assert found["forgetting"]["methods"]["blank"]["drift"]["mean"] == pytest.approx(0.002)
    assert found["forgetting"]["methods"]["standard"]["num_runs"] == 6  # without the tuning seeds
    assert found["forgetting"]["difference"]["drift"] == {"mean": pytest.approx(-0.002), "ci95": None}
    more = [finished("normal", method, seed, 3e-4, 20) for seed in (1, 2, 3) for method in ("standard", "blank")]
    three = evidence.summarise([*runs, *more, finished("normal", "standard", 11, 3e-4, 20)], {}, 3e-4)
    low, high = three["ci95"]
    assert low < three["mean_step_reduction"] < high
    low, high = three["forgetting"]["difference"]["drift"]["ci95"]
    assert low == pytest.approx(-0.002) and high > -0.002
    assert found["settings"]["hours"] == pytest.approx(len(runs))
    assert found["notes"] == ["37 of the 51 runs of the result are not there yet."]
    json.dumps(found)


def test_tables_say_what_the_summary_says(runs):
    import evidence

    pretrained = {"fid": 140.0, "kid": 18.0, "top5_of_100": 0.9}
    found = evidence.markdown(evidence.summarise(runs, pretrained, 3e-4))
    rows = {row.split(" | ")[0].strip("| "): row for row in found.splitlines() if row.startswith("|")}
    assert re.search(r"\| 1 − SSIM \| [\d.e-]+ \| 655 \| 524 \| 20\.0 % \| 0 and 0 of 3 ", rows["edge"])
    assert "**30.0 %**" in rows["**mean**"] and "none for fewer than 4 pairs or 3 conditions" in found
    assert rows["before training"].endswith("| 90.0 | 140.0 | 18.00 | 0.00 | 0.00 |")
    assert "| 2.00 ± 0.00 |" in rows["Diff-Tuning (blank condition for source rows)"]
    assert "| -2.00 |" in rows["Diff-Tuning − standard (95 %)"]
    # every table is one: as many cells in a row as in its head
    for table in re.findall(r"(?:^\|.*\n?)+", found, re.MULTILINE):
        assert len({row.count("|") for row in table.strip().splitlines()}) == 1, table


def test_summary_of_unfinished_runs_says_so(runs):
    import evidence

    nothing = evidence.summarise([], {"fid": 1.0, "kid": 1.0, "top5_of_100": 1.0}, 3e-4)
    assert nothing["mean_step_reduction"] is None
    assert evidence.markdown(nothing).startswith("No pair of runs is finished yet.")
    flat = [run for run in runs if run["condition"] == "edge"]
    for run in flat:
        run["condition_error"]["ssim"] = [0.5] * 121
    notes = evidence.summarise(flat, {"fid": 1.0, "kid": 1.0, "top5_of_100": 1.0}, 3e-4)["notes"]
    assert len(notes) == 2 and notes[1].startswith("edge: Standard training ends with a condition error of 0.5")


def test_learning_rate_is_the_one_standard_training_does_best_with(runs):
    import evidence

    tuning = [run for run in runs if run["seed"] > 10]
    assert evidence.best_rate(tuning) == 3e-4
    # a rate that was tried on the easier condition only is compared with what the others do there
    tried = [finished("edge", "standard", 11, 3e-4, 60), finished("depth", "standard", 11, 3e-4, 20)]
    assert evidence.best_rate([*tried, finished("depth", "standard", 11, 1e-4, 25)]) == 3e-4
    assert evidence.best_rate([*tried, finished("depth", "standard", 11, 1e-4, 15)]) == 1e-4


def test_figures_are_put_between_the_markers(tmp_path, monkeypatch, runs):
    import evidence

    assert evidence.BEGIN in evidence.DOCUMENT.read_text() and evidence.END in evidence.DOCUMENT.read_text()
    document = tmp_path / "evidence.md"
    document.write_text(f"before\n{evidence.BEGIN}\nsuperseded\n{evidence.END}\nafter\n")
    monkeypatch.setattr(evidence, "DOCUMENT", document)
    monkeypatch.setattr(evidence, "IMAGES", tmp_path / "images")
    output = tmp_path / "results"
    Table(output / "runs.csv").add({str(number): run for number, run in enumerate(runs)})
    (output / "pretrained.json").write_text(json.dumps({"fid": 1.0, "kid": 1.0, "top5_of_100": 1.0}))
    evidence.write(output, 3e-4, is_evidence=True)
    text = document.read_text()
    assert (
        text.startswith("before\n") and text.endswith("\nafter\n") and "superseded" not in text and "| edge |" in text
    )
    for picture in ("convergence", "ablations"):
        assert f"](../docs/images/evidence_controlnet_{picture}.png)" in text
        assert (tmp_path / "images" / f"evidence_controlnet_{picture}.png").is_file()
    assert json.loads((output / "summary.json").read_text())["mean_step_reduction"] == pytest.approx(0.3, abs=1e-3)
    evidence.write(output, 3e-4, is_evidence=True)
    assert document.read_text() == text


def panels(picture):
    """What each panel of a picture says, by its kind of condition."""
    found = Image.open(picture).text["Description"].splitlines()
    return {line.split(":")[0]: line for line in found}


def test_the_picture_is_of_the_result_alone(tmp_path, runs):
    """What was tried on tuning seeds is in it as little as in the table."""
    import evidence

    tried = [finished("edge", "blank", seed, 3e-4, 60) for seed in (11, 12)]  # three times as slow
    Table(tmp_path / "runs.csv").add({str(number): run for number, run in enumerate([*runs, *tried])})
    (tmp_path / "pretrained.json").write_text(json.dumps({"fid": 1.0, "kid": 1.0, "top5_of_100": 1.0}))
    evidence.write(tmp_path, 3e-4, is_evidence=False)
    found = panels(tmp_path / "convergence.png")
    assert found["edge"].startswith("edge: Diff-Tuning needs 20 % fewer steps; ")
    assert found["depth"].startswith("depth: Diff-Tuning needs 40 % fewer steps; ")
    assert found["all"].startswith("all: 30 % fewer steps; ")


def test_the_committed_summary_is_that_of_the_committed_runs():
    import evidence
    import settings

    summary, bare = (json.loads((settings.RESULTS / f"{name}.json").read_text()) for name in ("summary", "pretrained"))
    made = list(Table(settings.RESULTS / "runs.csv").read().values())
    assert len(made) == summary["settings"]["num_runs"] == 77
    assert evidence.summarise(made, bare, summary["learning_rate"]) == summary


def test_the_committed_pictures_say_what_the_committed_table_says():
    import evidence
    from comparison_plot import steps_saved

    summary = json.loads((ROOT / "benchmarks/controlnet/results/summary.json").read_text())
    found = panels(evidence.IMAGES / "evidence_controlnet_convergence.png")
    assert set(found) == {*summary["conditions"], "all"}
    for kind, part in summary["conditions"].items():
        assert found[kind].startswith(f"{kind}: Diff-Tuning needs {steps_saved(part['mean_step_reduction'])};")
        for name, steps in (("standard", part["standard_steps"]), ("Diff-Tuning", part["difftune_steps"])):
            assert f"{name}: {steps:.0f} steps" in found[kind]
        assert f"threshold {part['threshold']:.3g}" in found[kind]
    assert found["all"].startswith(f"all: {steps_saved(summary['mean_step_reduction'])};")
    assert evidence.markdown(summary) in evidence.DOCUMENT.read_text(encoding="utf-8")
    ablations = Image.open(evidence.IMAGES / "evidence_controlnet_ablations.png").text["Description"].splitlines()
    for kind, words in zip(evidence.FULL.ablation_conditions, ablations, strict=True):
        for method in ("extracted", "reconsolidation"):
            steps = summary["ablations"][method]["conditions"][kind]["difftune_steps"]
            assert words.startswith(kind) and f"{method}: {steps:.0f} steps" in words


def test_plan_is_paired_and_keeps_tuning_seeds_apart():
    import settings

    size = settings.FULL
    result = settings.result_runs(size, 3e-4)
    assert not {run.seed for run in result} & set(size.tuning_seeds)
    for method in ("standard", "blank"):
        own = {(run.condition, run.seed) for run in result if run.method == method}
        assert len(own) == 15
    flags = [run.settings(size)["flags"] for run in result if (run.condition, run.seed) == ("depth", 1)]
    assert len(flags) == 4 and flags[0]["objective"] == "standard"
    shared = set.intersection(*(set(map(str, one.items())) for one in flags))
    assert {"('learning_rate', 0.0003)", f"('max_train_steps', {size.steps})", "('train_batch_size', 16)"} <= shared
    assert size.held_out >= 32 and size.steps / size.every > 30
    assert len({run.name for run in result}) == len(result)


def test_a_run_is_made_again_when_its_settings_changed(tmp_path):
    import run
    import settings

    arguments = argparse.Namespace(
        quick=False, trial=True, conditions=None, seeds=None, output=tmp_path, work=tmp_path, jobs=1, threads=1
    )
    benchmark = run.Benchmark(arguments)
    one = settings.Run("edge", "extracted", 1, 1e-3)
    assert not benchmark.done(one)
    file = benchmark.table.file(one.name)
    file.parent.mkdir()
    file.write_text(json.dumps({"settings": one.settings(benchmark.size)}))
    benchmark = run.Benchmark(arguments)
    assert benchmark.done(one)
    benchmark.size = replace(benchmark.size, steps=5)
    assert not benchmark.done(one)
    assert not benchmark.is_evidence


def test_runs_go_side_by_side_and_a_failure_shows_the_end_of_its_log(tmp_path, capsys):
    import sys

    import run
    import settings

    arguments = argparse.Namespace(
        quick=False, trial=True, conditions=None, seeds=None, output=tmp_path, work=tmp_path, jobs=2, threads=1
    )
    benchmark = run.Benchmark(arguments)
    (tmp_path / "runs").mkdir()
    names = [settings.Run("edge", "standard", seed, 1e-3) for seed in (1, 2, 3)]
    program = (
        "import json, os, sys, time; time.sleep(0.3); found = {'settings': json.loads(sys.argv[2]), 'seconds': {}}; "
    )
    program += "found['threads'] = os.environ['OMP_NUM_THREADS']; open(sys.argv[1], 'w').write(json.dumps(found))"
    benchmark.command = lambda one, file: [
        sys.executable, "-c", program, str(file), json.dumps(one.settings(benchmark.size))
    ]  # fmt: skip
    benchmark.make(names, "Result")
    assert all(benchmark.done(one) for one in names)
    rows = Table(tmp_path / "runs.csv").read()
    assert list(rows) == [one.name for one in names] and rows[names[0].name]["threads"] == "1"
    assert not list((tmp_path / "runs").glob("*.json"))  # in the table instead
    assert run.Benchmark(arguments).done(names[0])
    benchmark.make(names, "Result")  # nothing is left
    assert capsys.readouterr().out.count("missing") == 1
    benchmark.command = lambda one, file: [sys.executable, "-c", "raise ValueError('broken')"]
    with pytest.raises(SystemExit, match="depth-standard-lr0.001-seed1 stopped with exit code 1(?s:.*)broken"):
        benchmark.make([settings.Run("depth", "standard", 1, 1e-3)], "Result")


def test_a_new_controlnet_with_a_blank_condition_forgets_nothing(tiny_pipeline):
    bare = pytest.importorskip("bare", exc_type=ImportError)
    backbone = load_backbone(tiny_pipeline)
    unet = backbone.load_denoiser()
    controlnet = backbone.controlnet.new(unet)
    objective = DiffTuningObjective(backbone.noise_scheduler)
    backbone.load_encoders(torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 16, 16, generator=generator) * 2 - 1
    encoded = backbone.to_denoiser(backbone.encode_images(images)[0]), backbone.encode_prompts(["a", "b", "c"])
    before = denoising_loss_by_level(unet, backbone, objective, *encoded, num_levels=4)
    pair = bare.BlankControl(backbone, unet, 16)
    after = denoising_loss_by_level(controlnet, pair, objective, *encoded, num_levels=4)
    assert forgetting(after, before)[0] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in controlnet.parameters():
            parameter.add_(0.05)
    sample, timesteps = encoded[0][:2], torch.tensor([10, 900])
    prompts = {name: values[:2] for name, values in encoded[1].items()}
    expected, other = (
        backbone.predict(unet, sample, timesteps, prompts | {"control": control}, controlnet)
        for control in (torch.zeros(2, 3, 16, 16), torch.ones(2, 3, 16, 16))
    )
    assert torch.equal(pair.predict(controlnet, sample, timesteps, prompts), expected)
    assert not torch.allclose(expected, other) and not torch.allclose(
        expected, backbone.predict(unet, sample, timesteps, prompts)
    )
