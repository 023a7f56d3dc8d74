# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The run folder: what an earlier run left in it, when it may be written to, and what is removed from it.

A run that came as far as a checkpoint or a result is only written over where a flag says so. One that was stopped before
that, while it sampled its bank or made its caches, goes on with the same command.
"""

import json
import logging
import os
import shutil
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..adapters.files import CONFIG_FILE, LORA_FILE, TENSOR_FILE
from ..errors import DiffTuneError, flag
from ..io.atomic import clean_leftovers, remove_folder
from ..io.locks import keep_for_this_run
from ..publishing.card.figures import FOLDER as FIGURES
from ..publishing.card.figures import TITLES
from ..publishing.card.run import CARD_FILE
from .checkpoint_files import find_checkpoint, list_checkpoints, step_of


logger = logging.getLogger(__name__)
RECORD, LOG, VALIDATION = "run_config.json", "training_log.jsonl", "validation"
INDEX, CONTROLNET_CONFIG = "model_index.json", "config.json"
# What results are made of at the top of the folder, beside the components that model_index.json names.
RESULT = (INDEX, LORA_FILE, TENSOR_FILE, CONFIG_FILE, "diffusion_pytorch_model*.safetensors*")
ASIDE = (".result.tmp", ".result.old", ".upload.tmp")
WAYS_ON = "take another --output_dir, or add --overwrite_output_dir to remove that run first"


@dataclass
class EarlierRun:
    """A run that came as far as a checkpoint or a result."""

    checkpoint: int | None  # the step of its newest one
    steps: int | None = None  # how long it was to be, if its record says so
    has_result: bool = False  # be it of a run that was killed before it said so
    is_finished: bool = False  # it came to its end, and said so

    def __str__(self) -> str:
        if self.is_finished:
            return "a finished run" if self.steps is None else f"a finished run of {self.steps} steps"
        if self.has_result:
            return "the result of a run"
        return f"a run that stopped after checkpoint-{self.checkpoint}"


def take_output_dir(config: Any, result_files: tuple[str, ...] = ()) -> Path | None:
    """Makes the run folder, keeps other runs out of it, and removes what one that was killed left half-written. Returns the
    checkpoint to resume from, if there is one. `result_files` are those that results of the task have beside `RESULT`.

    Raises:
        DiffTuneError: The folder cannot be made, another run does not leave it, it holds a run that would be overwritten,
            or there is no such checkpoint.
    """
    output_dir = Path(config.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiffTuneError(f"--output_dir {output_dir} cannot be made: {error.strerror}.") from error
    if config.resume_from_checkpoint is None:  # at once, where waiting for another run would not change it
        check_is_free(config, output_dir, None, result_files)
    with flag(f"--output_dir {output_dir}"):
        keep_for_this_run(output_dir, waits=not config.overwrite_output_dir)
    clean_leftovers(output_dir / VALIDATION, "step-*")
    for name in clean_leftovers(output_dir, "checkpoint-*"):
        logger.warning("%s was not written to its end and is removed.", output_dir / name)
    for leftover in output_dir.glob(".*.tmp"):  # of a single file that was being written anew
        if leftover.is_file():
            leftover.unlink()
    checkpoint = find_checkpoint(config.resume_from_checkpoint, output_dir)
    check_is_free(config, output_dir, checkpoint, result_files)
    return checkpoint


def check_is_free(config: Any, output_dir: Path, checkpoint: Path | None, result_files: tuple[str, ...]) -> None:
    """Raises a [`DiffTuneError`] where an earlier run, or files that are nobody's run, would be written over."""
    if foreign := foreign_files(output_dir, result_files):
        raise DiffTuneError(
            f"--output_dir {output_dir} holds {', '.join(foreign)}, which no run wrote there and this one would overwrite;"
            " take another --output_dir."
        )
    is_of_this_run = checkpoint is not None and checkpoint.resolve().parent == output_dir.resolve()
    if config.overwrite_output_dir or is_of_this_run:
        return
    earlier = find_run(output_dir)
    if earlier is None:
        return
    resume = config.resume_from_checkpoint
    if resume == "latest":
        if not earlier.is_finished:  # it was killed while it wrote its result, and never had a checkpoint
            return
        raise DiffTuneError(
            f"--resume_from_checkpoint latest: --output_dir {output_dir} holds {earlier}, and no checkpoint to go on from;"
            f" {WAYS_ON}."
        )
    if resume is not None:
        raise DiffTuneError(
            f"--resume_from_checkpoint {resume} is not of the run in --output_dir {output_dir}, which holds {earlier};"
            f" {WAYS_ON}."
        )
    if earlier.checkpoint is None:
        raise DiffTuneError(f"--output_dir {output_dir} holds {earlier}, without checkpoints; {WAYS_ON}.")
    more = " and more --max_train_steps" if earlier.is_finished and earlier.steps == earlier.checkpoint else ""
    raise DiffTuneError(
        f"--output_dir {output_dir} holds {earlier}; go on with it by --resume_from_checkpoint latest{more}, {WAYS_ON}."
    )


def foreign_files(output_dir: Path, result_files: tuple[str, ...]) -> list[str]:
    """What has the name of something that a run writes, in a folder that no run has written to."""
    if (output_dir / RECORD).is_file() or list_checkpoints(output_dir):
        return []
    written = (*RESULT, CARD_FILE, *result_files)
    return sorted(path.name for path in output_dir.iterdir() if any(fnmatch(path.name, each) for each in written))


def find_run(output_dir: Path) -> EarlierRun | None:
    """The run in a folder; `None` if there is none that came as far as a checkpoint or a result."""
    checkpoints = list_checkpoints(output_dir)
    newest = step_of(checkpoints[-1]) if checkpoints else None
    record = read_record(output_dir)
    if record is None:
        return None if newest is None else EarlierRun(newest)
    is_finished = "card" in record  # the last thing that a run writes down
    has_result = is_finished or bool(result_files(output_dir, record))
    if newest is None and not has_result:
        return None
    return EarlierRun(newest, record.get("total_steps"), has_result, is_finished)


def read_record(output_dir: Path) -> dict[str, Any] | None:
    """`run_config.json`; `None` without one, and empty where it is damaged."""
    try:
        record = json.loads((output_dir / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def result_files(output_dir: Path, record: dict[str, Any]) -> list[str]:
    """The names of a run's result at the top of its folder: those that it wrote down, or whatever a result consists of."""
    named = (record.get("card") or {}).get("files")
    if named is not None:
        return [name for name in named if (output_dir / name).exists()]
    patterns = [*RESULT]
    if "conditioning_image_column" in record.get("flags", {}):
        patterns.append(CONTROLNET_CONFIG)
    try:
        patterns += [name for name in json.loads((output_dir / INDEX).read_text()) if (output_dir / name).is_dir()]
    except (OSError, ValueError, TypeError):  # no pipeline
        pass
    return sorted(path.name for path in output_dir.iterdir() if any(fnmatch(path.name, each) for each in patterns))


def clear(output_dir: Path) -> None:
    """Removes what an earlier run left, before a new one begins in its folder: result, card, log, checkpoints, validation
    images, tracker logs. Its bank and whatever is not of a run stay. The record goes last: a crash leaves a run's folder."""
    record = read_record(output_dir)
    checkpoints = list_checkpoints(output_dir)
    if record is None and not checkpoints:
        return
    earlier = find_run(output_dir)
    images = [path for path in sorted((output_dir / VALIDATION).glob("step-*")) if path.is_dir()]
    if earlier is not None:
        logger.warning("--overwrite_output_dir: %s held %s, which is removed.", output_dir, earlier)
    elif images:
        logger.warning("%s: the run that was begun there has no checkpoint, so its validation images go.", output_dir)
    for path in [*checkpoints, *images]:
        remove_folder(path)
    record = record or {}
    names = [*result_files(output_dir, record), *ASIDE, LOG]
    if "card" in record:
        names += [CARD_FILE, *(f"{FIGURES}/{name}" for name in TITLES)]
    for path in [*(output_dir / name for name in names), *tracker_logs(output_dir, record)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for folder in (output_dir / VALIDATION, output_dir / FIGURES):
        if folder.is_dir() and not os.listdir(folder):
            folder.rmdir()
    (output_dir / RECORD).unlink(missing_ok=True)


def tracker_logs(output_dir: Path, record: dict[str, Any]) -> list[Path]:
    """Where a run's trackers wrote, if that is inside of its folder."""
    flags = record.get("flags", {})
    name, project = flags.get("logging_dir"), flags.get("tracker_project_name", "text2image-fine-tune")
    if not name or not project:
        return []
    folder = output_dir / name / project
    return [folder] if folder.is_dir() and output_dir.resolve() in folder.resolve().parents else []
