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
"""Checkpoints: `checkpoint-N/` folders that are whole or absent, laid out as diffusers' scripts lay them out.

    checkpoint-500/
      unet/  unet_ema/                    or  pytorch_lora_weights.safetensors, or the two files of another adapter
      optimizer.safetensors  training_state.json

No random state is stored: every draw is a function of the seed and the step.
"""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from ..adapters import Trained
from ..atomic import atomic_folder
from ..errors import DiffTuneError


if TYPE_CHECKING:
    from .run import Run

logger = logging.getLogger(__name__)
STATE_FILE = "training_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"


def split_optimizer_state(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as tensors by name and everything else as JSON-able values."""
    tensors, scalars = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
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


def find_checkpoint(resume_from: str | None, output_dir: Path) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` means: `latest`, a path, or a name inside the run folder.

    Args:
        resume_from (`str`, *optional*): The flag; `None` starts anew.
        output_dir (`Path`): The run folder.

    Returns:
        `Path` or `None`: The folder; `None` to start anew, also for `latest` in a run without checkpoints.

    Raises:
        DiffTuneError: The named checkpoint does not exist or is not complete.
    """
    if resume_from is None:
        return None
    if resume_from == "latest":
        checkpoints = list_checkpoints(output_dir)
        if not checkpoints:
            logger.warning(
                "--resume_from_checkpoint latest: %s has no checkpoint, so the run starts anew.", output_dir
            )
        return checkpoints[-1] if checkpoints else None
    for path in (Path(resume_from), output_dir / resume_from):
        if (path / STATE_FILE).is_file():
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
        raise DiffTuneError(
            f"--resume_from_checkpoint: {checkpoint / STATE_FILE} is damaged; resume from another checkpoint."
        ) from error


class TrainingState:
    """The trained weights, the optimiser, the schedule and how far they are: what a checkpoint holds.

    Made before any weights are loaded, so that a checkpoint of another run is refused at once; filled by [`prepare`].

    Args:
        run ([`Run`]): The run.
        settings (`dict`): What a resumed run must agree on with the one that wrote the checkpoint.
        total_steps (`int`): Optimiser steps of the whole run, which a checkpoint may not be past.

    Attributes:
        start_step (`int`): Optimiser steps done before this start.
        model (`torch.nn.Module`): The denoiser as accelerate prepared it.

    Raises:
        DiffTuneError: `--resume_from_checkpoint` names a checkpoint with other settings, or one past the end of the run.
    """

    def __init__(self, run: "Run", settings: dict[str, Any], total_steps: int) -> None:
        self.run = run
        self.settings = settings
        self.total_steps = total_steps
        self.start_step = 0
        if run.checkpoint is not None:
            self.start_step = check_settings(run.checkpoint, settings)
        if self.start_step > total_steps:
            raise DiffTuneError(
                f"--resume_from_checkpoint: {run.checkpoint} has done {self.start_step} steps and the run ends after"
                f" {total_steps}; give more --max_train_steps or an earlier checkpoint."
            )

    def prepare(self, trained: Trained, optimizer: Any, lr_scheduler: Any) -> None:
        """Hands everything to accelerate, and reads the checkpoint if there is one."""
        accelerator = self.run.accelerator
        self.trained, self.lr_scheduler = trained, lr_scheduler
        trained.to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(trained.model, optimizer)
        if self.run.checkpoint is not None:
            self.load(self.run.checkpoint)

    def save(self, step: int) -> None:
        """Writes `checkpoint-{step}` and only then removes the oldest ones over the limit. Call it on every process."""
        accelerator, output_dir = self.run.accelerator, self.run.output_dir
        if accelerator.is_main_process:
            with atomic_folder(output_dir / f"checkpoint-{step}") as folder:
                self.trained.save(folder)
                tensors, scalars = split_optimizer_state(self.optimizer.state_dict())
                save_file(tensors, folder / OPTIMIZER_FILE)
                state = {
                    "step": step,
                    "settings": self.settings,
                    "optimizer": scalars,
                    "lr_scheduler": self.lr_scheduler.state_dict(),
                    "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
                }
                (folder / STATE_FILE).write_text(json.dumps(state, indent=2))
            logger.info("Saved %s", output_dir / f"checkpoint-{step}")
            if self.run.config.checkpoints_total_limit is not None:
                # Later steps than this one are of an earlier run in the same folder, so those are the old ones.
                oldest_first = sorted(list_checkpoints(output_dir), key=lambda path: step_of(path) <= step)
                for old in oldest_first[: -self.run.config.checkpoints_total_limit]:
                    shutil.rmtree(old)
        accelerator.wait_for_everyone()

    def load(self, checkpoint: Path) -> None:
        """Reads what [`save`] wrote."""
        state = read_state(checkpoint)
        self.trained.load(checkpoint)
        tensors = load_file(checkpoint / OPTIMIZER_FILE)
        self.optimizer.load_state_dict(join_optimizer_state(tensors, state["optimizer"]))
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if self.run.accelerator.scaler is not None and state["scaler"] is not None:
            self.run.accelerator.scaler.load_state_dict(state["scaler"])
        logger.info("Resuming from %s after %d steps.", checkpoint, self.start_step)


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
    changed = [
        f"{name} was {found!r} and is {settings[name]!r}"
        for name, found in state["settings"].items()
        if name in settings and settings[name] != found
    ]
    if changed:
        raise DiffTuneError(
            f"--resume_from_checkpoint {checkpoint} belongs to another run: {'; '.join(changed)}; use the same settings"
            " or another --output_dir."
        )
    return state["step"]
