# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What is in this library's cache, how large it is and what it belongs to; and removing what is of no use any more."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from ...errors import DiffTuneError
from ...io.atomic import remove_folder
from ..images.column import HASHES_OF_ROWS
from .in_use import COPIES, IN_USE_NAME, SOURCE_NAME, nobody_else
from .store import FOLDER, LOCK_NAME, SETTINGS_NAME, USES, Use, merge, read_segment, read_use, segments, write_segments


# What older versions wrote into the folders images/ and prompts/.
OLDER = re.compile(r"\.?[0-9a-f]{64}(\.lock|\.tmp|\.old)?")
OLDER_FOLDERS = ("images", "prompts")
# What is small, or takes long to make, and is only listed.
KEPT = {
    "conditions": "control images of knowledge banks in folders that cannot be written to",
    "checked": "which images can be read",
    "file_hashes.sqlite": "hashes of files",
}


@dataclass
class Store:
    """A folder of encoded rows, as it is now; `store.py` says what is in it.

    Args:
        folder (`Path`): The folder.
    """

    folder: Path
    settings: dict = field(init=False)
    uses: dict[Path, tuple[Use, set[bytes]]] = field(init=False)
    rows: dict[Path, list[bytes]] = field(init=False)

    def __post_init__(self) -> None:
        try:
            self.settings = json.loads((self.folder / SETTINGS_NAME).read_text())
        except (OSError, ValueError):
            self.settings = {}  # a run was killed before it encoded anything
        self.uses = {file: use_or_nothing(file) for file in sorted((self.folder / USES).glob("*.safetensors"))}
        self.rows = {file: keys_or_nothing(file) for file in segments(self.folder)}

    @property
    def size(self) -> int:
        """Bytes."""
        return size_of(self.folder)

    @property
    def last_used(self) -> float | None:
        """When a run last used it, in seconds since 1970."""
        return max((file.stat().st_mtime for file in self.uses), default=None)

    @property
    def models(self) -> list[str]:
        """The models whose encodings these are, by the names that runs gave; more than one if they are equal."""
        return sorted({use.model for use, _ in self.uses.values()} - {""})

    @property
    def title(self) -> str:
        """What is in it, in some words."""
        resolution = f" at {self.settings['resolution']} px" if "resolution" in self.settings else ""
        dtype = f" in {self.settings['dtype']}" if "dtype" in self.settings else ""
        return f"{self.folder.parent.name}{resolution}{dtype} by {' or '.join(self.models) or 'no model any more'}"

    def count(self) -> int:
        """How many rows there are."""
        return len({key for keys in self.rows.values() for key in keys})

    def unused(self, forgotten: Callable[[Use, Path], bool]) -> set[bytes]:
        """The rows that no data use, but for those whose use is forgotten."""
        kept = [keys for file, (use, keys) in self.uses.items() if not forgotten(use, file)]
        return {key for keys in self.rows.values() for key in keys}.difference(*kept)


def use_or_nothing(file: Path) -> tuple[Use, set[bytes]]:
    """A use; a damaged file is one of nothing."""
    try:
        return read_use(file)
    except Exception:  # safetensors raises an error of its own
        return Use("", ""), set()


def keys_or_nothing(file: Path) -> list[bytes]:
    """The keys of a segment's records; a damaged segment has none."""
    try:
        return read_segment(file)["key"].to_pylist()
    except DiffTuneError:
        return []


@dataclass(frozen=True)
class Found:
    """Something in the cache.

    Attributes:
        size (`int`): Bytes, or the bytes that are freed by its removal; of a part of the rows of a store about so many.
        title (`str`): What it is.
        last_used (`float`, *optional*): When, in seconds since 1970, if that is known.
        in_use (`bool`): Whether it is not removed, because a running process uses it.
    """

    size: int
    title: str
    last_used: float | None = None
    in_use: bool = False


def list_cache(cache_dir: Path) -> list[Found]:
    """Everything in this library's cache.

    Args:
        cache_dir (`Path`): The cache; see [`difftune_cache_dir`].

    Returns:
        `list[Found]`: The encodings first, then what is beside them.
    """
    found = []
    for store in stores(cache_dir):
        data = [f"{use.data} ({len(keys):,})" for use, keys in store.uses.values()]
        unused = len(store.unused(lambda *_: False))
        of = f" of {', '.join(data)}" if data else ""
        more = f"; {unused:,} of them of no data any more" if unused else ""
        found.append(Found(store.size, f"{store.count():,} {store.title},{of}{more}", store.last_used))
    for folder in copies(cache_dir):
        found.append(Found(size_of(folder), copy_title(folder), copy_used(folder)))
    if older := older_entries(cache_dir):
        found.append(Found(sum(map(size_of, older)), "encodings of an older version, which are not read any more"))
    if hashes := hashes_of_rows(cache_dir):
        title = "hashes of images inside Parquet and Arrow files"
        found.append(Found(sum(map(size_of, hashes)), title, max(file.stat().st_mtime for file in hashes)))
    kept = {cache_dir / name: title for name, title in KEPT.items()}
    return found + [Found(size_of(path), title) for path, title in kept.items() if path.exists()]


def clean_cache(
    cache_dir: Path, older_than: float | None = None, models: list[str] | None = None, really: bool = False
) -> list[Found]:
    """Removes what is of no use any more: rows of edited or removed images and prompts, and what older versions wrote.

    A row is of use to the data whose latest run used it.

    Args:
        cache_dir (`Path`): The cache; see [`difftune_cache_dir`].
        older_than (`float`, *optional*): Data that no run used for so many days need nothing either.
        models (`list[str]`, *optional*): Only what these models encoded, and all of it that `older_than` allows.
        really (`bool`, *optional*, defaults to `False`): Do it; else only say what would be done.

    Returns:
        `list[Found]`: What was or would be removed.
    """

    def is_old(last_used: float) -> bool:
        return older_than is None or time.time() - last_used >= older_than * 86400

    def forgotten(use: Use, file: Path) -> bool:
        if models is None and older_than is None:
            return False
        return (models is None or use.model in models) and is_old(file.stat().st_mtime)

    removals = []
    for store in stores(cache_dir):
        if models is None or set(models) & set(store.models):
            removals += clean_store(store.folder, forgotten, really)
    if models is not None:
        return removals
    if left := killed_removals(cache_dir):
        removals.append(Found(sum(map(size_of, left)), "what was being removed when a process was killed"))
        if really:
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
    if older := older_entries(cache_dir):
        removals.append(Found(sum(map(size_of, older)), "encodings of an older version"))
        if really:
            for path in older:
                remove(path)
    if older_than is not None:
        for folder in copies(cache_dir):
            if is_old(copy_used(folder)):
                with nobody_else(folder) as alone:
                    removals.append(Found(size_of(folder), copy_title(folder), in_use=not alone))
                    if really and alone:
                        remove(folder)
        for file in hashes_of_rows(cache_dir):
            if is_old(file.stat().st_mtime):
                removals.append(Found(size_of(file), "hashes of images inside a Parquet or Arrow file"))
                if really:
                    remove(file)
    return removals


def clean_store(folder: Path, forgotten: Callable[[Use, Path], bool], really: bool) -> list[Found]:
    """[`clean_cache`] for one folder of encoded rows."""
    with store_alone(folder) as alone:
        store = Store(folder)
        forget = [file for file, (use, _) in store.uses.items() if forgotten(use, file)]
        unused = store.unused(forgotten)
        useless = [file for file, keys in store.rows.items() if unused.issuperset(keys)]  # damaged ones, too
        useless += folder.glob(".*.tmp")  # of a killed process
        if len(forget) == len(store.uses):  # no data are left
            removal = Found(store.size, f"{store.count():,} {store.title}", in_use=not alone)
            if really and alone:
                remove(folder)
            return [removal]
        mixed = {file: keys for file, keys in store.rows.items() if file not in useless and unused.intersection(keys)}
        freed = sum(map(size_of, useless))
        for file, keys in mixed.items():
            freed += round(size_of(file) * sum(key in unused for key in keys) / len(keys))
        if really and alone:
            for file in mixed:
                write_segments(folder, without(read_segment(file), unused))
            for file in (*forget, *useless, *mixed):
                file.unlink(missing_ok=True)
            merge(folder)
        if not forget and not useless and not mixed:
            return []
        return [Found(freed, f"{len(unused):,} of {store.count():,} {store.title}", in_use=not alone)]


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
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        with nobody_else(folder) as alone:
            yield alone
    finally:
        lock.release()


def stores(cache_dir: Path) -> list[Store]:
    """The folders of encoded rows."""
    return [Store(folder) for folder in sorted((cache_dir / FOLDER).glob("*/[0-9a-f]*")) if folder.is_dir()]


def copies(cache_dir: Path) -> list[Path]:
    """The folders in which `datasets` keeps what it copied out of Parquet files."""
    return [folder for folder in sorted((cache_dir / COPIES).glob("[0-9a-f]*")) if folder.is_dir()]


def copy_title(folder: Path) -> str:
    """What a folder in [`copies`] is."""
    try:
        source = (folder / SOURCE_NAME).read_text()
    except (OSError, ValueError):  # of an older version
        source = "some Parquet files"
    return f"a copy of {source}"


def copy_used(folder: Path) -> float:
    """When a folder in [`copies`] was last used."""
    mark = folder / IN_USE_NAME
    return (mark if mark.exists() else folder).stat().st_mtime


def hashes_of_rows(cache_dir: Path) -> list[Path]:
    """The files with the hashes of images inside others."""
    return sorted((cache_dir / HASHES_OF_ROWS).glob("*.npy"))


def older_entries(cache_dir: Path) -> list[Path]:
    """What older versions wrote."""
    return [
        path for name in OLDER_FOLDERS for path in sorted((cache_dir / name).glob("*")) if OLDER.fullmatch(path.name)
    ]


def killed_removals(cache_dir: Path) -> list[Path]:
    """What [`remove`] left when it was killed."""
    return [*(cache_dir / FOLDER).glob("*/.*.tmp"), *(cache_dir / COPIES).glob(".*.tmp")]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def remove(path: Path) -> None:
    """Removes a file or folder."""
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)
