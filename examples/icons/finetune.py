# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes the embedded icon pipeline by the training script: the one recipe of the demo and the benchmarks."""

import importlib.util
import json
import statistics
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType

import diffusers
import transformers

from diffusers_difftune.cli import main as difftune


HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PIPELINE = HERE / "pipeline"
DATA = HERE / "data"
RESOLUTION = 32
TARGETS = ("fluent-emoji", "flat-color-icons")

# The same for standard fine-tuning and Diff-Tuning; benchmarks/log.md has the search they come from.
RECIPE = {
    "resolution": RESOLUTION,
    "train_batch_size": 32,
    "learning_rate": 3e-4,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "adam_weight_decay": 0.0,
    "random_flip": False,
    "report_to": "none",
    "checkpointing_steps": 1_000_000,
}
STEPS = 300  # optimiser steps
BANK = {"bank_samples": 256, "bank_steps": 25, "bank_batch_size": 32}


def target_file(target: str, part: str) -> Path:
    """The Parquet file of a target set; `part` is `"train"` or `"held_out"`."""
    return DATA / f"{target.replace('-', '_')}_{part}.parquet"


def load_script(name: str) -> ModuleType:
    """A program of `training_scripts/` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "training_scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command_line(flags: dict) -> list[str]:
    """Flags as a command line: `True` is the bare flag, `False` and `None` leave it out."""
    argv = []
    for name, value in flags.items():
        if value is True:
            argv.append(f"--{name}")
        elif value is not None and value is not False:
            argv += [f"--{name}", str(value)]
    return argv


def finetune(
    output_dir: Path,
    target: str,
    objective: str,
    steps: int,
    seed: int,
    pretrained: Path = PIPELINE,
    script: str = "train_text_to_image_difftune",
    **flags,
) -> dict[str, float]:
    """Runs the training script in this process.

    Args:
        output_dir (`Path`): The run folder.
        target (`str`): One of `TARGETS`.
        objective (`str`): `"standard"` or `"difftune"`.
        steps (`int`): Optimiser steps.
        seed (`int`): Seed of the run.
        pretrained (`Path`, *optional*): The pipeline to start from.
        script (`str`, *optional*): Which training script.
        flags: More flags of the script, in place of the recipe's.

    Returns:
        `dict[str, float]`: `seconds` of the whole run, and the median of its `images_per_second`.
    """
    started = time.perf_counter()
    argv = command_line(
        {
            "pretrained_model_name_or_path": pretrained,
            "train_data_dir": target_file(target, "train"),
            "output_dir": output_dir,
            "objective": objective,
            "max_train_steps": steps,
            "seed": seed,
        }
        | RECIPE
        | flags
    )
    load_script(script).main(argv)
    return {"seconds": time.perf_counter() - started, "images_per_second": images_per_second(output_dir)}


def build_bank(folder: Path, target: str, pretrained: Path = PIPELINE, **flags) -> Path:
    """Runs `difftune bank build` in this process, with prompts from the target captions.

    Args:
        folder (`Path`): The bank's folder. A bank of the same settings that is there is gone on with, or left as it is.
        target (`str`): One of `TARGETS`.
        pretrained (`Path`, *optional*): The pipeline to sample.
        flags: More flags of the command, in place of those of `BANK`.

    Returns:
        `Path`: The folder.
    """
    argv = {
        "pretrained_model_name_or_path": pretrained,
        "train_data_dir": target_file(target, "train"),
        "output_dir": folder,
        "resolution": RESOLUTION,
    }
    if code := difftune(["bank", "build", *command_line(argv | BANK | flags)]):
        sys.exit(code)  # it said why
    return folder


def quiet() -> None:
    """The libraries' own bars and hints would drown what is being done."""
    for library in (diffusers.utils.logging, transformers.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")


def images_per_second(output_dir: Path) -> float:
    """The median rate of a run; the first ten steps, slower on every machine, count only if there are no others."""
    lines = [json.loads(line) for line in (output_dir / "training_log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["step"]]  # a ControlNet's log begins with a measurement before the first
    later = [line for line in steps if line["step"] > 10] or steps
    return statistics.median(line["images_per_second"] for line in later)
