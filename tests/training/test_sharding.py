# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Models that are sharded over processes with FSDP2: the same run, the same files, and what cannot be sharded is refused."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, DiTPipeline, StableDiffusionPipeline

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.training.checkpoint_files import what_is_missing
from diffusers_difftune.training.distributed import blocks
from tests.tiny import save_tiny_classes
from tests.tiny_features import save_projection_of_efficientnet
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
    wait_for,
    without_the_steps_after_2,
)
from tests.training.test_launch import ASKED


pytestmark = pytest.mark.slow


CONTROL = "train_controlnet_difftune"
WEIGHTS = "diffusion_pytorch_model.safetensors"
WORKER = Path(__file__).with_name("sharded.py")
# Prompts are encoded by both processes, gradients summed over two micro-steps, and there is everything to be sharded.
FLAGS = (
    "--use_ema --gradient_accumulation_steps 2 --retention_target pretrained --no_cache --checkpointing_steps 2"
    " --validation_prompts drawing --validation_steps 2 --train_batch_size"
)
RESUME = "--resume_from_checkpoint checkpoint-2"


def sharded_command(name: str, *where: object) -> list[str]:
    """The command that runs a script on two processes with the model sharded over them."""
    command = launch(2, name, *arguments(*where))
    script = command.index(str(SCRIPTS / f"{name}.py"))
    return [*command[:script], str(WORKER), *command[script:]]


def run_sharded(name: str, pipeline: Path, images: Path, output: Path, flags: str, **variables: str) -> Path:
    command = sharded_command(name, pipeline, images, output, flags)
    variables = environment() | ASKED | variables
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.fixture(scope="module")
def plain(tiny_pipeline, tiny_images, tmp_path_factory) -> Path:
    """A run that is not sharded."""
    return run(FULL, tiny_pipeline, tiny_images, tmp_path_factory.mktemp("plain"), f"{FLAGS} 6")


@pytest.fixture(scope="module")
def sharded(tiny_pipeline, tiny_images, tmp_path_factory) -> Path:
    """The same run, sharded over two processes; `shards.jsonl` in it says who held what."""
    folder = tmp_path_factory.mktemp("sharded")
    noted = {"NOTED_SHARDS": str(folder / "shards.jsonl")}
    return run_sharded(FULL, tiny_pipeline, tiny_images, folder, f"{FLAGS} 3", **noted)


def test_a_sharded_run_is_the_run_of_one_process(sharded, plain):
    assert_same_run(sharded, plain)
    assert_same_tensors(sharded, plain)
    left = [{path.relative_to(each).as_posix() for path in each.rglob("*")} for each in (sharded, plain)]
    assert left[0] - {"shards.jsonl"} == left[1]
    assert "checkpoint-4/unet_ema/diffusion_pytorch_model.safetensors" in left[0]
    assert "validation/step-4/0.png" in left[0]
    StableDiffusionPipeline.from_pretrained(sharded)
    settings, expected = [
        json.loads((each / "checkpoint-4/unet/config.json").read_text()) for each in (sharded, plain)
    ]
    assert settings == expected and settings["_class_name"] == "UNet2DConditionModel"


def test_each_process_holds_its_share(sharded):
    lines = [json.loads(line) for line in (sharded / "shards.jsonl").read_text().splitlines()]
    assert {(line["what"], line["rank"]) for line in lines} == {
        (what, rank) for what in ("parameters", "gradients", "moments", "average") for rank in (0, 1)
    }
    for line in lines:
        assert 0.4 < line["held"] / line["all"] < 0.6, line


def test_a_sharded_run_that_is_resumed_ends_as_if_it_had_not_stopped(sharded, tiny_pipeline, tiny_images, tmp_path):
    folder = without_the_steps_after_2(sharded, tmp_path / "resumed")
    run_sharded(FULL, tiny_pipeline, tiny_images, folder, f"{FLAGS} 3 {RESUME}")
    assert timeless(folder) == timeless(sharded)
    same_weights(folder, sharded)
    for file in ("optimizer.safetensors", "unet_ema/diffusion_pytorch_model.safetensors"):
        assert (folder / "checkpoint-4" / file).read_bytes() == (sharded / "checkpoint-4" / file).read_bytes()
    image = "validation/step-4/0.png"
    assert (folder / image).read_bytes() == (sharded / image).read_bytes()


def test_either_kind_of_run_goes_on_from_the_other(sharded, plain, tiny_pipeline, tiny_images, tmp_path):
    one = without_the_steps_after_2(sharded, tmp_path / "one")
    (one / "shards.jsonl").unlink()
    two = without_the_steps_after_2(plain, tmp_path / "two")
    run(FULL, tiny_pipeline, tiny_images, one, f"{FLAGS} 6 {RESUME}")
    run_sharded(FULL, tiny_pipeline, tiny_images, two, f"{FLAGS} 3 {RESUME}")
    for folder in (one, two):
        assert_same_run(folder, plain)
        assert_same_tensors(folder, plain)


def test_a_controlnet_is_sharded_and_uploaded_while_it_trains(hub_server, tiny_pipeline, tiny_conditions, tmp_path):
    image = tiny_conditions / "condition-00.png"
    flags = f"--max_train_steps 2 --validation_prompt red --validation_image {image} --validation_steps 1"
    flags += " --gradient_checkpointing --checkpointing_steps 1 --train_batch_size"
    pushed = "--push_to_hub --hub_model_id user/control --hub_strategy every_save"
    one = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "plain", f"{flags} 4")
    two = tmp_path / "sharded"
    run_sharded(CONTROL, tiny_pipeline, tiny_conditions, two, f"{flags} 2 {pushed}", **hub_server.environment())
    torch.testing.assert_close(torch.tensor(losses(two)), torch.tensor(losses(one)), atol=1e-5, rtol=1e-5)
    assert_same_tensors(two, one)
    ControlNetModel.from_pretrained(two)
    assert (two / "config.json").read_text() == (one / "config.json").read_text()
    commits = hub_server.repos["models/user/control"].commits
    assert [WEIGHTS in commit for commit in commits[-2:]] == [True, True]
    assert commits[-2][WEIGHTS] != commits[-1][WEIGHTS] == (two / WEIGHTS).read_bytes()
    assert (two / "validation/step-2/0.png").is_file()


def test_a_dit_is_sharded_and_measured_while_it_trains(tiny_dit, tiny_classes, tmp_path):
    held_out = save_tiny_classes(tmp_path / "held-out", 9)
    projection = save_projection_of_efficientnet(tmp_path / "three.safetensors")
    flags = (
        f"--max_train_steps 2 --use_ema --foreach_ema --skip_nonfinite_steps --evaluation_data {held_out}"
        f" --evaluation_features {projection} --evaluation_samples 8 --evaluation_inference_steps 1 --train_batch_size"
    )
    one = run(CLASS, tiny_dit, tiny_classes, tmp_path / "plain", f"{flags} 4")
    two = run_sharded(CLASS, tiny_dit, tiny_classes, tmp_path / "sharded", f"{flags} 2")
    series, expected = [[line["loss"] for line in log(each) if line["step"]] for each in (two, one)]
    assert len(series) == 2 and series == pytest.approx(expected, rel=1e-5)
    assert_same_tensors(two, one)
    DiTPipeline.from_pretrained(two)
    found, expected = [[line["quality"]["fid"] for line in log(each) if "quality" in line] for each in (two, one)]
    assert len(found) == 2 and found == pytest.approx(expected, rel=1e-3)


def test_a_sharded_run_that_is_asked_to_stop_saves_its_step(tiny_pipeline, tiny_images, tmp_path):
    folder = tmp_path / "run"
    flags = "--objective standard --mixed_precision bf16 --max_train_steps {} --checkpointing_steps 100000 --train_batch_size"
    command = sharded_command(FULL, tiny_pipeline, tiny_images, folder, f"{flags.format(100000)} 2")
    launcher = subprocess.Popen(command, env=environment() | ASKED, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: launcher.poll() is not None or ((folder / "training_log.jsonl").is_file() and log(folder)))
    launcher.terminate()
    said = launcher.communicate(timeout=100)[1]
    (checkpoint,) = folder.glob("checkpoint-*")
    steps = int(checkpoint.name.split("-")[1])
    assert f"Stopped by SIGTERM after step {steps}: {checkpoint.name} is saved" in said
    assert what_is_missing(checkpoint) is None
    flags = f"{flags.format(steps + 1)} 4 --resume_from_checkpoint latest"
    assert len(log(run(FULL, tiny_pipeline, tiny_images, folder, flags))) == steps + 1


def test_blocks_are_gathered_one_by_one(tiny_pipeline, tiny_dit):
    unet, dit = (load_backbone(folder).empty_denoiser() for folder in (tiny_pipeline, tiny_dit))
    assert blocks(unet, None) == ["BasicTransformerBlock", "ResnetBlock2D"]
    assert blocks(dit, None) == ["BasicTransformerBlock"] and blocks(unet, ["UpBlock2D"]) == ["UpBlock2D"]
    with pytest.raises(
        DiffTuneError, match="--fsdp_transformer_layer_cls_to_wrap LlamaLayer, and no module of UNet2D"
    ):
        blocks(unet, ["UpBlock2D", "LlamaLayer"])


def test_accelerate_that_does_not_shard_is_found_out(tiny_pipeline, tiny_images, tmp_path, monkeypatch, capsys):
    """accelerate ignores without a word that a run on one processor asks for FSDP."""
    for name, value in ASKED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        run(FULL, tiny_pipeline, tiny_images, tmp_path)
    said = capsys.readouterr().err
    assert "does not shard here: it found 1 process(es) on cpu; start one process per GPU" in said
    assert stopped.value.code == 2 and not (tmp_path / "training_log.jsonl").exists()
