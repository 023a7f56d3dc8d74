# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Disks that are full, or for reading only: noticed before a checkpoint is begun, and told in a sentence."""

import errno
import os
import re
import shutil
from pathlib import Path

from ..errors import DiffTuneError


# Errors of a place rather than of a program: full, over a quota, over the largest size of a file, for reading only.
PLACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


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
            f"--output_dir: {what} takes {size(needed)} and {folder} has {size(free)} left; make room, or lower"
            " --checkpoints_total_limit, and go on with --resume_from_checkpoint latest."
        )


def size(count: float) -> str:
    """Bytes as people read them."""
    units = ["bytes", "KB", "MB", "GB"]
    while count >= 1000 and len(units) > 1:
        count, units = count / 1000, units[1:]
    return f"{count:.3g} {units[0]}"


def place_trouble(error: BaseException | None, what: str = "A file") -> str | None:
    """A sentence about an error that comes from the disk; `None` for any other error.

    Args:
        error (`BaseException`, *optional*): An `OSError`, or what safetensors, which writes files by itself, makes of one.
        what (`str`, *optional*, defaults to `"A file"`): What was written, if the error does not know.
    """
    while error is not None:
        found = re.search(r"\(os error (\d+)\)", str(error))  # safetensors
        number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if number in PLACE_ERRORS:
            where = getattr(error, "filename", None)
            return (
                f"{where or what} cannot be written ({errno_text(number)}); everything that was finished is kept: make"
                " room, or take another folder, and give the same command, for training with --resume_from_checkpoint"
                " latest."
            )
        error = error.__cause__
    return None


def errno_text(number: int) -> str:
    """What an error number means."""
    return os.strerror(number)[:1].lower() + os.strerror(number)[1:]
