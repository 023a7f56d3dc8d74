# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the transfer benchmark that its figures depend on; the runs themselves are made by hand."""

import argparse
import hashlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from safetensors import safe_open
from scipy import stats

from benchmarks.jobs import Jobs
from benchmarks.transfers import chain_tables, choose, evidence, plan, settings, tables
from benchmarks.transfers.clusters import k_means, nearest
from benchmarks.transfers.distinct import distinct, pixels
from benchmarks.transfers.methods import MAIN, METHODS
from benchmarks.transfers.results import runs_table, with_quality
from benchmarks.transfers.settings import FULL, RESULTS, TARGETS, TRIAL, TUNING_TARGET, Places, Recipe, Run
from benchmarks.transfers.splits import SOURCE, class_names, counts, read_split, split_by_class, write_split
from benchmarks.transfers.variants import plainest, subject
from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.config.parse import parse_config


ROOT = Path(__file__).parents[1]
RECIPE = Recipe(3e-4, 1000, True)
SCRIPT = ROOT / "training_scripts" / "train_class_conditional_difftune.py"


def script_config(argv):
    """The arguments as the training script understands them."""
    spec = importlib.util.spec_from_file_location("train_class_conditional_difftune", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return parse_config(module.ClassConditionalConfig, [str(word) for word in argv], "")


# Data


@pytest.mark.parametrize(
    ("icon_set", "variants", "other"),
    [
        ("twemoji", ("artist", "man-artist", "woman-artist-medium-dark-skin-tone"), "artist-palette"),
        ("openmoji", ("person-running", "man-running-light-skin-tone-facing-right"), "running-shoe"),
        ("openmoji", ("family", "family-man-woman-girl-boy", "family-adult-child"), "family-tree"),
        ("twemoji", ("people-holding-hands", "men-holding-hands-dark-skin-tone-light-skin-tone"), "handshake"),
        ("twemoji", ("man-bald", "woman-dark-skin-tone-bald"), "man-beard"),
        ("fluent-emoji-flat", ("singer", "woman-singer-medium-light"), "white-medium"),
        ("vscode-icons", ("folder-type-light-next-opened", "folder-type-next"), "file-type-next"),
        ("token-branded", ("1inch", "1inch-background"), "background"),
    ],
)
def test_variants_of_a_drawing_have_one_subject(icon_set, variants, other):
    names = {"singer", "woman-singer", *variants, other}
    subjects = {subject(icon_set, name, names) for name in variants}
    assert len(subjects) == 1 and subject(icon_set, other, names) not in subjects


def test_numbers_are_skin_tones_of_people_and_other_drawings_of_things():
    people = {subject("streamline-emojis", f"man-cook-{n}", (), "Smiley People") for n in (1, 2)}
    faces = {subject("streamline-emojis", f"hushed-face-{n}", (), "Smiley People") for n in (1, 2)}
    animals = {subject("streamline-emojis", f"fox-face-{n}", (), "Animals Nature") for n in (1, 2)}
    assert (len(people), len(faces), len(animals)) == (1, 2, 2)


def test_of_variants_the_plain_one_is_kept():
    assert plainest(["woman-artist", "artist-dark-skin-tone", "artist", "man-artist"]) == "artist"
    assert plainest(["man-running", "person-running-facing-right", "person-running"]) == "person-running"


def test_of_drawings_that_look_the_same_one_is_kept_and_none_that_a_source_has(capsys):
    """2 % are 5.1 of 255 levels."""

    def drawing(name, level):
        file = io.BytesIO()
        PILImage.new("RGB", (32, 32), (level, level, level)).save(file, "PNG")
        return {"set": "noto", "name": name, "category": "Objects", "image": {"bytes": file.getvalue()}}

    source = pixels([drawing("source", 100)])
    levels = {"copy-of-source": 105, "not-a-copy": 106, "lamp": 200, "same-lamp": 205, "other-lamp": 206, "last": 211}
    kept = distinct([drawing(name, level) for name, level in levels.items()], source)
    assert [row["name"] for row in kept] == ["not-a-copy", "lamp", "other-lamp"]  # the last is like the other lamp
    assert "6 drawings, 6 subjects, 5 not a source's, 3 distinct" in capsys.readouterr().out


def test_clusters_are_found_the_largest_first():
    generator = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [10, 0], [0, 10]])
    sizes = (10, 40, 20)
    rows = np.concatenate([centre + generator.normal(size=(n, 2)) for centre, n in zip(centres, sizes)])
    found = k_means(rows, 3, seed=1)
    assert np.abs(found - centres[[1, 2, 0]]).max() < 1
    assert np.bincount(nearest(rows, found)).tolist() == [40, 20, 10]
    assert np.array_equal(found, k_means(rows, 3, seed=1))


@pytest.mark.parametrize("name", [*TARGETS, TUNING_TARGET])
def test_committed_target_sets(name):
    entries = read_split(name)
    parts = counts(entries)
    assert parts["train"] == 250 and parts["held_out"] >= 300
    assert len({entry.name for entry in entries}) == len(entries)
    labels = {entry.name: entry.label for entry in entries}
    subjects = Counter(subject(name, entry.name, labels, entry.label) for entry in entries)
    assert max(subjects.values()) == 1, subjects.most_common(3)
    trained = {entry.label for entry in entries if entry.part == "train"}
    assert trained == set(class_names(entries)) and 5 <= len(trained) <= 31  # nothing is asked for that was not shown
    assert split_by_class(labels, 0) == {entry.name: entry.part for entry in entries}  # the seeded draw


def test_committed_source_has_no_target_in_it():
    entries = read_split(SOURCE)
    assert not {entry.icon_set for entry in entries} & {*TARGETS, TUNING_TARGET}
    assert len({(entry.icon_set, entry.name) for entry in entries}) == len(entries)
    assert counts(entries)["held_out"] == 800 and len(class_names(entries)) == 115
    assert all(entry.label.startswith(f"{entry.icon_set}: ") for entry in entries)
    assert {entry.label for entry in entries if entry.part == "train"} == set(class_names(entries))
    assert len(TARGETS) == 8 and TUNING_TARGET not in TARGETS


def test_every_part_has_its_share_of_every_class():
    labels = {f"{label}{n}": label for label, size in (("a", 800), ("b", 400), ("c", 20)) for n in range(size)}
    parts = split_by_class(labels, 3)
    found = Counter((labels[name], part) for name, part in parts.items())
    assert Counter(parts.values()) == {"held_out": 600, "train": 250, "rest": 370}
    for label, size in (("a", 800), ("b", 400), ("c", 20)):
        assert found[label, "held_out"] == pytest.approx(600 * size / 1220, abs=2)
        assert found[label, "train"] == pytest.approx(250 * size / 1220, abs=2)
    assert parts == split_by_class(labels, 3) != split_by_class(labels, 4)


def test_a_split_is_read_as_it_was_written(tmp_path):
    entries = sorted(read_split(TUNING_TARGET), key=lambda entry: entry.name)
    write_split(TUNING_TARGET, entries, tmp_path)
    assert read_split(TUNING_TARGET, tmp_path) == entries


def test_projection_has_far_fewer_dimensions_than_there_are_images():
    with safe_open(settings.FEATURES, "pt") as stored:
        assert stored.metadata()["network"] == "efficientnet-lite0"
        assert stored.get_slice("components").get_shape() == [1280, 64]
    assert all(counts(read_split(name))["held_out"] > 4 * 64 for name in TARGETS)


# Source model


def test_source_model_is_small_and_starts_at_nothing(tmp_path):
    from diffusers import DiTPipeline

    from benchmarks.transfers import source

    model = source.new_transformer()
    assert 5.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 6.5e6
    assert model.config.num_embeds_ada_norm == 1000 and model.config.out_channels == model.config.in_channels == 8
    sample, labels = torch.randn(2, 8, 8, 8), torch.tensor([1, 1000])
    hidden = torch.randn(2, 16, 192)
    with torch.no_grad():
        assert not model.eval()(sample, torch.tensor([3, 900]), labels).sample.any()
        out = model.transformer_blocks[0](hidden, timestep=torch.tensor([3, 900]), class_labels=labels)
    assert torch.equal(out, hidden)
    for block in model.transformer_blocks:
        assert block.norm1.emb.class_embedder.embedding_table.weight.std().item() == pytest.approx(0.02, rel=0.02)
        bound = (6 / (192 + 192)) ** 0.5  # Xavier
        assert 0.97 * bound < block.attn1.to_q.weight.abs().max().item() <= bound + 1e-6
    again = source.new_transformer().state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    source.save_pipeline(tmp_path, ["noto: Flags", "logos: cluster 0"], model)
    assert DiTPipeline.from_pretrained(tmp_path).labels == {"noto: Flags": 0, "logos: cluster 0": 1}


def test_untrained_rows_of_class_tables_are_drawn_again(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from benchmarks.transfers import source

    trained = source.new_transformer(seed=3).state_dict()
    table = "transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"
    trained[table][[0, 7, 114]] += 1
    trained["proj_out_2.bias"] += 0.5
    (tmp_path / "trained").mkdir()
    save_file(trained, tmp_path / "trained" / source.WEIGHTS_FILE)
    monkeypatch.setattr(source, "SOURCE_WEIGHTS", tmp_path / "kept")
    source.save_weights(tmp_path / "trained", seed=3)
    loaded = source.load_weights().state_dict()
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[name], trained[name].half().float()) for name in trained)
    assert (tmp_path / "kept" / source.WEIGHTS_FILE).stat().st_size < 9.6e6


def test_source_model_in_the_history_is_the_one_of_the_results(tmp_path, monkeypatch):
    """Its weights hash to what they were when the runs were made; the draws of torch have not changed since."""
    from benchmarks.transfers import source

    monkeypatch.setattr(source, "SOURCE_WEIGHTS", tmp_path / "source")
    if subprocess.run(["git", "cat-file", "-e", source.IN_HISTORY], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("this is no clone, or a shallow one")
    digest = hashlib.sha256()
    for name, tensor in sorted(source.load_weights().state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    assert digest.hexdigest() == "41ef314a17deed76971e5b9bffe2c4ff2d69bc2fc1eeedb42b1b8ab1836757ca"


def test_without_the_history_it_is_said_where_the_source_model_is(tmp_path, monkeypatch):
    from benchmarks.transfers import source

    monkeypatch.setattr(source, "SOURCE_WEIGHTS", tmp_path / "source")
    monkeypatch.setattr(source, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="git fetch --unshallow"):
        source.load_weights()
    assert not (tmp_path / "source").exists()


def test_recipe_of_the_source_model_is_what_the_script_takes(tmp_path):
    from benchmarks.transfers import source

    arguments = argparse.Namespace(
        start=tmp_path, data=tmp_path, output_dir=tmp_path, max_train_steps=9, mixed_precision="bf16", seed=1
    )
    config = script_config(source.training_flags(arguments))
    assert (config.objective, config.use_ema, config.class_dropout_prob) == ("standard", True, 0.1)
    assert config.resume_from_checkpoint == "latest" and config.max_train_steps == 9


# Plan


@pytest.fixture
def hashes(monkeypatch):
    monkeypatch.setattr(settings, "source_hash", lambda: "abc")


def test_stage_1_is_96_paired_runs(hashes):
    runs = plan.stage_1_runs(FULL, RECIPE)
    assert len({run.name for run in runs}) == len(runs) == 96
    assert not {run.seed for run in runs} & set(FULL.tuning_seeds) and TUNING_TARGET not in {r.target for r in runs}
    own = [run.settings(FULL) for run in runs if (run.target, run.seed) == ("openmoji", 2)]
    flags = [one.pop("flags") for one in own]
    assert len(flags) == len(MAIN)
    shared = set.intersection(*(set(map(str, one.items())) for one in flags))
    assert {"('learning_rate', 0.0003)", "('max_train_steps', 1000)", "('train_batch_size', 32)"} <= shared
    different = {"objective", "reconsolidation_power", "source_share"}
    assert {name for one in flags for name in one if any(o.get(name) != one[name] for o in flags)} <= different
    assert [one["bank"] for one in own] == [None, [2000, 25], None, [2000, 25]]
    assert all(one["sampling"] == own[0]["sampling"] for one in own)


def test_each_half_is_the_method_without_the_other():
    assert METHODS["retention"].flags == {"objective": "difftune", "reconsolidation_power": 0.0}
    assert METHODS["reconsolidation"].flags == {"objective": "difftune", "source_share": 0.0}
    assert not METHODS["reconsolidation"].has_bank and METHODS["retention"].has_bank


def test_tuning_is_of_standard_on_a_set_of_its_own(hashes):
    for run in plan.tuning_runs(FULL):
        assert (run.target, run.method) == (TUNING_TARGET, "standard") and run.seed in FULL.tuning_seeds
        assert run.weights == ("raw", "ema") and run.recipe.steps == run.measured[-1] == max(FULL.steps)
    flags = {run.name: run.settings(FULL)["flags"] for run in plan.tuning_runs(FULL)}
    assert len(flags) == len(plan.tuning_runs(FULL)) == 2 * len(FULL.tuning_seeds) * len(FULL.rates)
    assert {one.get("snr_gamma") for one in flags.values()} == {None, 5.0}  # none, and that of the source's training
    for run in plan.adapter_tuning_runs(FULL, RECIPE):
        assert run.target == TUNING_TARGET and METHODS[run.method].flags["objective"] == "standard"


def test_stages_2_and_3_have_what_they_promise():
    rates = {"lora": 1e-3, "difffit": 2e-3, "bitfit": 5e-4}
    stage_2 = plan.stage_2_runs(FULL, RECIPE, rates)
    assert len({run.target for run in stage_2}) == 3 and len(stage_2) == len(set(stage_2)) == 3 * 3 * (5 + 2 * 6)
    assert {run.recipe for run in stage_2 if run.method.startswith("difffit")} == {
        Recipe(rate, 1000, False) for rate in (2e-3, 3e-3)
    }
    stage_3 = plan.stage_3_runs(FULL, RECIPE)
    assert {run.seed for run in stage_3} == {1, 2} and len({run.target for run in stage_3}) == 1
    curves = [run for run in stage_3 if run.measured]
    assert {run.method for run in curves} == {"standard", "difftune"} and curves[0].measured == (250, 500, 1000, 2000)
    assert {"p2", "q0.5", "share0.4", "weight1", "bank100", "banksteps5"} <= {run.method for run in stage_3}
    small = next(run for run in stage_3 if run.method == "bank100")
    assert small.bank(FULL) == (100, 25)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_what_the_training_script_takes(method, hashes, tmp_path):
    from benchmarks.transfers import one_run

    run = Run(
        "openmoji", method, 1, plan.adapter_recipe(RECIPE, dict.fromkeys(("lora", "difffit", "bitfit"), 1e-3), method)
    )
    flags = run.settings(FULL)["flags"] | one_run.paths(run, FULL, Places(tmp_path), tmp_path / "run")
    config = script_config(one_run.command_line(flags))
    assert all(getattr(config, name) == value for name, value in METHODS[method].flags.items())
    assert (config.knowledge_bank is not None) == METHODS[method].has_bank
    assert config.label_column == "label" and config.report_to == "none"


# Results


def quality(fid, kid=1.0, floor=20.0):
    figures = {"fid": fid, "kid": kid, "precision": 0.5, "recall": 0.4, "fid_floor": floor, "kid_floor": 0.0}
    return figures | {
        "num_train": 250,
        "num_held_out": 600,
        "num_generated": 600,
        "num_floor": 600,
        "num_features": 64,
        "loss_train": 0.2,
        "loss_held_out": fid / 1000,
        "loss_source": 0.6,
        "copied": 0.1,
    }


def finished(target, method, seed, fid, recipe=RECIPE, by_step=None, **figures):
    """What is kept of a run."""
    one = quality(fid, **figures)
    by_step = by_step or {str(recipe.steps): {"ema": one}}
    return {
        "target": target,
        "method": method,
        "seed": seed,
        "recipe": vars(recipe),
        "quality": one,
        "by_step": by_step,
        "target_images_seen": 32_000,
        "seconds": {"training": 200.0, "measurement": 40.0},
        "settings": {
            "source": "abc",
            "flags": {"train_batch_size": 32, "seed": seed},
            "weights": sorted({kind for found in by_step.values() for kind in found}),
            "sampling": {"sampler": "DPM-Solver++", "steps": 20, "guidance_scale": 1.5},
        },
        "machine": {"processor": "a processor", "commit": "abc"},
    }


@pytest.fixture
def runs():
    """Diff-Tuning's FID is a tenth lower on one target and three tenths on the other; retention alone is no better."""
    found = []
    for target, gain, base in (("twemoji", 0.1, 100.0), ("openmoji", 0.3, 200.0)):
        for seed in (1, 2, 3):
            standard = base + seed
            found += [
                finished(target, "standard", seed, standard, kid=4.0),
                finished(target, "retention", seed, standard + 5),
                finished(target, "difftune", seed, standard * (1 - gain), kid=3.0),
            ]
    return found


@pytest.fixture
def pretrained():
    return {
        "sets": {name: quality(300.0) | {"precision_floor": 0.6, "recall_floor": 0.6} for name in (SOURCE, *TARGETS)},
        "autoencoder": {name: quality(50.0) for name in (SOURCE, *TARGETS)},
    }


def test_summary_has_the_gains(runs, pretrained):
    found = evidence.summarise(runs, pretrained, RECIPE, FULL)
    assert found["mean_relative_gain"] == pytest.approx(0.2)
    assert found["ci95"] is None  # of two sets
    more = [finished("token-branded", "standard", 1, 100.0), finished("token-branded", "difftune", 1, 80.0)]
    low, high = evidence.summarise(runs + more, pretrained, RECIPE, FULL)["ci95"]
    assert 0.0999 < low < 0.2 < high < 0.3001
    assert found["gain_of_averages"] == pytest.approx(1 - (102 * 0.9 + 202 * 0.7) / (102 + 202))
    expected = [
        np.mean([b * g / (b - 20) for b in bases]) for g, bases in ((0.1, (101, 102, 103)), (0.3, (201, 202, 203)))
    ]
    assert found["over_floor"]["mean_relative_gain"] == pytest.approx(np.mean(expected))
    expected = [
        np.mean([b * g / (b - 50) for b in bases]) for g, bases in ((0.1, (101, 102, 103)), (0.3, (201, 202, 203)))
    ]
    assert found["over_autoencoder"]["mean_relative_gain"] == pytest.approx(np.mean(expected))
    assert found["kid_difference"]["mean"] == pytest.approx(-1.0)
    assert found["better"] == found["num_pairs"] == 6
    assert found["gains"]["retention"]["mean_relative_gain"] < 0 and found["gains"]["retention"]["better"] == 0
    assert "reconsolidation" not in found["gains"]
    standard = found["targets"]["twemoji"]["methods"]["standard"]
    assert standard["fid"] == {"mean": 102.0, "std": 1.0} and standard["num_seeds"] == 3
    assert found["targets"]["twemoji"]["pretrained"]["fid"] == 300.0
    assert found["settings"]["hours"] == pytest.approx(len(runs) / 15)
    json.dumps(found)


def test_runs_of_other_recipes_and_of_the_tuning_set_are_in_no_gain(runs, pretrained):
    expected = evidence.summarise(runs, pretrained, RECIPE, FULL)["mean_relative_gain"]
    other = Recipe(1e-3, 1000, True)
    more = [finished("twemoji", method, 1, fid, other) for method, fid in (("standard", 900.0), ("difftune", 1.0))]
    more += [finished(TUNING_TARGET, method, 11, fid) for method, fid in (("standard", 900.0), ("difftune", 1.0))]
    curve = {step: {"ema": quality(1.0)} for step in ("500", "1000")}
    more.append(finished("openmoji", "difftune", 1, 1.0, by_step=curve))
    assert evidence.summarise(runs + more, pretrained, RECIPE, FULL)["mean_relative_gain"] == expected
    given_up = evidence.summarise(runs + more, pretrained, RECIPE, FULL)["other_recipes"]
    assert [one["recipe"] for one in given_up] == [vars(other)] and given_up[0]["gains"]["difftune"]["num_pairs"] == 1
    alone = [run for run in runs if run["seed"] != 2 or run["method"] != "standard"]
    assert (
        evidence.summarise(alone, pretrained, RECIPE, FULL)["num_pairs"] == 4
    )  # a run without its pair counts for nothing


def more_stages():
    """Runs of stages 2 and 3, and of the tuning."""
    adapter = Recipe(1e-4, 1000, False)
    found = [finished("openmoji", "lora", 1, 170.0, Recipe(1e-3, 1000, False))]
    for seed in (1, 2):
        for target in ("openmoji", "vscode-icons"):
            found += [
                finished(target, "lora", seed, 150.0, adapter),
                finished(target, "lora-difftune", seed, 120.0, adapter),
                finished(target, "weighted", seed, 140.0),
            ]
        found.append(finished("openmoji", "p2", seed, 130.0))
        for method, start in (("standard", 190.0), ("difftune", 180.0)):
            points = {str(step): {"ema": quality(start - step / 100)} for step in (500, 1000, 2000)}
            found.append(finished("openmoji", method, seed, start - 20, Recipe(3e-4, 2000, True), points))
    for rate in (1e-4, 3e-4):
        points = {"500": {"raw": quality(rate * 1e6), "ema": quality(rate * 1e6 - 1)}, "1000": {"raw": quality(500.0)}}
        found.append(finished(TUNING_TARGET, "standard", 11, 1.0, Recipe(rate, 1000, False), points))
        found.append(finished(TUNING_TARGET, "lora", 11, rate * 1e6, Recipe(rate, 1000, False)))
    return found


def test_adapters_are_compared_with_themselves_alone(runs, pretrained):
    found = evidence.summarise(runs + more_stages(), pretrained, RECIPE, FULL)
    chosen, other = found["stage_2"]["adapters"]  # DiffFit and BitFit were not run
    assert (chosen["adapter"], chosen["learning_rate"], chosen["chosen"]) == ("lora", 1e-4, True)
    assert chosen["gain_of_difftune"]["mean_relative_gain"] == pytest.approx(0.2)
    assert (other["learning_rate"], other["chosen"], other["gain_of_difftune"]) == (1e-3, False, None)
    assert other["methods"]["lora"]["targets"]["openmoji"]["fid"]["mean"] == 170.0
    assert found["stage_2"]["variants"]["weighted"]["gain"]["num_pairs"] == 2  # with standard on openmoji
    assert found["mean_relative_gain"] == pytest.approx(0.2)  # stage 1 is what it was
    curve = found["stage_3"]["curves"]["difftune"]
    assert [curve[step]["fid"]["mean"] for step in ("500", "1000", "2000")] == [175.0, 170.0, 160.0]
    assert found["stage_3"]["methods"]["p2"]["fid"]["mean"] == 130.0


def test_weighted_losses_are_in_the_table_once_every_set_has_them(runs, pretrained):
    weighted = [finished(target, "weighted", 1, fid) for target, fid in (("twemoji", 80.0), ("openmoji", 100.0))]
    for count in (1, 2):
        found = evidence.summarise(runs + weighted[:count], pretrained, RECIPE, FULL)
        assert ("| Diff-Tuning, weighted | +" in tables.markdown(found)) == (count == 2)
        said = "with ψ and ξ as weights of the loss (`--coefficients weighted`) 35.5 %. FID"
        assert (said in tables.in_short(found)) == (count == 2)
    stage_4 = plan.stage_4_runs(FULL, RECIPE)
    assert len(set(stage_4)) == 8 * 3 * 4 and {METHODS[run.method].flags["coefficients"] for run in stage_4} == {
        "weighted"
    }
    assert METHODS["retention-weighted"].flags["reconsolidation_power"] == 0.0


def test_recipe_is_the_one_standard_does_best_with():
    tuning = [run for run in more_stages() if run["target"] == TUNING_TARGET and run["method"] == "standard"]
    assert choose.best_recipe(tuning) == Recipe(1e-4, 500, True)
    worse = [finished(TUNING_TARGET, "standard", 12, 1.0, Recipe(1e-4, 1000, False), {"500": {"ema": quality(900.0)}})]
    assert choose.best_recipe(tuning + worse) == Recipe(1e-4, 500, False)  # means over seeds
    adapters = [run for run in more_stages() if run["target"] == TUNING_TARGET and run["method"] == "lora"]
    assert choose.best_adapter_rates(adapters) == {"lora": 1e-4}


def test_tables_say_what_the_summary_says(runs, pretrained):
    text = tables.markdown(evidence.summarise(runs + more_stages(), pretrained, RECIPE, FULL))
    assert "| Diff-Tuning | +20.0 % |" in text and "| 6 of 6 |" in text
    assert "there is none for fewer than 4 pairs or 3 sets" in text
    assert "| twemoji | 20.0 | 50.0 | 300.0 | 102.0 ± 1.0 | 107.0 ± 1.0 | 91.8 ± 0.9 |" in text
    assert "| LoRA, 0.0001 (chosen) | 150.0 ± 0.0 | 150.0 ± 0.0 |  |  |  |  | 0.150 |" in text
    assert "| LoRA + Diff-Tuning, 0.0001 (chosen) | 120.0 ± 0.0 | 120.0 ± 0.0 | +20.0 % |" in text
    assert "| LoRA, 0.001 | 170.0 |" in text
    assert "FID 300.0 (floor 20.0, autoencoder alone 50.0)" in text
    assert "Diff-Tuning, weighted | 140.0" in text and "weighted | +" not in text  # in no table of all sets
    assert "openmoji 250, 600, 600, 600" in text and "guidance 1.5" in text
    assert "| unweighted, 0.0001, moving average | 99.0, 1.00 |" in text
    assert "| untuned source model | 0.200 | 0.300 | 0.600 |  |" in text
    assert "| standard | 0.200 | 0.152 | 0.600 | 10.0 % |" in text
    for found in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):  # as many cells in a row as in its head
        assert len({row.count("|") for row in found.strip().splitlines()}) == 1, found


def test_summary_without_runs_says_so(pretrained):
    found = evidence.summarise([], pretrained, RECIPE, FULL)
    assert found["mean_relative_gain"] is None and "No run of stage 1 is finished yet." in tables.markdown(found)


def test_figures_are_put_between_the_markers(tmp_path, monkeypatch, runs, pretrained):
    assert evidence.BEGIN in evidence.DOCUMENT.read_text() and evidence.END in evidence.DOCUMENT.read_text()
    document, readme, output = tmp_path / "evidence.md", tmp_path / "README.md", tmp_path / "results"
    readme.write_text(f"before\n{evidence.README_BEGIN}\n{evidence.README_END}\nafter\n")
    monkeypatch.setattr(evidence, "README", readme)
    document.write_text(f"before\n{evidence.BEGIN}\nsuperseded\n{evidence.END}\nafter\n")
    monkeypatch.setattr(evidence, "DOCUMENT", document)
    monkeypatch.setattr(evidence, "IMAGES", tmp_path / "images")
    for number, run in enumerate(runs + more_stages()):
        del run["quality"]  # which is that of the last step
        runs_table(output).add({str(number): run})
    (output / "pretrained.json").write_text(json.dumps(pretrained))
    (output / "source_samples.png").write_bytes(b"a picture")
    evidence.write(output, RECIPE, FULL, is_evidence=True)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "superseded" not in text
    for picture in ("transfers_source", "transfers_fid", "transfers_steps"):
        assert f"](../docs/images/{picture}.png)" in text and (tmp_path / "images" / f"{picture}.png").is_file()
    assert json.loads((output / "summary.json").read_text())["mean_relative_gain"] == pytest.approx(0.2)
    assert "FID was 20.0 % lower, where" in readme.read_text()
    evidence.write(output, RECIPE, FULL, is_evidence=True)
    assert document.read_text() == text


def test_what_the_untuned_model_has_is_said(runs, pretrained):
    """It may be nearer to a set than a tuned model; that is no secret."""
    pretrained["sets"]["twemoji"] |= {"fid": 90.0, "loss_held_out": 0.05}
    pretrained["sets"]["openmoji"] |= {"loss_held_out": 0.05}
    found = evidence.summarise(runs, pretrained, RECIPE, FULL)
    said = "a lower FID than standard fine-tuning on 1 of 2 sets (twemoji), and a lower KID on 2 of 2 sets"
    assert said in tables.in_words(found) and said in tables.markdown(found)
    unseen = (91.8 + 141.4) / 2 / 1000  # of Diff-Tuning, see `quality`
    assert f"the untuned model's is {100 * (1 - 0.05 / unseen):.0f} % lower still" in tables.in_short(found)
    for name in ("twemoji", "openmoji"):
        pretrained["sets"][name]["loss_held_out"] = 2 * unseen
    assert "the untuned model's is 100 % higher" in tables.in_short(evidence.summarise(runs, pretrained, RECIPE, FULL))


def test_weighted_losses_on_the_sets_that_did_not_speak_for_them():
    gains = {"twemoji": 0.1, "token-branded": 0.2, "streamline-emojis": 0.3, "openmoji": 0.9}  # the last one did
    runs = [finished(target, "standard", seed, 100.0) for target in gains for seed in (1, 2)]
    runs += [
        finished(target, "weighted", seed, 100.0 * (1 - gain)) for target, gain in gains.items() for seed in (1, 2)
    ]
    runs = [evidence.with_autoencoder(run, quality(50.0)) for run in runs]
    found = evidence.weighted_elsewhere(runs)
    assert found["mean_relative_gain"] == pytest.approx(0.2) and (found["better"], found["num_pairs"]) == (6, 6)
    low, high = stats.t.interval(0.95, 2, 0.2, 0.1 / 3**0.5)
    assert found["t95"] == pytest.approx([low, high], abs=1e-4)
    assert evidence.weighted_elsewhere([run for run in runs if run["target"] in ("twemoji", "openmoji")]) is None
    for freedom, point in evidence.STUDENT.items():
        assert point == pytest.approx(stats.t.ppf(0.975, freedom), abs=5e-4)


def test_the_committed_summary_is_that_of_the_committed_runs():
    summary, untuned = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("summary", "pretrained"))
    made = list(map(with_quality, runs_table(RESULTS).read().values()))
    assert len(made) == summary["settings"]["num_runs"] == 436
    assert evidence.summarise(made, untuned, Recipe(**summary["recipe"]), FULL) == summary


def test_documents_say_what_the_committed_summary_says():
    summary = json.loads((RESULTS / "summary.json").read_text())
    assert tables.markdown(summary) in evidence.DOCUMENT.read_text(encoding="utf-8")
    assert tables.in_short(summary) in evidence.README.read_text(encoding="utf-8")


def test_prose_says_what_the_committed_summary_says():
    """The figures in the words of benchmarks/evidence.md, which are not written by a program."""
    prose = " ".join(evidence.DOCUMENT.read_text(encoding="utf-8").split(evidence.BEGIN)[0].split())
    summary = json.loads((RESULTS / "summary.json").read_text())
    parts = summary["targets"].values()
    ahead = {
        name: sum(part["pretrained"][name] < part["methods"]["standard"][name]["mean"] for part in parts)
        for name in ("fid", "kid")
    }
    word = {2: "two", 4: "four"}
    assert f"by FID to {word[ahead['fid']]} of the eight, by KID to {word[ahead['kid']]}" in prose
    varied = summary["stage_3"]["methods"]
    one, own = varied["weight1"], varied["difftune"]
    copies = [f"{100 * found['copied']['mean']:.0f} %" for found in (one, own)]
    figures = [f"{found['fid']['mean']:.0f}" for found in (one, own)]
    said = f"a retention weight of 1 has {copies[0]} copies and FID {figures[0]}, against {copies[1]} and {figures[1]}"
    assert said in prose
    fewer = [found for found in varied.values() if found["copied"]["mean"] < own["copied"]["mean"] - 0.05]
    assert len(fewer) > 4 and all(found["fid"]["mean"] > own["fid"]["mean"] for found in fewer)
    copied = tables.mean_of([part["methods"]["weighted"] for part in parts], "copied")
    assert f"the lowest FID and {100 * copied:.0f} % copies" in prose


# Runs


def test_documents_say_what_the_committed_reports_say_of_the_chain(tmp_path):
    reports = chain_tables.read_reports()
    text = chain_tables.chain_markdown(reports)
    assert text in evidence.DOCUMENT.read_text(encoding="utf-8")
    for found in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):  # as many cells in a row as in its head
        assert len({row.count("|") for row in found.strip().splitlines()}) == 1, found
    for picture in re.findall(r"\]\((.*?)\)", text):
        assert (evidence.DOCUMENT.parent / picture).is_file()
    report = reports["openmoji", "standard"]
    first = report["losses"]["source"]["thirds"]["near_data"]["mean_change"]
    assert re.search(rf"^\| openmoji, standard, source \| \+{100 * first:.1f} ±", text, re.MULTILINE)


def test_a_swap_that_clearly_matters_is_marked():
    point = {"target": {"fid": 180.04}, "kid_difference_standard_error": 1.0}
    marked = [chain_tables.swapped(point | {"kid_difference": difference}) for difference in (-2.5, -1.0, 1.0, 2.5)]
    assert marked == ["*180.0*", "180.0", "180.0", "**180.0**"]
    itself = point | {"kid_difference": 0.0, "kid_difference_standard_error": 0.0}
    assert chain_tables.swapped(itself) == "180.0"


def test_jobs_go_side_by_side_and_a_failure_shows_the_end_of_its_log(tmp_path, capsys):
    program = "import json, os, sys, time; time.sleep(0.3); found = {'seconds': {'training': 60}}; "
    program += "found['threads'] = os.environ['OMP_NUM_THREADS']; open(sys.argv[1], 'w').write(json.dumps(found))"
    files = [tmp_path / f"{n}.json" for n in range(3)]
    jobs = Jobs(tmp_path / "work", jobs=3, threads=2)
    jobs.make({file: [sys.executable, "-c", program, str(file)] for file in files}, "Result")
    assert all(json.loads(file.read_text())["threads"] == "2" for file in files)
    assert "Result 3/3" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="one stopped with exit code 1(?s:.*)broken"):
        jobs.make({tmp_path / "one.json": [sys.executable, "-c", "raise ValueError('broken')"]}, "Result")


def test_preparations_are_made_once(tmp_path):
    jobs, result = Jobs(tmp_path), tmp_path / "made"
    add = [sys.executable, "-c", f"open({str(result)!r}, 'a').write('x')"]
    jobs.once("thing", add, [result])
    jobs.once("thing", add, [result])
    assert result.read_text() == "x"
    result.unlink()
    jobs.once("thing", add, [result])
    assert result.read_text() == "x"
    jobs.once("thing", [*add, "another argument"], [result])
    assert result.read_text() == "xx"
    with pytest.raises(SystemExit, match="failing stopped with exit code 3"):
        jobs.once("failing", [sys.executable, "-c", "raise SystemExit(3)"])


def test_a_run_is_made_again_when_its_settings_changed(tmp_path, hashes, monkeypatch):
    from benchmarks.transfers import run as program

    monkeypatch.setattr(program, "source_hash", lambda: "abc")
    arguments = argparse.Namespace(
        quick=False, trial=True, targets=None, seeds=None, output=tmp_path, work=tmp_path, jobs=1, threads=1, stage=1
    )
    benchmark = program.Benchmark(arguments)
    one = Run("vscode-icons", "difftune", 1, RECIPE)
    assert not benchmark.done(one)
    file = benchmark.table.file(one.name)
    file.parent.mkdir()
    file.write_text(json.dumps({"settings": one.settings(benchmark.size)}))
    benchmark = program.Benchmark(arguments)
    assert benchmark.done(one) and not benchmark.is_evidence
    benchmark.size = replace(benchmark.size, sampling_steps=3)
    assert not benchmark.done(one)


def test_an_estimate_counts_what_is_missing_and_quick_takes_the_recipe_that_was_chosen(tmp_path, hashes, monkeypatch):
    from benchmarks.transfers import run as program

    monkeypatch.setattr(program, "source_hash", lambda: "abc")
    words = {"targets": None, "seeds": None, "output": None, "work": tmp_path, "jobs": 2, "threads": 1, "stage": 1}
    full = program.Benchmark(argparse.Namespace(quick=False, trial=False, **words | {"output": tmp_path}))
    tuning = len(plan.tuning_runs(FULL))
    assert full.estimate().startswith(f"{tuning + 96} of {tuning + 96} runs are missing; 2 at a time")
    quick = program.Benchmark(argparse.Namespace(quick=True, trial=False, **words))
    assert not quick.is_evidence and quick.output.name == "quick" and RESULTS not in quick.output.parents
    chosen = Recipe(**json.loads((RESULTS / "summary.json").read_text())["recipe"])
    runs = quick.stage_runs(quick.recipe())
    assert {(run.target, run.method, run.seed, run.recipe) for run in runs} == {
        ("streamline-emojis", method, 1, chosen) for method in MAIN
    }
    minutes = int(re.search(r"about (\d+) minutes, data", quick.estimate())[1])
    assert minutes <= 15  # what readers are told


def drawings(path, count, seed):
    """A Parquet file as data.py writes them."""
    generator = np.random.default_rng(seed)
    columns = {"image": [], "label": [], "name": [], "set": []}
    for number in range(count):
        pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        columns["image"].append(PILImage.fromarray(pixels))
        columns["label"].append(number % 3)
        columns["name"].append(str(number))
        columns["set"].append("noise")
    text = {name: Value("string") for name in ("name", "set")}
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"]), **text})
    Dataset.from_dict(columns, features=features).to_parquet(path)


def test_l2sp_goes_back_a_part_of_the_way_but_for_the_classes():
    from benchmarks.transfers import source
    from benchmarks.transfers.l2sp import with_pull

    class Trained:
        model, updates = source.new_transformer(32, 1, 2), 0

        def after_step(self):
            self.updates += 1

    trained = with_pull(lambda *_: Trained(), 0.25)("run", "backbone", None)
    start = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.add_(1)
    trained.after_step()
    for name, parameter in trained.model.named_parameters():
        left = 1 if "class_embedder" in name else 0.75
        assert torch.allclose(parameter - start[name], torch.full_like(parameter, left), atol=1e-5), name
    assert trained.updates == 1


def test_a_copy_stands_out_and_another_drawing_does_not(tmp_path):
    from benchmarks.transfers import generality
    from benchmarks.transfers.measure import read_drawings

    places = Places(tmp_path, tmp_path)
    drawings(tmp_path / "openmoji_train.parquet", 30, 0)
    drawings(tmp_path / "openmoji_held_out.parquet", 100, 1)
    train, held_out = (read_drawings(tmp_path / f"openmoji_{part}.parquet")[0] for part in ("train", "held_out"))
    noisy = (train.int() + torch.randint(-9, 10, train.shape)).clamp(0, 255).to(torch.uint8)
    assert generality.copied(noisy, "openmoji", places)["copied"] > 0.9
    assert generality.copied(held_out, "openmoji", places)["copied"] == pytest.approx(0.01, abs=0.005)


@pytest.fixture
def small_places(tmp_path, monkeypatch):
    """A source model of almost nothing, and room for drawings."""
    from benchmarks.transfers import source

    monkeypatch.setattr(torch.backends.cuda, "enable_flash_sdp", lambda enabled: None)  # is global
    source.save_pipeline(tmp_path / "source", ["x", "y", "z", "u"], source.new_transformer(32, 1, 2))
    places = Places(tmp_path / "work", tmp_path / "data", tmp_path / "source", tmp_path / "source")
    places.data.mkdir()
    return places


def test_one_run_trains_and_measures(tmp_path, monkeypatch, hashes, small_places):
    from benchmarks.transfers import one_run

    places = small_places
    for seed, (part, count) in enumerate({"train": 20, "held_out": 70, "rest": 60}.items()):
        drawings(places.data / f"openmoji_{part}.parquet", count, seed)
    drawings(places.data / "source_held_out.parquet", 10, 3)
    recipe = Recipe(1e-3, 4, True)
    one = Run("openmoji", "reconsolidation", 1, recipe, measured=(4,), both_weights=True)
    fixed = one.settings(TRIAL)
    fixed["flags"] |= {"train_batch_size": 4, "mixed_precision": "no"}
    spec = {"run": settings.to_json(one), "size": settings.to_json(TRIAL), "settings": fixed}
    spec |= {"places": places.to_json(), "output": str(tmp_path / "results" / "one.json")}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    one_run.main([str(tmp_path / "spec.json")])
    found = json.loads((tmp_path / "results" / "one.json").read_text())
    assert found["settings"] == fixed and not found["resumed"] and found["target_images_seen"] == 16
    assert found["by_step"].keys() == {"4"} and found["by_step"]["4"].keys() == {"raw", "ema"}
    assert found["by_step"]["4"]["raw"]["fid"] != found["by_step"]["4"]["ema"]["fid"]  # two models were measured
    last = found["by_step"]["4"]["ema"]
    assert (last["num_train"], last["num_held_out"], last["num_generated"], last["num_floor"]) == (20, 70, 70, 70)
    assert last["fid_floor"] < last["fid"] and last["guidance_scale"] == settings.GUIDANCE
    assert 0 <= last["copied"] <= 1 and min(last[name] for name in evidence.LOSSES) > 0
    assert (
        len({last[name] for name in evidence.LOSSES}) == 3
        and found["by_step"]["4"]["raw"]["loss_train"] != last["loss_train"]
    )
    assert not (places.work / "runs" / one.name).exists()
    assert found["machine"]["commit"] and found["seconds"].keys() == {"training", "measurement"}

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after the training, before its figures are written
        patch.setattr(one_run, "write_bytes_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            one_run.main([str(tmp_path / "spec.json")])
    one_run.main([str(tmp_path / "spec.json")])
    again = json.loads((tmp_path / "results" / "one.json").read_text())
    assert again["resumed"] and again["by_step"] == found["by_step"]


@pytest.mark.slow
def test_the_source_model_is_measured_beside_its_autoencoder(tmp_path, hashes, small_places):
    from benchmarks.transfers import one_run

    places = small_places
    for seed, (part, count) in enumerate({"train": 70, "held_out": 80, "rest": 60}.items()):
        drawings(places.data / f"openmoji_{part}.parquet", count, seed)
        if part != "rest":
            drawings(places.data / f"{SOURCE}_{part}.parquet", count, seed + 5)
    fixed = settings.to_json({"data": {SOURCE: "abc", "openmoji": "abc"}})
    spec = {"run": None, "size": settings.to_json(TRIAL), "settings": fixed}
    spec |= {"places": places.to_json(), "output": str(tmp_path / "results" / "pretrained.json")}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    one_run.main([str(tmp_path / "spec.json")])
    found = json.loads((tmp_path / "results" / "pretrained.json").read_text())
    assert found["sets"].keys() == found["autoencoder"].keys() == {SOURCE, "openmoji"}
    for name, alone in found["autoencoder"].items():
        assert alone["num_generated"] == alone["num_held_out"] == 80 and alone["fid"] > alone["fid_floor"]
        assert alone["fid_floor"] == found["sets"][name]["fid_floor"] and alone["fid"] != found["sets"][name]["fid"]
    assert (tmp_path / "results" / "source_samples.png").is_file()


def test_images_come_back_from_the_autoencoder_as_they_went():
    from benchmarks.transfers.measure import through_autoencoder

    backbone = load_backbone(settings.EMBEDDED)
    backbone.load_encoders(torch.device("cpu"), torch.float32)
    plain = torch.tensor([[0, 0, 0], [255, 255, 255], [200, 30, 60]], dtype=torch.uint8)
    images = plain[:, :, None, None].expand(-1, -1, 32, 32).contiguous()
    back = through_autoencoder(backbone, images, batch_size=2)
    assert back.dtype == torch.uint8 and back.shape == images.shape
    assert (back.float() - images.float()).abs().mean() < 8
    assert torch.equal(through_autoencoder(backbone, images[1:], batch_size=1), back[1:]) or (
        (through_autoencoder(backbone, images[1:], batch_size=1).float() - back[1:].float()).abs().max() <= 1
    )


def test_a_tryout_is_made_again_for_a_guidance_that_it_lacks():
    from benchmarks.transfers import tryout

    assert tryout.known_guidances(None) == set()
    by_step = {"1000": {"by_guidance": {"1.5": {}, "3": {}}}, "2000": {"by_guidance": {"3": {}}}}
    assert tryout.known_guidances({"by_step": by_step}) == {3.0}


def test_tryouts_are_listed_and_unknown_methods_are_refused(capsys):
    from benchmarks.transfers import tryout

    tryout.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    names = set(tryout.TRYOUTS.read())
    assert names and {line.split(", after")[0] for line in lines} == names
    assert all(re.search(r"FID \d+\.\d, KID", line) for line in lines)
    with pytest.raises(SystemExit):
        tryout.main(["difftuned"])
    assert "there is no method difftuned" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tryout.main(["difftune", "--flags", "source_share"])
    assert "--flags source_share is not NAME=VALUE" in capsys.readouterr().err
