# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""One fine-tuning of the source model, by the project's own trainer."""

import json
import shutil
from pathlib import Path
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel

from diffusers_difftune import ClassConditionalTrainer
from diffusers_difftune.config import ClassConditionalConfig, parse_config

from .l2sp import L2SPTrainer
from .settings import DATA, MADE_OF, RECIPE, SOURCE_MODEL, WORK


def finetune(
    target: str, count: int, seed: int, flags: dict[str, Any], folder: Path, strength: float | None = None
) -> Path:
    """Fine-tunes the source model on a target; what a folder holds of the same run is taken as it is, or gone on with.

    Args:
        target (`str`): The target.
        count (`int`): Training images, 100 or 1,000.
        seed (`int`): Of the images, the batches and the noise.
        flags (`dict[str, Any]`): What the method sets, its rate and its knowledge bank.
        folder (`Path`): Where to.
        strength (`float`, *optional*): Of L2-SP; without it there is none.

    Returns:
        `Path`: The folder of the pipeline, with the moving average of the weights.
    """
    settings = RECIPE | flags | {"seed": seed, "train_data_dir": str(DATA / f"{target}_train_{count}_{seed}.parquet")}
    note = folder / "settings.json"
    source = (SOURCE_MODEL / MADE_OF).read_text()
    written = json.dumps(settings | {"source": source, "strength": strength}, indent=1)
    if not (note.is_file() and note.read_text() == written):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        note.write_text(written)
    if not (folder / "model_index.json").is_file():
        places = {"pretrained_model_name_or_path": SOURCE_MODEL, "output_dir": folder, "cache_dir": WORK / "cache"}
        more = {"checkpointing_steps": 250, "checkpoints_total_limit": 1, "resume_from_checkpoint": "latest"}
        config = parse_config(ClassConditionalConfig, command_line(settings | places | more), "")
        trainer = ClassConditionalTrainer(config) if strength is None else L2SPTrainer(config, strength)
        with sdpa_kernel(SDPBackend.MATH):  # on processors the other kernel is the slower one at 16 tokens
            trainer.run()
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return folder


def command_line(flags: dict[str, Any]) -> list[str]:
    """Flags as a command line: `True` is the bare flag."""
    words = []
    for name, value in flags.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words
