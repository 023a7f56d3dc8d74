# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What a run writes down beside its checkpoints and its log: `run_config.json`, the result, the model card."""

import importlib.metadata
import json
import logging
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from ..io.atomic import fsync_path, fsync_tree, write_bytes_atomic
from ..io.processes import from_main
from ..publishing.card import inherited_license, write_run_card
from ..trainables import Trainable
from .folder import clear
from .run import Run


logger = logging.getLogger(__name__)
LIBRARIES = ("diffusers-difftune", "torch", "diffusers", "transformers", "peft", "accelerate", "datasets")


def begin_records(run: Run, facts: dict[str, Any]) -> None:
    """Writes `run_config.json`, every flag and what was found out about the run, and starts the trackers. The Hub token is in
    neither. A run that is not resumed has passed every check by now, and what an earlier one left in its folder goes."""
    flags = run.config.flags()
    flags.pop("hub_token")
    distributions = {name: list(importlib.metadata.distributions(name=name)) for name in LIBRARIES}
    content = {
        "flags": flags,
        "seed": run.seed,
        "num_processes": run.accelerator.num_processes,
        "global_batch_size": run.global_batch_size,
        "mixed_precision": run.accelerator.mixed_precision,
        "device": run.accelerator.device.type,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "libraries": {name: found[0].version for name, found in distributions.items() if found},
        **facts,
    }
    if run.checkpoint is None:
        from_main(run.accelerator, lambda: clear(run.output_dir))
    if run.accelerator.is_main_process:
        write_bytes_atomic(run.output_dir / "run_config.json", (json.dumps(content, indent=2) + "\n").encode())
    # trackers take plain values only
    plain = {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in flags.items()}
    run.accelerator.init_trackers(run.config.tracker_project_name, config=plain)


def save_result(trained: Trainable, output_dir: Path) -> list[str]:
    """Writes the result aside and moves it into the run folder, piece by piece, the index last; returns the names."""
    aside, old = output_dir / ".result.tmp", output_dir / ".result.old"
    for folder in (aside, old):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    trained.save_result(aside)
    fsync_tree(aside)
    pieces = sorted(aside.iterdir(), key=lambda path: (path.is_file(), path.name))
    for path in pieces:
        if (output_dir / path.name).exists():
            os.rename(output_dir / path.name, old / path.name)
        os.rename(path, output_dir / path.name)
    fsync_path(output_dir)
    aside.rmdir()
    shutil.rmtree(old)
    logger.info("Saved the result in %s", output_dir)
    return [path.name for path in pieces]


def write_card(run: Run, facts: dict[str, Any]) -> None:
    """Writes the model card, and what it says into `run_config.json`; the last thing that a run writes down. `facts` are those
    of [`Trainer.card_facts`], and the names of the result's `files`."""
    license = inherited_license(run.config.flags(), run.config.hub_token)
    write_facts(run.output_dir, run.output_dir, facts | {"license": license})
    write_run_card(run.output_dir, facts["repo_id"])
    logger.info("Wrote %s, which has code that uses the result", run.output_dir / "README.md")


def write_facts(source: Path, target: Path, facts: dict[str, Any]) -> None:
    """Writes `run_config.json` of one folder into another (or the same) one, with the card's facts in it."""
    config = json.loads((source / "run_config.json").read_text(encoding="utf-8"))
    content = json.dumps(config | {"card": facts}, indent=2) + "\n"
    write_bytes_atomic(target / "run_config.json", content.encode())
