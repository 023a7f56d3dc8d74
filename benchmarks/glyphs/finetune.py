# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""One fine-tuning of the source model, by the project's own training script."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from .settings import DATA, MADE_OF, RECIPE, ROOT, SOURCE_MODEL, WORK


SCRIPT = ROOT / "training_scripts" / "train_class_conditional_difftune.py"


def finetune(name: str, count: int, seed: int, flags: dict[str, Any], folder: Path) -> Path:
    """Fine-tunes the source model on a target; what a folder holds of the same run is taken as it is, or gone on with.

    Args:
        name (`str`): The target.
        count (`int`): Training images, 100 or 1,000.
        seed (`int`): Of the images, the batches and the noise.
        flags (`dict[str, Any]`): What the method sets, and its rate.
        folder (`Path`): Where to.

    Returns:
        `Path`: The folder of the pipeline, with the moving average of the weights.
    """
    settings = RECIPE | flags | {"seed": seed, "train_data_dir": str(DATA / f"{name}_train_{count}_{seed}.parquet")}
    note = folder / "settings.json"
    written = json.dumps(settings | {"source": (SOURCE_MODEL / MADE_OF).read_text()}, indent=1)
    if not (note.is_file() and note.read_text() == written):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        note.write_text(written)
    if not (folder / "model_index.json").is_file():
        places = {"pretrained_model_name_or_path": SOURCE_MODEL, "output_dir": folder, "cache_dir": WORK / "cache"}
        more = {"checkpointing_steps": 250, "checkpoints_total_limit": 1, "resume_from_checkpoint": "latest"}
        torch.backends.cuda.enable_flash_sdp(False)  # on processors its kernel is the slower one at 16 tokens
        load_script().main(command_line(settings | places | more))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return folder


def load_script() -> Any:
    """The training script as a module."""
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command_line(flags: dict[str, Any]) -> list[str]:
    """Flags as a command line: `True` is the bare flag."""
    words = []
    for name, value in flags.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words
