# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""SHA-256 of files, remembered so that an unchanged file is read once."""

import hashlib
import os
import sqlite3
import threading
from functools import lru_cache
from pathlib import Path


INDEX_NAME = "file_hashes.sqlite"


def file_sha256(path: str | Path, index_dir: str | Path | None = None, verify: bool = False) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits.

    Args:
        path (`str` or `Path`): The file.
        index_dir (`str` or `Path`, *optional*): Where hashes are remembered, by absolute path, size, modification time and inode,
            for several processes at once. `None` remembers nothing.
        verify (`bool`, *optional*, defaults to `False`): Read the file even if its hash is remembered; only so is an edit noticed
            that restores size and time.
    """
    name = os.path.abspath(path)
    before = _identity(name)
    index = None if index_dir is None else _index(os.path.abspath(index_dir), os.getpid(), threading.get_ident())
    if index is not None and not verify:
        remembered = _ask(
            index, "SELECT sha256 FROM files WHERE path = ? AND size = ? AND mtime = ? AND inode = ?", name, *before
        )
        if remembered is not None:
            return remembered[0]
    with open(name, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if index is not None and _identity(name) == before:  # not if it was written to while it was read
        _ask(index, "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", name, *before, digest)
    return digest


def _identity(path: str) -> tuple[int, int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


@lru_cache(maxsize=8)
def _index(index_dir: str, process: int, thread: int) -> sqlite3.Connection | None:
    """A connection of this process and thread alone: SQLite's may not cross a fork."""
    try:
        os.makedirs(index_dir, exist_ok=True)
        index = sqlite3.connect(os.path.join(index_dir, INDEX_NAME), timeout=60, isolation_level=None)
        index.execute("PRAGMA synchronous = OFF")  # a lost entry costs a read, so no entry is worth a disk flush
        index.execute(
            "CREATE TABLE IF NOT EXISTS files"
            " (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, inode INTEGER, sha256 TEXT) WITHOUT ROWID"
        )
    except (OSError, sqlite3.Error):
        return None
    return index


def _ask(index: sqlite3.Connection, query: str, *values: str | int) -> tuple | None:
    """The first row of the answer. An index that cannot be used (a full disk, a file system without locks) only means
    that files are read again."""
    try:
        return index.execute(query, values).fetchone()
    except sqlite3.Error:
        return None
