# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Saving a run's progress and going on from it. What the folder looks like: `checkpoint_files.py`."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..errors import DiffTuneError
from ..io.atomic import atomic_folder, fsync_tree
from ..io.processes import from_main
from ..mistakes import place_trouble
from ..trainables import Trainable
from .checkpoint_files import (
    OPTIMIZER_FILE,
    RESUME,
    STATE_FILE,
    check_settings,
    check_space,
    damaged,
    finds_damage,
    join_optimizer_state,
    list_checkpoints,
    read_state,
    remove_oldest,
    split_optimizer_state,
)
from .distributed import distribute
from .optimizer import DEPENDS_ON_LENGTH, resume_schedule
from .run import Run


logger = logging.getLogger(__name__)
# Launchers of several processes kill what has not ended so many seconds after SIGTERM; most of them must be left.
GRACE, SLOW = 30, 20


class TrainingState:
    """The trained weights, the optimiser, the schedule and how far they are: what a checkpoint holds.

    Made before any weights are loaded, so that a checkpoint of another run is refused at once; filled by [`prepare`].

    Args:
        run ([`Run`]): The run.
        settings (`dict`): What a resumed run must agree on with the one that wrote the checkpoint.
        total_steps (`int`): Optimiser steps of the whole run, which a checkpoint may not be past.

    Attributes:
        start_step (`int`): Optimiser steps done before this start.
        log (`dict`, *optional*): What the loss log had not written when the checkpoint was.
        distributed ([`Replicated`]): What trains, on the processes' devices.

    Raises:
        DiffTuneError: `--resume_from_checkpoint` names a checkpoint with other settings, or one past the end of the run.
    """

    def __init__(self, run: Run, settings: dict[str, Any], total_steps: int) -> None:
        self.run = run
        self.settings = settings
        self.total_steps = total_steps
        self.start_step = 0
        self.log: dict[str, Any] | None = None
        if run.checkpoint is not None:
            self.start_step = check_settings(run.checkpoint, settings)
        if self.start_step > total_steps:
            raise DiffTuneError(
                f"{run.checkpoint} has done {self.start_step} steps and the run ends after {total_steps}; give more"
                " --max_train_steps or an earlier checkpoint.",
                RESUME,
            )

    def prepare(self, trained: Trainable, optimizer: Any, lr_scheduler: Any) -> None:
        """Hands everything to accelerate, and reads the checkpoint if there is one."""
        accelerator, checkpoint = self.run.accelerator, self.run.checkpoint
        self.trained, self.lr_scheduler = trained, lr_scheduler
        state = None if checkpoint is None else read_state(checkpoint)
        if checkpoint is not None and state is not None:  # while the weights are whole
            self.load_weights(checkpoint, state)
        self.distributed = self.run.distributed = distribute(accelerator, trained, optimizer, self.run.config)
        trained.to(accelerator.device)
        if checkpoint is not None and state is not None:
            self.load_progress(checkpoint, state)
            from_main(accelerator, self.finish_rotation)
        if self.start_step < self.total_steps:  # better now than after the first hours
            from_main(accelerator, lambda: check_space(self.run.output_dir, self.num_bytes(), "a checkpoint"))

    def finish_rotation(self) -> None:
        """Removes the older checkpoints that a run left which was killed between writing its newest one and removing them."""
        output_dir, limit = self.run.output_dir, self.run.config.checkpoints_total_limit
        if limit is not None and [self.run.checkpoint] == list_checkpoints(output_dir)[-1:]:
            remove_oldest(output_dir, limit, self.start_step)

    def num_bytes(self) -> int:
        """About how large a checkpoint is, in bytes."""
        moments = 2 if self.run.config.use_8bit_adam else 8  # bytes of AdamW's two, for each number that trains
        trained = sum(
            parameter.numel() * moments for parameter in self.trained.model.parameters() if parameter.requires_grad
        )
        return trained + sum(tensor.numel() * tensor.element_size() for tensor in stored_tensors(self.trained))

    def save(self, step: int, log: dict[str, Any] | None = None) -> None:
        """Writes `checkpoint-{step}`, with what the loss log has not written yet, and only then removes the oldest ones over
        the limit; call it on every process. Raises a [`DiffTuneError`] if there is no room for it."""
        began = time.monotonic()
        with self.distributed.whole_weights():
            tensors, scalars = split_optimizer_state(self.distributed.optimizer_state())
            from_main(self.run.accelerator, lambda: self.write_or_say_why(step, log, tensors, scalars, began))

    def write_or_say_why(self, step: int, *rest: Any) -> None:
        """Writes it on the main process alone; that the disk is full is told with the checkpoint's place."""
        try:
            self.write(step, *rest)
        except Exception as error:
            trouble = place_trouble(error, str(self.run.output_dir / f"checkpoint-{step}"))
            if trouble is None:
                raise
            raise DiffTuneError(trouble) from error

    def write(
        self,
        step: int,
        log: dict[str, Any] | None,
        tensors: dict[str, torch.Tensor],
        scalars: dict[str, Any],
        began: float,
    ) -> None:
        """Writes it, and removes the oldest ones over the limit."""
        accelerator, output_dir = self.run.accelerator, self.run.output_dir
        check_space(output_dir, self.num_bytes(), f"checkpoint-{step}")
        with atomic_folder(output_dir / f"checkpoint-{step}") as folder:
            self.trained.save(folder)
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / OPTIMIZER_FILE)
            fsync_tree(folder)
            state = {
                "step": step,
                "total_steps": self.total_steps,
                "settings": self.settings,
                "optimizer": scalars,
                "lr_scheduler": self.lr_scheduler.state_dict(),
                "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
                "log": log,
                "threads": torch.get_num_threads(),
                "device": accelerator.device.type,
                "checksum": checksum(stored_tensors(self.trained)),
                "files": {
                    path.relative_to(folder).as_posix(): path.stat().st_size
                    for path in sorted(folder.rglob("*"))
                    if path.is_file()
                },
                "seconds": round(time.monotonic() - began, 2),
            }
            (folder / STATE_FILE).write_text(json.dumps(state, indent=2))
        logger.info("Saved %s", output_dir / f"checkpoint-{step}")
        if (limit := self.run.config.checkpoints_total_limit) is not None:
            remove_oldest(output_dir, limit, step)

    def load_weights(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Reads the weights that [`save`] wrote, and makes sure of them."""
        with finds_damage(checkpoint):
            self.trained.load(checkpoint)
        if checksum(stored_tensors(self.trained)) != state["checksum"]:
            raise damaged(checkpoint, "its weights are not those that were written")

    def load_progress(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Reads the rest of what [`save`] wrote, and makes sure of it."""
        scaler = self.run.accelerator.scaler
        with finds_damage(checkpoint):
            tensors = load_file(checkpoint / OPTIMIZER_FILE)
            self.distributed.load_optimizer_state(join_optimizer_state(tensors, state["optimizer"]))
            rates = resume_schedule(self.lr_scheduler, state["lr_scheduler"])
            if scaler is not None and state["scaler"] is not None:
                scaler.load_state_dict(state["scaler"])
        taken, _ = split_optimizer_state(self.distributed.optimizer_state())
        if not from_main(self.run.accelerator, lambda: are_equal(taken, tensors)):
            raise damaged(checkpoint, f"{OPTIMIZER_FILE} is not what the optimiser took")
        self.log = state["log"]
        self.say_if_the_schedule_changed(checkpoint, state["total_steps"], *rates)
        here = {"threads": torch.get_num_threads(), "device": self.run.accelerator.device.type}
        for name, value in here.items():
            if state[name] != value:
                logger.warning(
                    f"{checkpoint} was written with {name} {state[name]} and this run has {value}: sums are rounded otherwise,"
                    " so it will not end bit for bit as it would have."
                )
        if state["seconds"] > SLOW:
            logger.warning(
                f"{checkpoint} took {state['seconds']:.0f} seconds to write; launchers kill processes {GRACE} seconds after"
                " asking them to stop, so such a stop may lose the steps since the last --checkpointing_steps."
            )
        logger.info("Resuming from %s after %d steps.", checkpoint, self.start_step)

    def say_if_the_schedule_changed(self, checkpoint: Path, planned: int, before: float, now: float) -> None:
        """Says so if the run has become longer or shorter than the one that wrote the checkpoint, and the learning rate
        depends on its length; `before` and `now` are the rate of the next step, as that run would have had it and as it is."""
        name = self.run.config.lr_scheduler
        if before == now and (planned == self.total_steps or name not in DEPENDS_ON_LENGTH):
            return
        logger.warning(
            f"--lr_scheduler {name} is now that of a run of {self.total_steps} steps, and {checkpoint} was written in one of"
            f" {planned} steps: step {self.start_step + 1} takes the learning rate {now:.3g} ({before:.3g} in the old schedule),"
            " and the steps after it follow the new schedule."
        )


def stored_tensors(trained: Trainable) -> list[torch.Tensor]:
    """What a checkpoint holds of the weights: those that train, and their moving average."""
    weights = [parameter for parameter in trained.model.parameters() if parameter.requires_grad]
    return [*weights, *([] if trained.ema is None else trained.ema.shadow_params)]


def are_equal(tensors: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    """Whether tensors are the same by name and to the last bit, wherever they are."""
    return tensors.keys() == others.keys() and all(
        torch.equal(tensor.cpu(), others[name].cpu()) for name, tensor in tensors.items()
    )


def checksum(tensors: Sequence[torch.Tensor]) -> int:
    """A number that any changed bit changes, and another order of the tensors, whatever the order in which a device sums.

    It is made on the device, and finds accidents; it is no signature.
    """
    total = 0
    for place, tensor in enumerate(tensors, 1):
        bits = (
            tensor.detach().contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32}[tensor.element_size()])
        )
        total += place * int(bits.sum(dtype=torch.int64))
    return total
