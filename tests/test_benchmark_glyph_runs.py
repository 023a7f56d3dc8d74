# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The runs of the glyph benchmark: what is run after what, how it is read, and that all of it goes through."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.glyphs import (
    bench,
    classifiers,
    finetune,
    frontier,
    gates,
    measure,
    methods,
    pipeline,
    plan,
    render,
    settings,
    summary,
    table,
    trial,
)
from benchmarks.glyphs.l2sp import L2SPTrainer
from benchmarks.glyphs.scripts import SETS, SOURCE, TUNING_TARGETS
from diffusers_difftune import ClassConditionalTrainer
from diffusers_difftune.config import ClassConditionalConfig


def measured(**by_alpha: tuple[float, float, float]) -> dict:
    """A run, of (accuracy, recognised source samples, drift) by α."""
    names = ("target recognised", "source recognised", "drift")
    return {
        "by_alpha": {
            alpha.removeprefix("a"): dict(zip(names, values, strict=True)) for alpha, values in by_alpha.items()
        }
    }


# Frontiers


def test_figures_lie_on_the_line_between_two_blends() -> None:
    run = measured(**{"a0.5": (0.2, 0.9, 0.0), "a1": (0.8, 0.3, 0.6)})
    found = frontier.at_accuracy(run, 0.5)
    assert found.alpha == pytest.approx(0.75)
    assert found.figures == pytest.approx({"source recognised": 0.6, "drift": 0.3})


def test_of_several_crossings_the_one_at_the_smallest_blend_counts() -> None:
    run = measured(**{"a0.3": (0.1, 0.9, 0), "a0.5": (0.7, 0.8, 0), "a0.7": (0.4, 0.6, 0), "a1": (0.9, 0.2, 0)})
    assert frontier.at_accuracy(run, 0.6).alpha == pytest.approx(0.3 + 0.2 * 5 / 6)
    assert frontier.at_accuracy(run, 0.1).alpha == 0.3, "the smallest blend is as accurate already"


def test_a_run_that_is_not_as_accurate_counts_as_standard_fine_tuning() -> None:
    standard = measured(**{"a0.5": (0.0, 0.8, 0.1), "a1": (0.8, 0.2, 0.5)})
    weak = measured(**{"a0.5": (0.1, 1.0, 0.0), "a1": (0.7, 1.0, 0.0)})
    found = frontier.compared(weak, standard)
    assert found.alpha is None and found.short_by == pytest.approx(0.76 - 0.7)
    assert (
        found.figures
        == frontier.compared(standard, standard).figures
        == pytest.approx({"source recognised": 0.23, "drift": 0.48})
    )


def test_the_interval_is_a_t_interval_over_targets() -> None:
    found = frontier.mean_difference({f"target {number}": [number - 1, number + 1] for number in range(8)})
    # mean 3.5, deviation √6, t of 7 degrees of freedom 2.3646
    assert found["mean"] == 3.5 and found["targets"] == 8
    assert found["ci95"] == pytest.approx([3.5 - 2.3646 * (6 / 8) ** 0.5, 3.5 + 2.3646 * (6 / 8) ** 0.5], abs=1e-3)
    assert frontier.mean_difference({"one": [1.0, 3.0]}) == {"mean": 2.0, "ci95": None, "targets": 1}


def test_of_equally_good_methods_the_one_nearest_to_the_published_one_wins() -> None:
    scores = dict.fromkeys(methods.FACTORIAL, 0.1)
    assert frontier.winner(scores) == methods.PUBLISHED
    scores |= {"own-all-w1-flat": 0.5, "own-low-w0.1-psi": 0.485, methods.PUBLISHED: 0.4}
    assert frontier.winner(scores) == "own-low-w0.1-psi"


# Methods and the order of runs


def test_the_factorial_has_24_methods_and_the_two_that_have_names() -> None:
    assert len(methods.FACTORIAL) == 24 and len(methods.METHODS) == 27
    assert methods.FACTORIAL[methods.PUBLISHED].departures == 0
    assert methods.FACTORIAL[methods.PRIOR_PRESERVATION].departures == 4
    assert methods.FACTORIAL[methods.PRIOR_PRESERVATION].flags == {
        "source_share": 0.2,
        "coefficients": "sampled",
        "retention_prompts": "sampled",
        "retention_power": 0.0,
        "retention_weight": 1.0,
        "reconsolidation_power": 0.0,
    }


def invented(run: plan.Run) -> dict:
    """Figures of a run that trained: own conditions keep most, and a rate of 1e-3 suits them; other rates are worse."""
    kept = 0.1 + 0.3 * run.method.startswith("own") + 0.2 * ("-all-" in run.method) + 0.05 * ("psi" in run.method)
    suits = 1e-3 if run.method.startswith("own") else 5e-4
    kept -= 0.1 * (run.rate != suits) + 0.01 * (run.strength or 0)
    return measured(**{"a0.5": (0.3, kept + 0.2, 0.1), "a1": (0.8 + 0.01 * (run.rate == 5e-4), kept, 0.3)})


def test_stages_follow_from_the_figures_before_them() -> None:
    found = {}

    def make(runs) -> int:
        new = {run.name: invented(run) for run in runs if run.name not in found}
        found.update(new)
        return len(new)

    assert make(plan.standard_trials()) == 3 and plan.standard_setting(found).rate == 5e-4
    # 26 more on Georgian with three settings each; 26 (all but L2-SP) on two more targets
    assert make(plan.trials(found)) == 3 * 26 + 2 * 26
    chosen = plan.settings(found)
    assert {setting.rate for method, setting in chosen.items() if method.startswith("own")} == {1e-3}
    assert {setting.rate for method, setting in chosen.items() if not method.startswith("own")} == {5e-4}
    assert chosen["l2sp"].strength in methods.STRENGTHS
    # the two other targets again for the twelve with a rate of their own and L2-SP; all three with 100 images
    assert make(plan.tuning_runs(found)) == 2 * 13 + 3 * 27
    assert len(found) <= table.MOST_TUNING
    assert frontier.winner(plan.scores(found)) == "own-all-w0.1-psi"
    runs = plan.result_runs(found)
    assert len(runs) == len({run.name for run in runs}) == 240
    assert {run.method for run in runs} == {
        "standard", "own-all-w0.1-psi", methods.PUBLISHED, methods.PRIOR_PRESERVATION, "l2sp",
    }  # fmt: skip
    assert not {run.target for run in runs} & {*TUNING_TARGETS}
    tuning = summary.tuning_of(found)
    assert tuning["winner"] == "own-all-w0.1-psi" and len(tuning["methods"]) == 27
    made = found | {run.name: invented_whole(run) for run in runs}
    result = summary.summary_of(made, runs)
    for regime in ("1000 images", "100 images"):
        best, standard = (result[regime][name] for name in ("own-all-w0.1-psi", "standard"))
        expected = frontier.compared(invented(runs[1]), invented(runs[0])).figures["source recognised"]
        assert best["source recognised"] == pytest.approx(expected, rel=1e-3) and best["runs"] == 24
        assert best["less standard"]["source recognised"]["mean"] == pytest.approx(
            best["source recognised"] - standard["source recognised"], abs=2e-3
        )
        assert standard["less standard"]["drift"] == {"mean": 0.0, "ci95": [0.0, 0.0], "targets": 8}


def invented_whole(run: plan.Run) -> dict:
    found = invented(run)
    for figures in found["by_alpha"].values():
        figures |= {name: {"near": 1.0} if "loss" in name else 0.0 for name in summary.WHOLE if name not in figures}
    return found


def test_prior_preservation_as_the_winner_has_the_second_best_beside_it(monkeypatch) -> None:
    scores = dict.fromkeys(methods.FACTORIAL, 0.1) | {methods.PRIOR_PRESERVATION: 0.9, "own-all-w0.3-flat": 0.5}
    monkeypatch.setattr(plan, "scores", lambda found: scores)
    assert plan.methods_of_the_result({}) == [
        "standard", methods.PRIOR_PRESERVATION, "own-all-w0.3-flat", methods.PUBLISHED, "l2sp",
    ]  # fmt: skip


# The runs themselves, on letters that are noise


@pytest.fixture
def small_bench(tmp_path: Path, monkeypatch) -> Path:
    """All twelve sets with two letters each, a small source model, and classifiers that know nothing."""
    data = tmp_path / "data"
    data.mkdir()
    generator = np.random.default_rng(0)
    for name in SETS:
        labels = [f"{name} a", f"{name} b"]
        for part, count in [("train", 12), ("styles", 6), ("families", 6)]:
            pixels = generator.integers(0, 256, (count, settings.SIDE, settings.SIDE), dtype=np.uint8)
            glyphs = [render.Glyph(row % 2, f"{row}.ttf", "one", image) for row, image in enumerate(pixels)]
            render.write(data / f"{name}_{part}.parquet", glyphs, labels, {"one": "one"})
            if name != SOURCE and part == "train":
                for count, seed in [(c, s) for c in (settings.SMALL, settings.LARGE) for s in (1, 2, 3, 11)]:
                    render.write(data / f"{name}_train_{count}_{seed}.parquet", glyphs, labels, {"one": "one"})
    source = {settings.FIRST_SOURCE_ROW + number: name for number, name in enumerate(["source a", "source b"])}
    pipeline.save_pipeline(tmp_path / "source", pipeline.new_transformer(24, 1, 2, seed=0), source)
    (tmp_path / "source" / settings.MADE_OF).write_text('{"steps": 0}')
    monkeypatch.setattr(classifiers.class_offsets, "__defaults__", (data,))
    (tmp_path / "classifiers").mkdir()
    torch.manual_seed(0)
    for name in classifiers.NAMES:
        file = tmp_path / "classifiers" / f"{name}.safetensors"
        save_file(classifiers.Classifier(2 * len(SETS)).state_dict(), file)
    places = {
        "DATA": data,
        "WORK": tmp_path / "work",
        "BANK": tmp_path / "bank",
        "SOURCE_MODEL": tmp_path / "source",
        "CLASSIFIERS": tmp_path / "classifiers",
        "RESULTS": tmp_path / "results",
        "BANK_SAMPLES": 4,
        "BANK_STEPS": 2,
        "LOSS_ROWS": 4,
        "LOSS_LEVELS": 2,
        "SAMPLING_STEPS": 2,
        "RECIPE": settings.RECIPE | {"max_train_steps": 2, "train_batch_size": 5, "lr_warmup_steps": 1},
    }
    for module in (bench, finetune, gates, measure, plan, table, trial):
        for name, value in places.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    return tmp_path


@pytest.mark.slow
def test_all_stages_go_through(small_bench: Path, monkeypatch, capsys) -> None:
    few = {
        name: methods.METHODS[name] for name in (methods.STANDARD, methods.L2SP, methods.PUBLISHED, "own-all-w1-flat")
    }
    monkeypatch.setattr(plan, "METHODS", few)
    factorial = {name: methods.FACTORIAL[name] for name in few if name in methods.FACTORIAL}
    monkeypatch.setattr(plan, "FACTORIAL", factorial)
    monkeypatch.setattr(plan, "methods_of_the_result", lambda found: list(few))
    monkeypatch.setattr(plan, "SEEDS", (1,))
    for module in (plan, summary):
        monkeypatch.setattr(module, "TUNING_TARGETS", TUNING_TARGETS[:2])
    monkeypatch.setattr(plan.result_runs, "__defaults__", (("thai",),))
    monkeypatch.setattr(table, "QUICK_TARGET", "thai")

    def make(self, commands, title) -> None:
        for words in commands.values():
            trial.main(words[2:])

    monkeypatch.setattr(table.Jobs, "make", make)
    arguments = ["--results", str(small_bench / "results")]
    table.main(["--stage", "targets", *arguments])
    with open(small_bench / "results" / "runs.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) % 5 == 0 and {row["alpha"] for row in rows} == {f"{alpha:g}" for alpha in settings.BLENDS}
    written = json.loads((small_bench / "results" / "summary.json").read_text())
    assert set(written["targets"]["100 images"]) == {*few}
    assert not list((small_bench / "work" / "runs").iterdir()), "weights are not kept"
    assert torch.backends.cuda.flash_sdp_enabled(), "the kernels of later work in this process are its own"
    before = (small_bench / "results" / "runs.csv").read_bytes()
    monkeypatch.setattr(
        table.Jobs, "make", lambda self, commands, title: pytest.fail(f"{commands}") if commands else None
    )
    table.main(["--stage", "targets", *arguments])
    assert (small_bench / "results" / "runs.csv").read_bytes() == before
    monkeypatch.setattr(table.Jobs, "make", make)
    capsys.readouterr()
    table.main(["--quick", *arguments])
    again = json.loads(capsys.readouterr().out)
    assert {name: found["runs"] for name, found in again["100 images"].items()} == dict.fromkeys(few, 1)


def test_a_blend_of_nothing_is_the_source_model(small_bench: Path) -> None:
    measured_by = bench.Bench(each=1)
    found = next(iter(measured_by.blends(measured_by.source, "thai", settings.SMALL, 1)))
    assert found.alpha == 1 and found.figures["drift"] == 0
    assert found.figures["source recognised"] == measured_by.source_recognised(measured_by.before)


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_l2sp_goes_its_part_of_the_way_back(small_bench: Path, strength: float, monkeypatch) -> None:
    """After one step at the full rate, from w* to w* + d, the weights are w* + (1 − λ) d; class tables are left alone."""

    def train(trainer: ClassConditionalTrainer) -> dict[str, torch.Tensor]:
        trainer.run()
        return {name: value.detach().clone() for name, value in trainer.trainable.model.named_parameters()}

    def config(name: str) -> ClassConditionalConfig:
        return ClassConditionalConfig(
            pretrained_model_name_or_path=str(small_bench / "source"),
            train_data_dir=str(small_bench / "data" / "thai_train.parquet"),
            output_dir=str(small_bench / name),
            cache_dir=str(small_bench / "cache"),
            objective="standard",
            max_train_steps=1,
            train_batch_size=4,
            learning_rate=1e-2,
            lr_scheduler="constant",
            seed=0,
            report_to="none",
        )

    plain = ClassConditionalTrainer(config("plain"))
    moved, pulled = train(plain), train(L2SPTrainer(config("pulled"), strength))
    start = dict(plain.backbone.load_denoiser().named_parameters())
    assert any((moved[name] - start[name]).abs().max() > 1e-3 for name in start)
    for name in start:
        part = 0.0 if "class_embedder" in name else strength
        torch.testing.assert_close(pulled[name], torch.lerp(moved[name], start[name], part), rtol=0, atol=1e-6)
