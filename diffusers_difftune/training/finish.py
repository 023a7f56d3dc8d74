# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How a run ends: the result is put into the run folder whole, described, and uploaded if asked for."""

import logging
import os
import shutil
import time
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from ..backbones import Backbone
from ..io.atomic import fsync_path, fsync_tree
from ..io.processes import from_main
from ..publishing.card import inherited_license, write_run_card
from ..trainables import Trainable
from .batches import PlannedBatches
from .checkpoint import TrainingState
from .publish import Publisher, card_facts, write_facts
from .run import Run
from .validation import Validation


logger = logging.getLogger(__name__)


def finish_run(
    run: Run,
    backbone: Backbone,
    state: TrainingState,
    batches: PlannedBatches,
    validation: Validation,
    publisher: Publisher | None,
) -> None:
    """Saves the result, makes the last validation images, writes the model card and uploads.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        state ([`TrainingState`]): The trained weights.
        batches ([`PlannedBatches`]): What was trained on.
        validation ([`Validation`]): Makes the images of the model card.
        publisher ([`Publisher`], *optional*): Uploads the result, if that is asked for.

    Raises:
        UploadError: The upload failed. The result is in the run folder.
    """
    accelerator, config, output_dir = run.accelerator, run.config, run.output_dir
    with run.whole_weights():
        files = from_main(accelerator, partial(save_result, state.trained, output_dir))
    validation.make(state.total_steps)

    def write_card() -> None:
        repo_id = publisher and publisher.repo_id
        facts = card_facts(run, backbone, state, batches, validation, repo_id)
        facts["files"] = files
        facts["license"] = inherited_license(config.flags(), config.hub_token)
        write_facts(output_dir, output_dir, facts)
        write_run_card(output_dir, repo_id)
        logger.info("Wrote %s, which has code that uses the result", output_dir / "README.md")

    from_main(accelerator, write_card)
    end_training(accelerator)  # before the upload, so that trackers are closed if that fails
    if publisher is not None:
        publisher.finish()


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
