# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are either whole or not there: written aside, flushed to disk, renamed into place."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Writes a file, in a folder that exists, so that a reader, or a crash at any moment, finds the old one or the new one and
    nothing between."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    fsync_path(path.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Fills a folder aside and puts it in place of `path`, old content and all, when the block ends without an error.

    A crash leaves at most a sibling `.NAME.tmp`, which the next call for the same path removes. One process at a time
    may call this for a path; others may write into the folder it yields.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():  # a crash between the two renames below
        os.rename(old, path)
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        fsync_tree(aside)
        if path.exists():  # a folder that is not empty cannot be renamed over
            os.rename(path, old)
        os.rename(aside, path)
        fsync_path(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def remove_folder(path: str | Path) -> None:
    """Removes a folder so that a crash leaves it whole, or as a leftover that [`clean_leftovers`] removes."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(path, aside)
    shutil.rmtree(aside)


def clean_leftovers(folder: str | Path, pattern: str) -> list[str]:
    """Removes what a crash left beside the folders of a pattern that [`atomic_folder`] and [`remove_folder`] deal with, and puts
    back one that was out of its place in that moment. Returns the names of what was removed."""
    found = sorted(Path(folder).glob(f".{pattern}.old")) + sorted(Path(folder).glob(f".{pattern}.tmp"))
    removed = []
    for path in found:
        place = path.with_name(path.name[1:].rsplit(".", 1)[0])
        if path.suffix == ".old" and not place.exists():
            os.rename(path, place)
        else:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    return removed


def fsync_tree(path: str | Path) -> None:
    """Flushes a folder with everything in it to disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            fsync_path(Path(folder, name))
        fsync_path(folder)


def fsync_path(path: str | Path) -> None:
    """Flushes a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
