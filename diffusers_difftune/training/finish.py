# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How a run ends: the result is put into the run folder whole, described, and uploaded if asked for."""

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..io.atomic import fsync_path, fsync_tree
from ..publishing.card import inherited_license, write_run_card
from ..trainables import Trainable
from .publish import write_facts
from .run import Run


logger = logging.getLogger(__name__)


def write_card(run: Run, facts: dict[str, Any]) -> None:
    """Writes the model card, and what it says into `run_config.json`; the last thing that a run writes down.

    Args:
        run ([`Run`]): The run.
        facts (`dict[str, Any]`): What the model card says, see [`Trainer.card_facts`], and the names of the result's `files`.
    """
    license = inherited_license(run.config.flags(), run.config.hub_token)
    write_facts(run.output_dir, run.output_dir, facts | {"license": license})
    write_run_card(run.output_dir, facts["repo_id"])
    logger.info("Wrote %s, which has code that uses the result", run.output_dir / "README.md")


def end_training(accelerator: Accelerator) -> None:
    """Closes the trackers and the process group.

    Gloo's threads let go of the last barrier's tensors a moment after it, and need Python's lock for it. A group that is
    destroyed in that moment waits for them with the lock held, for ever; so they are given time.
    """
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        time.sleep(1)
    accelerator.end_training()


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
