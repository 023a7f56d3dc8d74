# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Publishing on the Hub: the repository before training, uploads in the background while it trains, and one at the end."""

import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

from huggingface_hub.utils import disable_progress_bars

from .. import errors
from ..errors import DiffTuneError, first_sentence
from ..io.processes import from_main
from ..publishing import HubTrouble, UploadError, create_repo, upload
from ..publishing.card import inherited_license, write_run_card
from .checkpoint import TrainingState
from .checkpoint_files import list_checkpoints
from .record import write_facts
from .run import Run


logger = logging.getLogger(__name__)
STAGE = ".upload.tmp"


def begin_publishing(run: Run) -> "Publisher | None":
    """With `--push_to_hub`, makes the repository before training, so that a bad token or name is known at once.

    Trouble of the Hub's own stops a new run, too, after half a minute; one that is resumed goes on, and tries again when
    there is something to upload. Without the flag, and on other processes than the main one, there is no publisher.

    Raises:
        DiffTuneError: The repository cannot be made or written to.
    """
    config = run.config
    if run.accelerator.is_main_process:
        shutil.rmtree(run.output_dir / STAGE, ignore_errors=True)  # of a run that was killed
    if not config.push_to_hub:
        return None

    def repository() -> str | None:
        try:
            return create_repo(config.hub_model_id, run.output_dir, config.hub_token)
        except HubTrouble as error:
            if run.checkpoint is None:
                raise
            logger.warning("--push_to_hub: %s The run goes on, and this is tried again at the next upload.", error)
            return None

    with errors.flag("--push_to_hub"):
        repo_id = from_main(run.accelerator, repository)
    return Publisher(run, repo_id) if run.accelerator.is_main_process else None


class Publisher:
    """Uploads what a run has made: with `--hub_strategy every_save` and `checkpoint` also while it trains, one upload at a
    time, in a thread that training does not wait for and that does not keep the process from ending. Without a `repo_id`
    the repository is made before the next upload."""

    def __init__(self, run: Run, repo_id: str | None) -> None:
        self.run, self.repo_id = run, repo_id
        self.stage = run.output_dir / STAGE
        self.license: dict[str, str] | None = None
        self.thread: threading.Thread | None = None
        if run.config.hub_strategy != "end":
            disable_progress_bars()  # they would write over the bar of the training

    def saved(self, step: int, state: TrainingState, facts: dict[str, Any]) -> None:
        """Uploads what there is after a checkpoint, unless an earlier upload is under way: then it is left to the next
        checkpoint. Nothing that goes wrong stops the run. `facts` are those of [`Trainer.card_facts`]."""
        if step == state.total_steps:  # the last upload comes at once
            return
        if self.thread is not None and self.thread.is_alive():
            logger.info("Step %d is not uploaded, because an earlier upload is still under way.", step)
            return
        try:
            self.set_aside(step, facts, state)
        except Exception as error:  # a full disk, above all
            logger.warning("Step %d is not uploaded: %s.", step, first_sentence(error))
            shutil.rmtree(self.stage, ignore_errors=True)
            return
        self.thread = threading.Thread(target=self.upload_stage, args=(step,), name="upload", daemon=True)
        self.thread.start()

    def set_aside(self, step: int, facts: dict[str, Any], state: TrainingState) -> None:
        """Puts what is to be uploaded where neither training nor `--checkpoints_total_limit` touches it."""
        output_dir = self.run.output_dir
        shutil.rmtree(self.stage, ignore_errors=True)
        self.stage.mkdir()
        state.trained.save_result(self.stage)
        shutil.copyfile(output_dir / "training_log.jsonl", self.stage / "training_log.jsonl")
        write_facts(output_dir, self.stage, facts)
        for path in {path for paths in facts["images"].values() for path in paths}:
            (self.stage / path).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(output_dir / path, self.stage / path)
        if self.run.config.hub_strategy == "checkpoint":
            name = f"checkpoint-{step}"
            shutil.copytree(output_dir / name, self.stage / name, copy_function=link_or_copy)

    def upload_stage(self, step: int) -> None:
        """Uploads what [`set_aside`] put aside; runs in the thread."""
        token = self.run.config.hub_token
        try:
            repo_id = self.repository()
            if self.license is None:
                self.license = inherited_license(vars(self.run.config), token)
            write_run_card(self.stage, repo_id, license=self.license)
            checkpoint = self.stage / f"checkpoint-{step}"
            address = upload(
                self.stage,
                repo_id,
                token,
                message=f"Training in progress, step {step}",
                checkpoint=checkpoint if checkpoint.is_dir() else None,
            )
            logger.info("Uploaded step %d: %s", step, address)
        except Exception as error:
            why = error.why if isinstance(error, UploadError) else f"{first_sentence(error)}."
            logger.warning("Step %d was not uploaded: %s The run goes on, and uploads at the next save.", step, why)
        finally:
            shutil.rmtree(self.stage, ignore_errors=True)

    def repository(self) -> str:
        """The repository, which is made now if the Hub did not answer before training."""
        if self.repo_id is None:
            config = self.run.config
            self.repo_id = create_repo(config.hub_model_id, self.run.output_dir, config.hub_token)
        return self.repo_id

    def finish(self) -> None:
        """Uploads the result, and with `--hub_strategy checkpoint` the newest checkpoint.

        Raises:
            UploadError: It failed; everything is in the run folder, and the message has the command that uploads it.
        """
        config, output_dir = self.run.config, self.run.output_dir
        if self.thread is not None:
            if self.thread.is_alive():
                logger.info("Waiting for an upload to end.")
            self.thread.join()
        checkpoint = None
        if config.hub_strategy == "checkpoint":
            checkpoint = next(reversed(list_checkpoints(output_dir)), None)
        try:
            repo_id = self.repository()
        except DiffTuneError as error:
            raise UploadError(str(error), output_dir, config.hub_model_id or output_dir.resolve().name) from error
        address = upload(output_dir, repo_id, config.hub_token, checkpoint=checkpoint)
        logger.info("Uploaded the result: %s", address)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A second name of a file, which keeps its content when the first one goes; a copy where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
