# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as folders: which there are, whether they are whole, what is in them, and which of them go.

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..console import file_size
from ..errors import DiffTuneError, first_sentence
from ..io.atomic import remove_folder
from .differences import differences


logger = logging.getLogger(__name__)
STATE_FILE = "training_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
RESUME = "--resume_from_checkpoint"


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if (path / STATE_FILE).is_file()]
    return sorted((path for path in found if re.fullmatch(r"checkpoint-\d+", path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(checkpoint.name.split("-")[1])


def what_is_missing(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, seen without reading weights; `None` if nothing is."""
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
    """The checkpoint that `--resume_from_checkpoint` means: `latest`, a path, or a name inside the run folder. `None` starts
    anew, also `latest` in a run without checkpoints. `latest` passes over those that were damaged since they were written.

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
                f"All checkpoints in {output_dir} are damaged ({trouble} in {path.name}); give --overwrite_output_dir in its"
                " place to start anew.",
                f"{RESUME} latest",
            )
        logger.warning("--resume_from_checkpoint latest: %s has no checkpoint, so the run starts anew.", output_dir)
        return None
    for path in (Path(resume_from), output_dir / resume_from):
        if (path / STATE_FILE).is_file():
            trouble = what_is_missing(path)
            if trouble is not None:
                raise DiffTuneError(f"{path} is damaged: {trouble}; resume from another one.", RESUME)
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
        raise damaged(checkpoint, f"{STATE_FILE} cannot be read") from error


def check_settings(checkpoint: Path, settings: dict[str, Any]) -> int:
    """Compares a checkpoint with the settings of the run that wants to resume from it, before any weights are loaded;
    returns the steps it has done.

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


@contextmanager
def finds_damage(checkpoint: Path) -> Iterator[None]:
    """A context that reads files of a checkpoint."""
    try:
        yield
    except DiffTuneError:
        raise
    except Exception as error:  # of torch, of safetensors, of diffusers: whatever a file can be wrong in
        raise damaged(checkpoint, first_sentence(error)) from error


def damaged(checkpoint: Path, why: str) -> DiffTuneError:
    """The mistake of going on from a checkpoint that cannot be read."""
    return DiffTuneError(f"{checkpoint} is damaged ({why}); resume from another checkpoint.", RESUME)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raises a [`DiffTuneError`] if a folder's disk has no room for so many bytes, which `what` takes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiffTuneError(
            f"{what} takes {file_size(needed)} and {folder} has {file_size(free)} left; make room, or lower"
            " --checkpoints_total_limit, and go on with --resume_from_checkpoint latest.",
            "--output_dir",
        )


def remove_oldest(output_dir: Path, limit: int, newest: int) -> None:
    """Removes the oldest checkpoints of a run over a limit. `newest` is the step of the one that was written last; later
    steps are from before the run went back to an earlier checkpoint, so those are the old ones."""
    oldest_first = sorted(list_checkpoints(output_dir), key=lambda path: step_of(path) <= newest)
    for old in oldest_first[:-limit]:
        remove_folder(old)


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
