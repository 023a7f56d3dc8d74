# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Running the training scripts on the tiny pipeline, and reading what they left."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file

from diffusers_difftune import (
    ClassConditionalTrainer,
    ControlNetTrainer,
    TextToImageLoraTrainer,
    TextToImageTrainer,
)
from diffusers_difftune.config.shared import TrainingConfig


ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "training_scripts"
FULL = "train_text_to_image_difftune"
LORA = "train_text_to_image_lora_difftune"
CLASS = "train_class_conditional_difftune"

# Small and fast; a test's own flags come later on the command line and win.
FLAGS = (
    "--resolution 16 --train_batch_size 4 --max_train_steps 4 --bank_steps 2 --bank_batch_size 4 --seed 0"
    " --learning_rate 1e-3 --adam_weight_decay 0 --lr_warmup_steps 0 --report_to none"
)
MANY = "--objective standard --max_train_steps {} --checkpointing_steps 100000"  # until it is stopped


def load_script(name: str) -> ModuleType:
    """A training script as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def check_flags(config: TrainingConfig) -> None:
    """What the trainer of a config checks before anything is opened."""
    trainers = (TextToImageTrainer, TextToImageLoraTrainer, ControlNetTrainer, ClassConditionalTrainer)
    trainer = next(each for each in trainers if each.config_class is type(config))
    trainer(config).check_flags()


def arguments(pipeline: Path, images: Path, output: Path, flags: str = "") -> list[str]:
    data = "" if "--dataset_name" in flags else f"--train_data_dir {images}"
    places = f"--pretrained_model_name_or_path {pipeline} {data} --output_dir {output}"
    return f"{places} {FLAGS} {flags}".split()


def run(name: str, pipeline: Path, images: Path, output: Path, flags: str = "") -> Path:
    """Runs a script in this process and returns its run folder."""
    load_script(name).main(arguments(pipeline, images, output, flags))
    return output


def launch(count: int, name: str, *words: object) -> list[str]:
    """The command that runs a script on several processes of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    return [*command, str(SCRIPTS / f"{name}.py"), *map(str, words)]


def environment() -> dict[str, str]:
    """The environment of a script in a process of its own."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def run_on_processes(count: int, name: str, pipeline: Path, images: Path, output: Path, flags: str = "") -> Path:
    """Runs a script on several processes of this machine."""
    command = launch(count, name, *arguments(pipeline, images, output, flags))
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def wait_for(condition: Callable[[], Any], seconds: float = 200.0) -> Any:
    """What a condition is, once it is something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def log(run_folder: Path) -> list[dict]:
    """The lines of the loss log."""
    return [json.loads(line) for line in (run_folder / "training_log.jsonl").read_text().splitlines()]


def losses(run_folder: Path) -> list[tuple[float, float, float]]:
    """The loss series: total, reconsolidation, retention."""
    return [(line["loss"], line["loss_reconsolidation"], line["loss_retention"]) for line in log(run_folder)]


def unet(folder: Path) -> dict:
    """The UNet's weights in a run folder or a pipeline."""
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def transformer(folder: Path) -> dict:
    """The transformer's weights in a run folder or a pipeline."""
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def timeless(run_folder: Path) -> list[dict]:
    """The loss log without what a clock says."""
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in log(run_folder)]


def assert_same_run(folder: Path, other: Path) -> None:
    """Asserts that two runs differ by no more than what rounding sums in another order makes."""
    series, expected = torch.tensor(losses(folder)), torch.tensor(losses(other))
    assert series.shape == expected.shape
    torch.testing.assert_close(series, expected, atol=1e-5, rtol=1e-5)
    for name, weight in unet(other).items():
        torch.testing.assert_close(unet(folder)[name], weight, atol=1e-4, rtol=1e-4)


def same_weights(folder: Path, other: Path) -> None:
    """Asserts that two runs' results are the same, bit for bit."""
    results = [path.relative_to(other) for path in other.rglob("*.safetensors") if "checkpoint" not in str(path)]
    assert results
    for path in results:
        tensors, expected = load_file(folder / path), load_file(other / path)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected), path


def without_the_steps_after_2(folder: Path, copy: Path) -> Path:
    """A copy of a run of four steps as if it had been stopped after its second."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "checkpoint-4")
    shutil.rmtree(copy / "validation" / "step-4")
    return copy


def assert_same_tensors(folder: Path, other: Path) -> None:
    """Asserts that two runs left the same files of tensors, up to what rounding makes of them in a few steps of AdamW."""
    files = {path.relative_to(other) for path in other.rglob("*.safetensors") if "knowledge_bank" not in str(path)}
    assert files == {path.relative_to(folder) for path in folder.rglob("*.safetensors") if "bank" not in str(path)}
    for file in files:
        tensors, expected = load_file(folder / file), load_file(other / file)
        torch.testing.assert_close(tensors, expected, atol=2e-5, rtol=1e-4)
