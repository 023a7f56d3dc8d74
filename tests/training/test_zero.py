# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of which DeepSpeed spreads the optimiser over processes: the same run, the same files, and what cannot be had is refused."""

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import ControlNetModel, DiTPipeline, StableDiffusionPipeline

from diffusers_difftune.training.launch import sharded_by
from tests.training.runs import (
    CLASS,
    FULL,
    SCRIPTS,
    arguments,
    assert_same_run,
    assert_same_tensors,
    environment,
    launch,
    log,
    losses,
    run,
    same_weights,
    timeless,
    transformer,
    unet,
    without_the_steps_after_2,
)
from tests.training.test_launch import as_file, asked
from tests.training.test_not_finite import spoil


pytestmark = pytest.mark.slow


CONTROL = "train_controlnet_difftune"
WORKER = Path(__file__).with_name("sharded.py")
FLAGS = (
    "--use_ema --gradient_accumulation_steps 2 --retention_target pretrained --no_cache --checkpointing_steps 2"
    " --validation_prompts drawing --validation_steps 2 --train_batch_size"
)
RESUME = "--resume_from_checkpoint checkpoint-2"
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


def run_spread(stage: int, name: str, *where: object, **variables: str) -> None:
    """Runs a script on two processes with a stage of ZeRO and what `sharded.py` can do."""
    command = launch(2, name, *arguments(*where))
    command.insert(command.index(str(SCRIPTS / f"{name}.py")), str(WORKER))
    done = subprocess.run(command, env=environment() | asked(stage, **variables), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def plain(tiny_pipeline, tiny_images, tmp_path_factory) -> Path:
    """A run of one process."""
    return run(FULL, tiny_pipeline, tiny_images, tmp_path_factory.mktemp("plain"), f"{FLAGS} 6")


@pytest.fixture(scope="module", params=[1, 2])
def spread(request, tiny_pipeline, tiny_images, tmp_path_factory) -> Path:
    """The same run on two processes with a stage of ZeRO; `shards.jsonl` in it says who held what."""
    folder = tmp_path_factory.mktemp(f"stage-{request.param}")
    noted = {"NOTED_SHARDS": str(folder / "shards.jsonl"), "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}
    run_spread(request.param, FULL, tiny_pipeline, tiny_images, folder, f"{FLAGS} 3", **noted)
    return folder


@needs_deepspeed
def test_a_run_with_deepspeed_is_the_run_of_one_process(spread, plain):
    assert_same_run(spread, plain)
    assert_same_tensors(spread, plain)
    left = [{path.relative_to(each).as_posix() for path in each.rglob("*")} for each in (spread, plain)]
    assert left[0] - {"shards.jsonl"} == left[1]
    StableDiffusionPipeline.from_pretrained(spread)


@needs_deepspeed
def test_each_process_holds_its_share(spread):
    lines = [json.loads(line) for line in (spread / "shards.jsonl").read_text().splitlines()]
    held = {(line["what"], line["rank"]): line["held"] for line in lines}
    whole = sum(weight.numel() for weight in unet(spread).values())
    assert held["average", 0] == held["average", 1] == whole
    for what in ("gradients", "moments"):
        assert [round(held[what, rank] / whole, 2) for rank in (0, 1)] == [0.5, 0.5], what


@needs_deepspeed
def test_a_run_that_is_resumed_ends_as_if_it_had_not_stopped(spread, tiny_pipeline, tiny_images, tmp_path):
    folder = without_the_steps_after_2(spread, tmp_path / "resumed")
    stage = int(spread.name.split("-")[1][0])
    run_spread(stage, FULL, tiny_pipeline, tiny_images, folder, f"{FLAGS} 3 {RESUME}")
    assert timeless(folder) == timeless(spread)
    same_weights(folder, spread)
    for file in ("optimizer.safetensors", "unet_ema/diffusion_pytorch_model.safetensors"):
        assert (folder / "checkpoint-4" / file).read_bytes() == (spread / "checkpoint-4" / file).read_bytes()


@needs_deepspeed
def test_either_kind_of_run_goes_on_from_the_other(spread, plain, tiny_pipeline, tiny_images, tmp_path):
    one = without_the_steps_after_2(spread, tmp_path / "one")
    (one / "shards.jsonl").unlink()
    run(FULL, tiny_pipeline, tiny_images, one, f"{FLAGS} 6 {RESUME}")
    two = without_the_steps_after_2(plain, tmp_path / "two")
    stage = int(spread.name.split("-")[1][0])
    run_spread(stage, FULL, tiny_pipeline, tiny_images, two, f"{FLAGS} 3 {RESUME}")
    for folder in (one, two):
        assert_same_run(folder, plain)
        assert_same_tensors(folder, plain)


@needs_deepspeed
def test_a_step_without_a_finite_gradient_is_left_out(tiny_pipeline, tiny_images, tmp_path, monkeypatch):
    flags = "--objective standard --dream_training --use_ema --adam_weight_decay 0.01 --max_grad_norm 0.1 --lr_scheduler linear"
    flags += " --max_train_steps 3 --checkpointing_steps 3 --skip_nonfinite_steps --train_batch_size"
    with monkeypatch.context() as patch:
        spoil(patch, range(2, 3), "gradient")
        one = run(FULL, tiny_pipeline, tiny_images, tmp_path / "plain", f"{flags} 4")
    run_spread(2, FULL, tiny_pipeline, tiny_images, tmp_path / "spread", f"{flags} 2", SPOILED="2")
    two = tmp_path / "spread"
    series, expected = ([line["loss"] for line in log(each)] for each in (two, one))
    assert len(series) == 3 and series == pytest.approx(expected, rel=1e-5)
    assert_same_tensors(two, one)
    states = [json.loads((each / "checkpoint-3/training_state.json").read_text()) for each in (two, one)]
    assert states[0]["lr_scheduler"]["last_epoch"] == states[1]["lr_scheduler"]["last_epoch"] == 2


@needs_deepspeed
def test_a_gradient_that_is_not_finite_ends_the_run(tiny_pipeline, tiny_images, tmp_path):
    with pytest.raises(AssertionError, match="Step 2: the gradient is not finite, though the losses are"):
        run_spread(1, FULL, tiny_pipeline, tiny_images, tmp_path, "--objective standard", SPOILED="2")


@needs_deepspeed
def test_a_controlnet_is_uploaded_with_its_checkpoint(hub_server, tiny_pipeline, tiny_conditions, tmp_path):
    image = tiny_conditions / "condition-00.png"
    flags = f"--max_train_steps 2 --validation_prompt red --validation_image {image} --validation_steps 1"
    flags += " --gradient_checkpointing --checkpointing_steps 1 --train_batch_size"
    pushed = "--push_to_hub --hub_model_id user/control --hub_strategy checkpoint"
    one = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "plain", f"{flags} 4")
    two = tmp_path / "spread"
    run_spread(2, CONTROL, tiny_pipeline, tiny_conditions, two, f"{flags} 2 {pushed}", **hub_server.environment())
    torch.testing.assert_close(torch.tensor(losses(two)), torch.tensor(losses(one)), atol=1e-5, rtol=1e-5)
    ControlNetModel.from_pretrained(two)
    files = hub_server.repos["models/user/control"].commits[-1]
    assert any(name.endswith("optimizer.safetensors") for name in files)
    assert {Path(name).suffix for name in files} <= {".json", ".jsonl", ".md", ".png", ".safetensors", ".svg", ""}
    assert not [name for name, content in files.items() if content[:1] == b"\x80" or content[:2] == b"PK"]


@needs_deepspeed
def test_a_dit_is_trained_in_the_precision_that_it_would_have(tiny_dit, tiny_classes, tmp_path):
    flags = "--max_train_steps 1 --gradient_checkpointing --mixed_precision bf16 --train_batch_size"
    one = run(CLASS, tiny_dit, tiny_classes, tmp_path / "plain", f"{flags} 4")
    two = tmp_path / "spread"
    run_spread(1, CLASS, tiny_dit, tiny_classes, two, f"{flags} 2")
    assert log(two)[0]["loss"] == pytest.approx(log(one)[0]["loss"], rel=1e-5)  # float32 differs by 3e-5
    assert {weight.dtype for weight in transformer(two).values()} == {torch.float32}
    DiTPipeline.from_pretrained(two)


@needs_deepspeed
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            "",
            "asks for DeepSpeed, and accelerate does not shard here: it found 1 process(es) on cpu; start one process",
        ),
        ("--mixed_precision fp16", "fp16 does not go with DeepSpeed, which has no loss scaler here; use bf16 or no."),
    ],
)
def test_what_the_processes_cannot_do_is_refused(
    flags, sentence, tiny_pipeline, tiny_images, tmp_path, monkeypatch, capsys
):
    everything = as_file(
        bf16={"enabled": "auto"},
        gradient_accumulation_steps=1,
        gradient_clipping=1.0,
        train_batch_size="auto",
        train_micro_batch_size_per_gpu=4,
        zero_optimization={
            "stage": 2,
            "overlap_comm": True,
            "reduce_bucket_size": "auto",
            "offload_param": {"device": "none"},
            "round_robin_gradients": False,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    )
    told, initialize = [], Accelerator.__init__
    with monkeypatch.context() as patch:
        patch.setattr(
            Accelerator, "__init__", lambda *args, **flags: told.append(sharded_by()) or initialize(*args, **flags)
        )
        assert sentence in refusal(FULL, everything, flags, tiny_pipeline, tiny_images, tmp_path, monkeypatch, capsys)
    assert told == [None] and sharded_by() == "DeepSpeed"


def refusal(script, variables, flags, pipeline, images, folder, monkeypatch, capsys) -> str:
    """What a run says that is refused before it has done anything."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        run(script, pipeline, images, folder, flags)
    assert stopped.value.code == 2 and not (folder / "training_log.jsonl").exists()
    return capsys.readouterr().err
