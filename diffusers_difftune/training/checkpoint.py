# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: `checkpoint-N/` folders that are whole or absent, laid out as diffusers' scripts lay them out.

    checkpoint-500/
      unet/  unet_ema/                    or  pytorch_lora_weights.safetensors, or the two files of another adapter
      optimizer.safetensors  training_state.json

No random state is stored: every draw is a function of the seed and the step. `training_state.json` is written last and
knows the size of every other file, and a checksum of the weights, so that what was read is what was written.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from ..console import file_size
from ..errors import DiffTuneError, first_sentence
from ..io.atomic import atomic_folder, fsync_tree, remove_folder
from ..io.processes import from_main
from ..mistakes import place_trouble
from ..trainables import Trainable
from .differences import differences
from .optimizer import DEPENDS_ON_LENGTH, resume_schedule
from .sharding import Sharding, local
from .zero import ZeRO, is_asked_for


if TYPE_CHECKING:
    from .run import Run

logger = logging.getLogger(__name__)
STATE_FILE = "training_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
# Launchers of several processes kill what has not ended so many seconds after SIGTERM; most of them must be left.
GRACE, SLOW = 30, 20


def split_optimizer_state(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as tensors by name, and everything else as JSON-able values."""
    tensors, scalars = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.detach()
            else:
                scalars[f"{index}.{name}"] = value
    return tensors, {"values": scalars, "param_groups": state["param_groups"]}


def join_optimizer_state(tensors: dict[str, torch.Tensor], scalars: dict[str, Any]) -> dict[str, Any]:
    """The inverse of [`split_optimizer_state`]."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (tensors | scalars["values"]).items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": scalars["param_groups"]}


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if (path / STATE_FILE).is_file()]
    return sorted((path for path in found if re.fullmatch(r"checkpoint-\d+", path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(checkpoint.name.split("-")[1])


def what_is_missing(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, seen without reading weights; `None` if nothing is.

    Args:
        checkpoint (`Path`): Its folder.
    """
    try:
        files = json.loads((checkpoint / STATE_FILE).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{STATE_FILE} is missing or damaged"
    for name, size in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes and was written with {size}"
    return None


def find_checkpoint(resume_from: str | None, output_dir: Path) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` means: `latest`, a path, or a name inside the run folder.

    Args:
        resume_from (`str`, *optional*): The flag; `None` starts anew.
        output_dir (`Path`): The run folder.

    Returns:
        `Path` or `None`: The folder; `None` to start anew, also for `latest` in a run without checkpoints. `latest` passes
            over checkpoints that were damaged since they were written.

    Raises:
        DiffTuneError: The named checkpoint does not exist, is not complete or was damaged, or all are.
    """
    if resume_from is None:
        return None
    if resume_from == "latest":
        checkpoints = list_checkpoints(output_dir)
        for path in reversed(checkpoints):
            trouble = what_is_missing(path)
            if trouble is None:
                return path
            logger.warning("%s is passed over: %s.", path, trouble)
        if checkpoints:
            raise DiffTuneError(
                f"--resume_from_checkpoint latest: all checkpoints in {output_dir} are damaged ({trouble} in {path.name});"
                " give --overwrite_output_dir in its place to start anew."
            )
        logger.warning("--resume_from_checkpoint latest: %s has no checkpoint, so the run starts anew.", output_dir)
        return None
    for path in (Path(resume_from), output_dir / resume_from):
        if (path / STATE_FILE).is_file():
            trouble = what_is_missing(path)
            if trouble is not None:
                raise DiffTuneError(
                    f"--resume_from_checkpoint: {path} is damaged: {trouble}; resume from another one."
                )
            return path
    known = ", ".join(path.name for path in list_checkpoints(output_dir)) or "none"
    raise DiffTuneError(
        f"--resume_from_checkpoint {resume_from} is not a complete checkpoint; those in {output_dir}: {known}."
    )


def read_settings(checkpoint: Path) -> dict[str, Any]:
    """The settings a checkpoint was written under."""
    return read_state(checkpoint)["settings"]


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds beside tensors."""
    try:
        return json.loads((checkpoint / STATE_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise DiffTuneError(damaged(checkpoint, f"{STATE_FILE} cannot be read")) from error


def check_space(folder: Path, needed: int, what: str) -> None:
    """Stops if a folder's disk has no room.

    Args:
        folder (`Path`): The folder; it exists.
        needed (`int`): Bytes.
        what (`str`): What is about to be written.

    Raises:
        DiffTuneError: There is less room.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiffTuneError(
            f"--output_dir: {what} takes {file_size(needed)} and {folder} has {file_size(free)} left; make room, or lower"
            " --checkpoints_total_limit, and go on with --resume_from_checkpoint latest."
        )


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
        model (`torch.nn.Module`): The denoiser as accelerate prepared it.

    Raises:
        DiffTuneError: `--resume_from_checkpoint` names a checkpoint with other settings, or one past the end of the run.
    """

    def __init__(self, run: "Run", settings: dict[str, Any], total_steps: int) -> None:
        self.run = run
        self.settings = settings
        self.total_steps = total_steps
        self.start_step = 0
        self.log: dict[str, Any] | None = None
        if run.checkpoint is not None:
            self.start_step = check_settings(run.checkpoint, settings)
        if self.start_step > total_steps:
            raise DiffTuneError(
                f"--resume_from_checkpoint: {run.checkpoint} has done {self.start_step} steps and the run ends after"
                f" {total_steps}; give more --max_train_steps or an earlier checkpoint."
            )

    def prepare(self, trained: Trainable, optimizer: Any, lr_scheduler: Any) -> None:
        """Hands everything to accelerate, and reads the checkpoint if there is one."""
        accelerator, checkpoint = self.run.accelerator, self.run.checkpoint
        self.trained, self.lr_scheduler = trained, lr_scheduler
        state = None if checkpoint is None else read_state(checkpoint)
        if checkpoint is not None and state is not None:  # while the weights are whole
            self.load_weights(checkpoint, state)
        if accelerator.is_fsdp2 or is_asked_for():
            spread = Sharding if accelerator.is_fsdp2 else ZeRO
            sharding = self.run.sharding = spread(self.run, trained, optimizer)
            self.model, self.optimizer = sharding.model, sharding.optimizer
        else:
            self.model, self.optimizer = accelerator.prepare(trained.model, optimizer)
        trained.to(accelerator.device)
        if checkpoint is not None and state is not None:
            self.load_progress(checkpoint, state)
        if self.start_step < self.total_steps:  # better now than after the first hours
            from_main(accelerator, lambda: check_space(self.run.output_dir, self.num_bytes(), "a checkpoint"))

    def num_bytes(self) -> int:
        """About how large a checkpoint is, in bytes."""
        moments = 2 if self.run.config.use_8bit_adam else 8  # bytes of AdamW's two, for each number that trains
        trained = sum(
            parameter.numel() * moments for parameter in self.trained.model.parameters() if parameter.requires_grad
        )
        return trained + sum(tensor.numel() * tensor.element_size() for tensor in stored_tensors(self.trained))

    def save(self, step: int, log: dict[str, Any] | None = None) -> None:
        """Writes `checkpoint-{step}` and only then removes the oldest ones over the limit. Call it on every process.

        Args:
            step (`int`): Optimiser steps done.
            log (`dict`, *optional*): What the loss log has not written yet.

        Raises:
            DiffTuneError: There is no room for it.
        """
        began, accelerator, sharding = time.monotonic(), self.run.accelerator, self.run.sharding
        with self.run.whole_weights():
            tensors, scalars = split_optimizer_state(self.optimizer.state_dict())
            if sharding is not None:
                tensors = sharding.gather_state(tensors)
            from_main(accelerator, lambda: self.write_or_say_why(step, log, tensors, scalars, began))

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
        if self.run.config.checkpoints_total_limit is not None:
            # Later steps than this one are from before the run went back to an earlier checkpoint, so those are the old ones.
            oldest_first = sorted(list_checkpoints(output_dir), key=lambda path: step_of(path) <= step)
            for old in oldest_first[: -self.run.config.checkpoints_total_limit]:
                remove_folder(old)

    def load_weights(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Reads the weights that [`save`] wrote, and makes sure of them."""
        with finds_damage(checkpoint):
            self.trained.load(checkpoint)
        if checksum(stored_tensors(self.trained)) != state["checksum"]:
            raise DiffTuneError(damaged(checkpoint, "its weights are not those that were written"))

    def load_progress(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Reads the rest of what [`save`] wrote, and makes sure of it."""
        scaler, sharding = self.run.accelerator.scaler, self.run.sharding
        with finds_damage(checkpoint):
            tensors = load_file(checkpoint / OPTIMIZER_FILE)
            if sharding is not None:
                tensors = sharding.shard_state(tensors)
            self.optimizer.load_state_dict(join_optimizer_state(tensors, state["optimizer"]))
            rates = resume_schedule(self.lr_scheduler, state["lr_scheduler"])
            if scaler is not None and state["scaler"] is not None:
                scaler.load_state_dict(state["scaler"])
        loaded, _ = split_optimizer_state(self.optimizer.state_dict())
        if loaded.keys() != tensors.keys() or any(
            not torch.equal(local(loaded[name]).cpu(), local(tensor).cpu()) for name, tensor in tensors.items()
        ):
            raise DiffTuneError(damaged(checkpoint, f"{OPTIMIZER_FILE} is not what the optimiser took"))
        self.log = state["log"]
        self.say_if_the_schedule_changed(checkpoint, state.get("total_steps"), *rates)
        here = {"threads": torch.get_num_threads(), "device": self.run.accelerator.device.type}
        for name, value in here.items():
            if state[name] != value:
                logger.warning(
                    "%s was written with %s %s and this run has %s: sums are rounded otherwise, so it will not end bit for"
                    " bit as it would have.",
                    checkpoint,
                    name,
                    state[name],
                    value,
                )
        if state["seconds"] > SLOW:
            logger.warning(
                "%s took %.0f seconds to write; launchers kill processes %d seconds after asking them to stop, so such a"
                " stop may lose the steps since the last --checkpointing_steps.",
                checkpoint,
                state["seconds"],
                GRACE,
            )
        logger.info("Resuming from %s after %d steps.", checkpoint, self.start_step)

    def say_if_the_schedule_changed(self, checkpoint: Path, planned: int | None, before: float, now: float) -> None:
        """Says so if the run has become longer or shorter, and the learning rate depends on its length.

        Args:
            checkpoint (`Path`): The checkpoint.
            planned (`int`, *optional*): The steps of the run that wrote it; older ones do not say.
            before (`float`): The rate of the next step, as that run would have had it.
            now (`float`): The rate of the next step.
        """
        name = self.run.config.lr_scheduler
        if before == now and (planned in (None, self.total_steps) or name not in DEPENDS_ON_LENGTH):
            return
        logger.warning(
            "--lr_scheduler %s is now that of a run of %d steps, and %s was written in one of %s: step %d takes the learning"
            " rate %.3g (%.3g in the old schedule), and the steps after it follow the new schedule.",
            name,
            self.total_steps,
            checkpoint,
            "another length" if planned is None else f"{planned} steps",
            self.start_step + 1,
            now,
            before,
        )


def stored_tensors(trained: Trainable) -> list[torch.Tensor]:
    """What a checkpoint holds of the weights: those that train, and their moving average."""
    average = getattr(trained, "ema", None)
    weights = [parameter for parameter in trained.model.parameters() if parameter.requires_grad]
    return [*weights, *([] if average is None else average.shadow_params)]


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


@contextmanager
def finds_damage(checkpoint: Path) -> Iterator[None]:
    """A context that reads files of a checkpoint."""
    try:
        yield
    except DiffTuneError:
        raise
    except Exception as error:  # of torch, of safetensors, of diffusers: whatever a file can be wrong in
        raise DiffTuneError(damaged(checkpoint, first_sentence(error))) from error


def damaged(checkpoint: Path, why: str) -> str:
    """What to say about a checkpoint that cannot be read."""
    return f"--resume_from_checkpoint: {checkpoint} is damaged ({why}); resume from another checkpoint."


def check_settings(checkpoint: Path, settings: dict[str, Any]) -> int:
    """Compares a checkpoint with the run that wants to resume from it, before any weights are loaded.

    Args:
        checkpoint (`Path`): The checkpoint.
        settings (`dict`): What both must agree on.

    Returns:
        `int`: The steps the checkpoint has done.

    Raises:
        DiffTuneError: They disagree; the message names the settings.
    """
    state = read_state(checkpoint)
    changed = differences(state["settings"], settings)
    if changed:
        raise DiffTuneError(
            f"--resume_from_checkpoint {checkpoint} belongs to another run: {'; '.join(changed)}; use the same settings"
            " or another --output_dir."
        )
    return state["step"]
