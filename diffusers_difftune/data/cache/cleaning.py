# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What is in this library's cache, how large it is and what it belongs to; and removing what is of no use any more."""

import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from ...errors import DiffTuneError
from ...io.atomic import remove_folder
from ...io.hashing import INDEX_NAME
from ..images.column import HASHES_OF_ROWS
from .in_use import COPIES, IN_USE_NAME, SOURCE_NAME, nobody_else
from .store import FOLDER, LOCK_NAME, SETTINGS_NAME, USES, Use, read_segment, read_use, segments, write_segments


# What is small, or takes long to make, and is only listed.
KEPT = {
    HASHES_OF_ROWS: "hashes of images inside Parquet and Arrow files",
    "conditions": "control images of knowledge banks in folders that cannot be written to",
    "checked": "which images can be read",
    INDEX_NAME: "hashes of files",
}


class Store:
    """A folder of encoded rows, as it is now; `store.py` says what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.settings = json.loads((folder / SETTINGS_NAME).read_text())
        except (OSError, ValueError):
            self.settings = {}  # a run was killed before it encoded anything
        self.uses = {file: read_use(file) for file in sorted((folder / USES).glob("*.safetensors"))}
        self.segments = {file: keys_or_nothing(file) for file in segments(folder)}
        self.keys = {key for keys in self.segments.values() for key in keys}
        self.size = size_of(folder)

    @property
    def last_used(self) -> float | None:
        """When a run last used it, in seconds since 1970."""
        return max((file.stat().st_mtime for file in self.uses), default=None)

    @property
    def models(self) -> list[str]:
        """The models whose encodings these are, by the names that runs gave; more than one if they are equal."""
        return sorted({use.model for use in self.uses.values()} - {""})

    @property
    def title(self) -> str:
        """How many rows there are, and of what."""
        resolution = f" at {self.settings['resolution']} px" if "resolution" in self.settings else ""
        dtype = f" in {self.settings['dtype']}" if "dtype" in self.settings else ""
        models = " or ".join(self.models) or "no model any more"
        return f"{len(self.keys):,} {self.folder.parent.name}{resolution}{dtype} by {models}"

    def unused(self, forgotten: Collection[Path] = ()) -> set[bytes]:
        """The rows that no data use, but for those whose use is forgotten."""
        return self.keys.difference(*(use.keys for file, use in self.uses.items() if file not in forgotten))


def keys_or_nothing(file: Path) -> list[bytes]:
    """The keys of a segment's records; a damaged segment has none."""
    try:
        return read_segment(file)["key"].to_pylist()
    except DiffTuneError:
        return []


@dataclass(frozen=True)
class Found:
    """Something in the cache."""

    size: int  # in bytes, or the bytes that are freed by its removal; of a part of the rows of a store about so many
    title: str
    last_used: float | None = None  # in seconds since 1970, if that is known
    in_use: bool = False  # it is not removed, because a running process uses it


def list_cache(cache_dir: Path) -> list[Found]:
    """Everything in this library's cache (see [`difftune_cache_dir`]): the encodings first, then what is beside them."""
    found = []
    for store in stores(cache_dir):
        data = ", ".join(f"{use.data} ({len(use.keys):,})" for use in store.uses.values())
        of = f", of {data}" if data else ""
        unused = len(store.unused())
        more = f"; {unused:,} of them of no data any more" if unused else ""
        found.append(Found(store.size, f"{store.title}{of}{more}", store.last_used))
    for folder in copies(cache_dir):
        found.append(Found(size_of(folder), copy_title(folder), copy_used(folder)))
    kept = {cache_dir / name: title for name, title in KEPT.items()}
    return found + [Found(size_of(path), title) for path, title in kept.items() if path.exists()]


def clean_cache(
    cache_dir: Path, older_than: float | None = None, models: list[str] | None = None, really: bool = False
) -> list[Found]:
    """Removes what is of no use any more: the rows of edited or removed images and prompts, and tells what that is. A row is of
    use to the data whose latest run used it.

    Args:
        cache_dir (`Path`): The cache; see [`difftune_cache_dir`].
        older_than (`float`, *optional*): Data that no run used for so many days need nothing either.
        models (`list[str]`, *optional*): Only what these models encoded, and all of it that `older_than` allows.
        really (`bool`, *optional*, defaults to `False`): Do it; else only tell what would be removed.
    """

    def is_old(last_used: float) -> bool:
        return older_than is None or time.time() - last_used >= older_than * 86400

    def forgotten(file: Path, use: Use) -> bool:
        if models is None and older_than is None:
            return False
        return (models is None or use.model in models) and is_old(file.stat().st_mtime)

    removals = []
    for store in stores(cache_dir):
        if models is None or set(models) & set(store.models):
            removals += clean_store(store.folder, forgotten, really)
    if models is not None:
        return removals
    if left := [*(cache_dir / FOLDER).glob("*/.*.tmp"), *(cache_dir / COPIES).glob(".*.tmp")]:
        removals.append(Found(sum(map(size_of, left)), "what was being removed when a process was killed"))
        if really:
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
    if older_than is not None:
        for folder in copies(cache_dir):
            if not is_old(copy_used(folder)):
                continue
            with nobody_else(folder) as alone:
                removals.append(Found(size_of(folder), copy_title(folder), in_use=not alone))
                if really and alone:
                    remove_folder(folder)
    return removals


def clean_store(folder: Path, forgotten: Callable[[Path, Use], bool], really: bool) -> list[Found]:
    """[`clean_cache`] for one folder of encoded rows."""
    with store_alone(folder) as alone:
        store = Store(folder)
        forget = [file for file, use in store.uses.items() if forgotten(file, use)]
        if len(forget) == len(store.uses):  # no data are left
            removal = Found(store.size, store.title, in_use=not alone)
            if really and alone:
                remove_folder(folder)
            return [removal]
        unused = store.unused(forget)
        leftovers = list(folder.glob(".*.tmp"))  # of a killed process
        changed = {file: keys for file, keys in store.segments.items() if not keys or unused.intersection(keys)}
        if not (forget or leftovers or changed):
            return []
        freed = sum(map(size_of, leftovers))
        for file, keys in changed.items():
            share = sum(key in unused for key in keys) / len(keys) if keys else 1
            freed += round(size_of(file) * share)
        if really and alone:
            for file, keys in changed.items():
                if keys:  # it is not damaged
                    write_segments(folder, without(read_segment(file), unused))
            for file in (*forget, *leftovers, *changed):
                file.unlink(missing_ok=True)
        return [Found(freed, f"{len(unused):,} of {store.title}", in_use=not alone)]


def without(table: pa.Table, keys: set[bytes]) -> Iterator[pa.Table]:
    """A table without the records of some keys, part by part."""
    unwanted = pa.array(list(keys), pa.binary(32))
    for batch in table.to_batches():
        kept = batch.filter(pc.invert(pc.is_in(batch["key"], unwanted)))
        if len(kept):
            yield pa.table(kept)


@contextmanager
def store_alone(folder: Path) -> Iterator[bool]:
    """Keeps every other process out of a store; yields whether none was in it."""
    try:
        turn = FileLock(folder / LOCK_NAME).acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    with turn, nobody_else(folder) as alone:
        yield alone


def stores(cache_dir: Path) -> list[Store]:
    """The folders of encoded rows."""
    return [Store(folder) for folder in sorted((cache_dir / FOLDER).glob("*/[0-9a-f]*")) if folder.is_dir()]


def copies(cache_dir: Path) -> list[Path]:
    """The folders in which `datasets` keeps what it copied out of Parquet files."""
    return [folder for folder in sorted((cache_dir / COPIES).glob("[0-9a-f]*")) if folder.is_dir()]


def copy_title(folder: Path) -> str:
    """What a folder in [`copies`] is."""
    source = folder / SOURCE_NAME
    return f"a copy of {source.read_text() if source.exists() else 'some Parquet files'}"


def copy_used(folder: Path) -> float:
    """When a folder in [`copies`] was last used."""
    mark = folder / IN_USE_NAME
    return (mark if mark.exists() else folder).stat().st_mtime


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
