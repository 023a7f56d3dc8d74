# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Locks between runs: no two build the same folder, or write to the same run folder, at the same time."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from accelerate import Accelerator
from filelock import FileLock, Timeout

from ..errors import DiffTuneError
from .processes import from_main


logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
# Processes that wait for their main one give up after some minutes, so it tells them again and again to go on waiting.
PATIENCE = 30.0
RUN_LOCK_NAME = ".run.lock"
# A run whose launcher was killed ends after its step, with a checkpoint; so many seconds it may take.
LAST_MOMENTS = 120.0
OWN_LOCKS: dict[Path, FileLock] = {}  # a lock that nobody holds is released


@contextmanager
def build_lock(folder: Path, accelerator: Accelerator | None = None) -> Iterator[None]:
    """Makes a folder and keeps other runs from building in it, once none does; call it on every process of a run.

    What is to be done must be asked inside the block: another run may have done it. If the block ends without an error,
    the folder is whole, and nothing of the lock is left in it. A killed run keeps nobody out.
    """
    lock = FileLock(folder / LOCK_NAME)

    def acquire(timeout: float) -> bool:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout)
        except Timeout:
            return False
        except OSError as error:
            raise DiffTuneError(f"{folder} cannot be written to: {error.strerror}; use another folder.") from None
        return True

    acquired = from_main(accelerator, lambda: acquire(0))
    if not acquired and (accelerator is None or accelerator.is_main_process):
        logger.info(f"Another run is building {folder}; this one waits for it.")
    while not acquired:
        acquired = from_main(accelerator, lambda: acquire(PATIENCE))
    try:
        yield
        remove_lock(folder)
    finally:
        lock.release()


def keep_for_this_run(folder: Path, waits: bool = True) -> None:
    """Keeps other runs out of a folder that exists for as long as this process lives, or is refused by another run that does so,
    if need be after a while in which that one may end."""
    lock = FileLock(folder / RUN_LOCK_NAME, is_singleton=True)  # in this process it can be taken again
    other = "another run"
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            other = f"another run{holder(folder / RUN_LOCK_NAME)}"
            if not waits:
                raise
            logger.warning(
                "%s is being written to by %s; this one waits for it to end, %.0f s at most.",
                folder,
                other,
                LAST_MOMENTS,
            )
            lock.acquire(timeout=LAST_MOMENTS)
    except Timeout:
        raise DiffTuneError(
            f"{other} is writing to it; wait for that one to end, stop it, or take another folder."
        ) from None
    except (OSError, NotImplementedError):
        logger.warning("%s cannot be locked here; take care that no two runs write to it.", folder)
    else:
        OWN_LOCKS[folder.resolve()] = lock


def holder(lock: Path) -> str:
    """The process that has a lock open, as ` (process 123, begun at 09:15)`; nothing where it is of another machine or user."""
    place = str(lock.resolve())
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(file.path == place for file in process.open_files()):
                return f" (process {process.pid}, begun at {time.strftime('%H:%M', time.localtime(process.create_time()))})"
    return ""


def remove_lock(folder: Path) -> None:
    """Removes what [`build_lock`], or a run that was killed in its last moment, left in a whole folder.

    Even if it is held: who holds this file, and who makes a new one, finds nothing left to build.
    """
    with suppress(OSError):  # it is not there, or the folder is for reading only
        (folder / LOCK_NAME).unlink()
