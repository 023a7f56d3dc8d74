# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""How a run ends: the result is put into the run folder whole, described, and uploaded if asked for."""

import dataclasses
import json
import logging
import os
import shutil
import time
from pathlib import Path

from accelerate import Accelerator

from ..adapters import Trained
from ..atomic import fsync_path, fsync_tree
from ..backbones import Backbone
from ..data.batches import PlannedBatches
from ..hub import create_repo, upload
from ..model_card import write_model_card
from .checkpoint import TrainingState
from .run import Run
from .validation import Validation


logger = logging.getLogger(__name__)


def begin_publishing(run: Run) -> str | None:
    """With `--push_to_hub`, makes the repository before training, so that a bad token or name is known at once.

    Args:
        run ([`Run`]): The run.

    Returns:
        `str` or `None`: The repository's id; `None` without the flag.

    Raises:
        DiffTuneError: The repository cannot be made or written to.
    """
    config = run.config
    if not config.push_to_hub or not run.accelerator.is_main_process:
        return None
    return create_repo(config.hub_model_id, run.output_dir, config.hub_token)


def finish_run(
    run: Run,
    backbone: Backbone,
    state: TrainingState,
    batches: PlannedBatches,
    validation: Validation,
    repo_id: str | None,
) -> None:
    """Saves the result, makes the last validation images, writes the model card and uploads.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        state ([`TrainingState`]): The trained weights.
        batches ([`PlannedBatches`]): What was trained on.
        validation ([`Validation`]): Makes the images of the model card.
        repo_id (`str`, *optional*): The repository on the Hub, if the result is to be uploaded.
    """
    accelerator, config, output_dir = run.accelerator, run.config, run.output_dir
    if accelerator.is_main_process:
        save_result(state.trained, output_dir)
        logger.info("Saved the result in %s", output_dir)
    accelerator.wait_for_everyone()
    validation.make(state.total_steps)
    if accelerator.is_main_process:
        write_model_card(
            output_dir,
            dataclasses.asdict(config) | {"seed": run.seed},
            repo_id=repo_id,
            base_folder=backbone.folder,
            result=state.trained.result,
            pipeline_class=backbone.pipeline_class.__name__,
            steps=state.total_steps,
            num_rows=None if config.streaming else len(batches.target),
            losses=last_losses(output_dir / "training_log.jsonl"),
            bank=None if batches.bank is None else dataclasses.asdict(batches.bank.manifest),
            images=validation.images_by_prompt(),
            token=config.hub_token,
        )
    end_training(accelerator)  # before the upload, so that trackers are closed if that fails
    if repo_id is not None:  # on the main process
        upload(output_dir, repo_id, config.hub_token)


def end_training(accelerator: Accelerator) -> None:
    """Closes the trackers and the process group.

    Gloo's threads let go of the last barrier's tensors a moment after it, and need Python's lock for it. A group that is
    destroyed in that moment waits for them with the lock held, for ever; so they are given time.
    """
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        time.sleep(1)
    accelerator.end_training()


def last_losses(log: Path) -> dict[str, float]:
    """The losses of the last step in a loss log; none if the run was resumed when there was nothing left to do."""
    line = json.loads((log.read_text().splitlines() or ["{}"])[-1])
    return {name: value for name, value in line.items() if name.startswith("loss") and isinstance(value, float)}


def save_result(trained: Trained, output_dir: Path) -> None:
    """Writes the result aside and moves it into the run folder, piece by piece, the index last."""
    aside, old = output_dir / ".result.tmp", output_dir / ".result.old"
    for folder in (aside, old):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    trained.save_result(aside)
    fsync_tree(aside)
    for path in sorted(aside.iterdir(), key=lambda path: (path.is_file(), path.name)):
        if (output_dir / path.name).exists():
            os.rename(output_dir / path.name, old / path.name)
        os.rename(path, output_dir / path.name)
    fsync_path(output_dir)
    aside.rmdir()
    shutil.rmtree(old)
