# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The commands for `train_controlnet.py` in the README of diffusers' ControlNet example, given to our script.

They are those of the commit in `tests/config/upstream_flags/train_controlnet.json`. What is changed, and nothing else: the name
of the script; a folder in place of the data set's id, with the same columns and ten rows, so that an epoch is short; the
resolution, because the tiny pipeline's VAE makes images only two times smaller; and where the training runs, for which
flags of `accelerate launch` are left out.
"""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from diffusers import ControlNetModel

from diffusers_difftune.config.parse import parse_config
from tests.tiny import tiny_condition, tiny_image

from .runs import ROOT, SCRIPTS, load_script, log


CONTROL = "train_controlnet_difftune"
WHERE = "--pretrained_model_name_or_path=$MODEL_DIR --output_dir=$OUTPUT_DIR --dataset_name=fusing/fill50k"
VALIDATION = (
    '--validation_image "./conditioning_image_1.png" "./conditioning_image_2.png"'
    ' --validation_prompt "red circle with blue background" "cyan circle with brown floral background"'
)
ONE_BY_ONE = "--train_batch_size=1 --gradient_accumulation_steps=4"
RATE = "--learning_rate=1e-5"
COMMANDS = {
    "first": f"{WHERE} --resolution=512 {RATE} {VALIDATION} --train_batch_size=4",
    "20 GB": f"{WHERE} --resolution=512 {RATE} {VALIDATION} {ONE_BY_ONE}",
    "several GPUs": (
        f"{WHERE} --resolution=512 {RATE} {VALIDATION} --train_batch_size=4"
        ' --mixed_precision="fp16" --tracker_project_name="controlnet-demo" --report_to=wandb'
    ),
    "16 GB": f"{WHERE} --resolution=512 {RATE} {VALIDATION} {ONE_BY_ONE} --gradient_checkpointing --use_8bit_adam",
    "12 GB": (
        f"{WHERE} --resolution=512 {RATE} {VALIDATION} {ONE_BY_ONE} --gradient_checkpointing --use_8bit_adam"
        " --enable_xformers_memory_efficient_attention --set_grads_to_none"
    ),
    "8 GB": (
        f"{WHERE} --resolution=512 {VALIDATION} {ONE_BY_ONE} --gradient_checkpointing"
        " --enable_xformers_memory_efficient_attention --set_grads_to_none --mixed_precision fp16"
    ),
}
# What a machine without a GPU, or without these packages, has no use for, and the package that is named.
ELSEWHERE = {
    "--use_8bit_adam": "bitsandbytes",
    "--enable_xformers_memory_efficient_attention": "xformers",
    "--report_to=wandb": "wandb",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to stand in: control images for validation, and a data set like fill50k."""
    folder = tmp_path_factory.mktemp("here")
    for i in (1, 2):
        tiny_condition(i).save(folder / f"conditioning_image_{i}.png")
    pairs = [tiny_image(i) for i in range(10)]
    columns = {
        "image": [image for image, _ in pairs],
        "conditioning_image": [tiny_condition(i) for i in range(10)],
        "text": [caption for _, caption in pairs],
    }
    (folder / "fill50k").mkdir()
    datasets.Dataset.from_dict(columns).to_parquet(folder / "fill50k" / "train.parquet")
    return folder


def ours(command: str) -> str:
    return command.replace("fusing/fill50k", "./fill50k").replace("--resolution=512", "--resolution=16")


def words(command: str, pipeline: Path, output: Path) -> list[str]:
    """The words of a command, as a shell would pass them on."""
    return shlex.split(command.replace("$MODEL_DIR", str(pipeline)).replace("$OUTPUT_DIR", str(output)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first", "20 GB"])
def test_the_first_two_commands_run(name: str, place: Path, tiny_pipeline: Path) -> None:
    """Through a shell and `accelerate launch`."""
    output = place / f"path to save {name}".replace(" ", "-")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MODEL_DIR": str(tiny_pipeline), "OUTPUT_DIR": str(output)}
    launch = f"{shlex.quote(sys.executable)} -m accelerate.commands.launch --num_processes 1"
    command = f"{launch} {shlex.quote(str(SCRIPTS / CONTROL))}.py {ours(COMMANDS[name])}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=place, env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert tuple(ControlNetModel.from_pretrained(output).config.block_out_channels) == (4, 8)
    lines = log(output)
    assert len(lines) == 4, "ten rows at least once, 3.2 a step beside those of the bank"
    assert {line["samples_seen"] for line in lines} == {4, 8, 12, 16} and lines[0]["lr"] == 1e-5
    made = {path.name for path in (output / "validation" / "step-4").iterdir()}
    assert made == {f"{i}{suffix}.png" for i in range(8) for suffix in ("", "-condition")}, "four of each pair"
    card = (output / "README.md").read_text()
    assert "red circle with blue background" in card and "cyan circle with brown floral background" in card
    assert any((output / "logs" / "train_controlnet").iterdir()), "to tensorboard, as there"


@pytest.mark.parametrize("name", list(COMMANDS)[2:])
def test_the_others_are_parsed_refused_in_a_sentence_or_started(
    name: str,
    place: Path,
    tiny_pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    script = load_script(CONTROL)
    argv = words(COMMANDS[name], Path("stable-diffusion-v1-5/stable-diffusion-v1-5"), tmp_path)
    config = parse_config(script.ControlNetConfig, argv)
    assert config.pretrained_model_name_or_path == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert (config.dataset_name, config.resolution) == ("fusing/fill50k", 512)
    assert config.learning_rate == (5e-6 if name == "8 GB" else 1e-5)
    assert config.validation_image == ["./conditioning_image_1.png", "./conditioning_image_2.png"]
    assert config.validation_prompt[1] == "cyan circle with brown floral background"
    assert config.train_batch_size * config.gradient_accumulation_steps == 4

    monkeypatch.chdir(place)
    argv = words(ours(COMMANDS[name]), tiny_pipeline, tmp_path / "run")
    there = importlib.util.find_spec
    packages = ELSEWHERE.values()
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n in packages else there(n, *rest))
    for flag in [flag for flag in argv if flag in ELSEWHERE]:
        with pytest.raises(SystemExit) as caught:
            script.main(argv)
        assert caught.value.code == 2
        told = capsys.readouterr().err.strip()
        assert told.startswith("error: --") and told.count("\n") == 0
        package = next(each for each in packages if each in told)
        argv.remove(next(flag for flag, each in ELSEWHERE.items() if each == package))
    if any("fp16" in word for word in argv):  # for a GPU
        with pytest.raises(SystemExit):
            script.main(argv)
        assert "error: --mixed_precision is fp16" in capsys.readouterr().err
        argv = [word.replace("fp16", "bf16") for word in argv]
    script.main([*argv, "--max_train_steps", "1", "--num_validation_images", "1", "--bank_steps", "2"])
    assert len(log(tmp_path / "run")) == 1 and ControlNetModel.from_pretrained(tmp_path / "run")
