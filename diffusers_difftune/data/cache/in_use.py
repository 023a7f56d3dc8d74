# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which folders of the cache running processes use, so that none is cleaned away under them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ...io.atomic import write_bytes_atomic


try:
    import fcntl
except ImportError:  # Windows, which does not remove files that are open
    fcntl = None  # type: ignore[assignment]

COPIES = "parquet"  # in this library's cache: what `datasets` copied out of Parquet files, by their contents
IN_USE_NAME = "in_use.lock"
SOURCE_NAME = "source.txt"
HELD: dict[Path, IO[bytes]] = {}  # what this process holds for as long as it lives


def hold(folder: Path) -> IO[bytes]:
    """Makes a folder if it is not there, and says that it is in use until the returned file is closed.

    Any number of processes may hold a folder; the system lets go for one that is killed.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            opened = open(folder / IN_USE_NAME, "ab")  # noqa: SIM115 (it stays open)
        except FileNotFoundError:  # removed since
            continue
        lock(opened, shared=True)
        if is_there(opened, folder):
            return opened
        opened.close()  # it was removed while we waited


def hold_while_running(folder: Path, source: str) -> None:
    """Holds a folder for as long as this process lives, and records when that was and what the folder is made of."""
    if folder not in HELD:
        HELD[folder] = hold(folder)
    os.utime(folder / IN_USE_NAME)
    write_bytes_atomic(folder / SOURCE_NAME, source.encode())


@contextmanager
def nobody_else(folder: Path) -> Iterator[bool]:
    """Keeps a folder from being held; yields whether that was possible, which it is not while anybody holds it."""
    try:
        opened = open(folder / IN_USE_NAME, "ab")  # noqa: SIM115 (closed below)
    except OSError:  # it cannot be written to, or was removed
        yield False
        return
    with opened:
        yield lock(opened, shared=False) and is_there(opened, folder)


def lock(opened: IO[bytes], shared: bool) -> bool:
    """Locks an open file, until it is closed: together with others, once that is possible, or alone, if it is possible now.
    Returns whether it did."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return shared
    return True


def is_there(opened: IO[bytes], folder: Path) -> bool:
    """Whether the open file is still the one in the folder."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), os.stat(folder / IN_USE_NAME))
    except FileNotFoundError:
        return False
