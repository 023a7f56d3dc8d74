# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Measuring the quality of samples while a run trains."""

import importlib.util
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from diffusers_difftune.cli import main as difftune
from diffusers_difftune.evaluation.features import Features
from diffusers_difftune.evaluation.samples import sample_images
from tests.tiny import save_tiny_classes, save_tiny_images
from tests.tiny_features import save_projection_of_efficientnet
from tests.training.runs import FULL, LORA, log, run, run_on_processes


CLASSES = "train_class_conditional_difftune"


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> str:
    """Measures after two steps and at the end."""
    folder = tmp_path_factory.mktemp("held-out")
    save_tiny_images(folder / "data", 9)
    projection = save_projection_of_efficientnet(folder / "three.safetensors")
    return (
        f"--evaluation_data {folder / 'data'} --evaluation_features {projection} --evaluation_samples 8"
        " --evaluation_inference_steps 2 --evaluation_steps 2 --evaluation_guidance_scale 2 --objective standard"
    )


def quality(folder: Path) -> dict[int, dict[str, float]]:
    return {line["step"]: line["quality"] for line in log(folder) if "quality" in line}


def evaluated(pipeline: Path, flags: str, output: Path, *more: str) -> dict[str, float]:
    """What `difftune evaluate` finds with the same settings."""
    words = flags.split()
    given = {name.removeprefix("--evaluation_"): value for name, value in zip(words[::2], words[1::2])}
    command = ["evaluate", str(pipeline), given["data"], "--num_images", given["samples"]]
    command += ["--features", given["features"], "--steps", given["inference_steps"], "--clip_model", "none"]
    command += ["--guidance_scale", given["guidance_scale"], "--batch_size", "4", "--output", str(output), *more]
    assert difftune(command) == 0
    return json.loads(output.read_text())["results"][-1]


@pytest.mark.parametrize("script", [FULL, LORA])
def test_the_weights_that_would_be_saved_are_measured(script, flags, tiny_pipeline, tiny_images, tmp_path, caplog):
    caplog.set_level(logging.INFO, "diffusers_difftune.training.evaluation")
    more = " --use_ema --lr_scheduler constant" if script == FULL else " --rank 2"
    folder = run(script, tiny_pipeline, tiny_images, tmp_path / "run", flags + more)
    found = quality(folder)
    assert [*found] == [0, 2, 4]
    start = evaluated(tiny_pipeline, flags, tmp_path / "start.json")
    end = (
        evaluated(folder, flags, tmp_path / "end.json")
        if script == FULL
        else evaluated(tiny_pipeline, flags, tmp_path / "end.json", "--adapter", str(folder))
    )
    for name in ("fid", "kid", "kid_std", "precision", "recall", "num_real", "num_generated"):
        assert found[0][name] == pytest.approx(start[name], rel=1e-4), f"the pretrained model's {name}"
        assert found[4][name] == pytest.approx(end[name], rel=1e-4), f"the result's {name}"
    assert found[4]["fid"] != found[0]["fid"]
    first, last = found[0], found[4]
    told = [record.getMessage() for record in caplog.records if record.name.endswith("training.evaluation")]
    assert [line.split(":")[0] for line in told] == ["Step 0", "Step 2", "Step 4"], "a line for each measurement"
    assert told[0] == (
        f"Step 0: FID {first['fid']:.2f}, KID {first['kid']:.5f} ± {first['kid_std']:.5f}, precision"
        f" {first['precision']:.3f}, recall {first['recall']:.3f}"
    )
    start = f"{first['fid']:.2f}, {first['kid']:.5f}, {first['precision']:.3f}, {first['recall']:.3f}"
    assert told[2].startswith(f"Step 4: FID {last['fid']:.2f}, KID") and told[2].endswith(f" (at the start {start})")


def test_a_resumed_run_measures_on_in_the_same_way_and_may_cease_to(
    flags, tiny_pipeline, tiny_images, tmp_path, capsys
):
    whole = run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", flags + " --checkpointing_steps 3")
    measured = quality(whole)
    assert [*measured] == [0, 2, 4]
    resume = f" --resume_from_checkpoint {whole / 'checkpoint-3'}"
    resumed = run(FULL, tiny_pipeline, tiny_images, whole, flags + resume)
    assert quality(resumed) == measured
    with pytest.raises(SystemExit):  # else the card would compare figures of two kinds
        run(FULL, tiny_pipeline, tiny_images, whole, f"{flags}{resume} --evaluation_guidance_scale 4.5")
    said = capsys.readouterr().err
    assert "belongs to another run: --evaluation_guidance_scale was 2.0 and is 4.5;" in said
    shutil.copytree(whole / "checkpoint-3", tmp_path / "checkpoint-3")
    without = f"--objective standard --resume_from_checkpoint {tmp_path / 'checkpoint-3'}"
    assert len(log(run(FULL, tiny_pipeline, tiny_images, tmp_path / "other", without))) == 1


@pytest.mark.slow
def test_two_processes_measure_once_and_go_on(flags, tiny_pipeline, tiny_images, tmp_path):
    flags += " --max_train_steps 1"
    one = run(FULL, tiny_pipeline, tiny_images, tmp_path / "one", flags)
    two = run_on_processes(2, FULL, tiny_pipeline, tiny_images, tmp_path / "two", flags + " --train_batch_size 2")
    assert [*quality(two)] == [0, 1]
    for step in (0, 1):  # another batch size: the order of sums
        assert quality(two)[step]["fid"] == pytest.approx(quality(one)[step]["fid"], rel=0.05)


def test_classes_are_sampled_under_their_own_ids(tiny_dit, tiny_classes, tmp_path, monkeypatch):
    held_out = save_tiny_classes(tmp_path / "held-out", 30)
    shutil.rmtree(held_out / "ash")  # so that ids among held-out classes are others than in training
    projection = save_projection_of_efficientnet(tmp_path / "three.safetensors")
    asked: list[str] = []

    def watched(pipeline, prompts, **given):
        asked.extend(prompts)
        return sample_images(pipeline, prompts, **given)

    monkeypatch.setattr("diffusers_difftune.evaluation.sample_quality.sample_images", watched)
    flags = f"--evaluation_data {held_out} --evaluation_features {projection} --evaluation_samples 8"
    flags += " --evaluation_inference_steps 2 --objective standard --max_train_steps 1"
    folder = run(CLASSES, tiny_dit, tiny_classes, tmp_path / "run", flags)
    assert [*quality(folder)] == [0, 1]
    names = json.loads((folder / "model_index.json").read_text())["id2label"]
    assert {names[prompt] for prompt in asked} == {"elm", "oak"} and len(asked) == 16


def test_torchmetrics_is_asked_for_before_anything_begins(
    flags, tiny_pipeline, tiny_images, tmp_path, monkeypatch, capsys
):
    there = importlib.util.find_spec
    absent = lambda name, *rest: None if name == "torchmetrics" else there(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(SystemExit):
        run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", flags)
    assert "--evaluation_data needs the package torchmetrics; install it with" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_features_leave_the_accelerator_between_measurements(flags, tiny_pipeline, tiny_images, tmp_path, monkeypatch):
    left = []

    def watched(self: Features) -> Features:
        left.append(self)
        return torch.nn.Module.cpu(self)

    monkeypatch.setattr(Features, "cpu", watched, raising=False)
    run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", flags + " --max_train_steps 1")
    assert len(left) == 3, "after the held-out images and after each measurement"
