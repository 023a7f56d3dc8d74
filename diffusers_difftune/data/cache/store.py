# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Encoded rows on disk, each under the hash of what it was encoded from, so that nothing is encoded twice.

CACHE/encoded/images/KEY/
  store.json                 with what settings these rows were encoded; KEY is its hash
  000001.arrow …             segments: rows that were encoded together; never changed once they are there
  used_by/NAME.safetensors   the rows that the latest run on some data used; its time is that of this run
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.numpy import save
from tqdm.auto import tqdm

from ...errors import DiffTuneError, first_sentence
from ...io.atomic import fsync_path, write_bytes_atomic
from .in_use import hold, nobody_else


logger = logging.getLogger(__name__)

FOLDER = "encoded"  # in this library's cache
SETTINGS_NAME = "store.json"
USES = "used_by"
LOCK_NAME = "write.lock"
# What is encoded is put in place as often as this, in seconds, so that a killed run has not worked for nothing.
SEGMENT_SECONDS = 60.0
# So many segments smaller than this, in bytes, become one when the next one is written.
MANY, SMALL = 8, 2**26


def row_key(content: str) -> bytes:
    """The key of a row: 32 bytes for a text, or for the hash of a file."""
    return hashlib.sha256(content.encode()).digest()


@dataclass(frozen=True)
class Use:
    """What rows are for, as `difftune cache list` says it.

    Attributes:
        model (`str`): The pipeline that encodes them: a folder, or an id on the Hub.
        data (`str`): The data they are of.
    """

    model: str
    data: str

    @property
    def file_name(self) -> str:
        """The file in `used_by/` that tells of it."""
        return hashlib.sha256(json.dumps([self.model, self.data]).encode()).hexdigest()[:16] + ".safetensors"


class Rows:
    """Some rows of a store, read through memory maps. While this object lives, the store is not cleaned.

    Args:
        folder (`Path`): The store.
        names (`list[str]`): The segments that have the rows.
        places (`np.ndarray` of shape `(rows, 3)`):
            Of each row: in which part of the segments it is, counted over all of them, where it begins there, and how many
            records it has.
    """

    def __init__(self, folder: Path, names: list[str], places: np.ndarray) -> None:
        self._made_of = (folder, names, places)
        self._in_use = hold(folder)
        self._columns: dict[str, list[np.ndarray]] = {}
        for name in names:
            table = read_segment(folder / name)
            for column in table.column_names:
                if column != "key":
                    self._columns.setdefault(column, []).extend(from_arrow(part) for part in table[column].chunks)
        self._parts, self._starts, self._counts = places.T.tolist()

    def __reduce__(self) -> tuple:
        return Rows, self._made_of  # a loader's worker maps the files itself

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def columns(self) -> list[str]:
        """The names of what there is of each row."""
        return list(self._columns)

    def records(self, row: int) -> int:
        """How many records a row has."""
        return self._counts[row]

    def value(self, column: str, row: int, record: int = 0) -> np.ndarray:
        """A record of a row, as a read-only view of the file."""
        return self._columns[column][self._parts[row]][self._starts[row] + record]


def find_or_encode(
    cache_dir: Path,
    kind: str,
    settings: dict[str, Any],
    keys: Sequence[bytes],
    use: Use,
    encode: Callable[[list[int]], Iterator[pa.Table]],
) -> Rows:
    """The rows of some keys; those that no run has encoded with these settings are encoded.

    Every process of a run calls this; one at a time encodes, and those after it find what it did. A file lock and not a
    barrier makes them wait: encoding may take longer than a barrier's time limit, and each machine of several may have
    a cache of its own.

    Args:
        cache_dir (`Path`): This library's cache.
        kind (`str`): What the rows are: "images" or "prompts".
        settings (`dict`): Everything beside its content that decides what a row is encoded to.
        keys (`Sequence[bytes]`): The key of each wanted row; see [`row_key`].
        use ([`Use`]): What they are for.
        encode (`Callable`):
            Is given positions in `keys`, each of another key, and yields tables with a column `key` and columns of the
            encodings. The records of a key follow each other in one table.

    Returns:
        [`Rows`]: The rows, in the order of `keys`.

    Raises:
        DiffTuneError: A segment is damaged, or the cache cannot be written to.
    """
    folder = store_folder(cache_dir, kind, settings)
    try:
        in_use = hold(folder)
        write_use(folder, use, keys)
    except OSError as error:
        raise DiffTuneError(f"{folder} cannot be written to: {error.strerror}.", "--cache_dir") from None
    rows = find(folder, keys)
    if isinstance(rows, list):
        with turn_to_write(folder):
            in_use.close()
            tidy(folder)
            in_use = hold(folder)
            write_bytes_atomic(folder / SETTINGS_NAME, json.dumps({"kind": kind} | settings, indent=2).encode())
            rows = find(folder, keys)  # another process may have encoded them meanwhile
            if isinstance(rows, list):
                distinct = len(set(keys))
                if len(rows) < distinct:
                    logger.info(f"{distinct - len(rows)} of {distinct} {kind} are in the cache, {len(rows)} are new.")
                with tqdm(total=len(rows), desc=f"Encoding {kind}") as progress:
                    write_segments(folder, encode(rows), progress)
                rows = find(folder, keys)
    in_use.close()
    if isinstance(rows, list):
        raise RuntimeError(f"{len(rows)} {kind} were not encoded.")
    return rows


def store_folder(cache_dir: Path, kind: str, settings: dict[str, Any]) -> Path:
    """The folder of the rows that are encoded with these settings."""
    return cache_dir / FOLDER / kind / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def find(folder: Path, keys: Sequence[bytes]) -> Rows | list[int]:
    """The rows of some keys, or where the keys are that the store does not have, each once."""
    found: dict[bytes, tuple[int, int, int]] = {}
    wanted, names, parts = set(keys), [], 0
    for file in segments(folder):
        before = len(found)
        chunks = read_segment(file)["key"].chunks
        for part, chunk in enumerate(chunks, parts):
            found.update(
                (key, (part, start, count))
                for key, start, count in runs(chunk.to_pylist())
                if key in wanted and key not in found
            )
        if len(found) > before:
            names.append(file.name)
            parts += len(chunks)
    if len(found) < len(wanted):
        return [position for key, position in {key: i for i, key in enumerate(keys)}.items() if key not in found]
    return Rows(folder, names, np.array([found[key] for key in keys], dtype=np.int64).reshape(-1, 3))


def runs(keys: list[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Each key with where its records begin and how many there are."""
    start = 0
    for index in range(1, len(keys) + 1):
        if index == len(keys) or keys[index] != keys[start]:
            yield keys[start], start, index - start
            start = index


def segments(folder: Path) -> list[Path]:
    """The segments of a store, oldest first."""
    return sorted(folder.glob("[0-9]*.arrow"))


def read_segment(file: Path) -> pa.Table:
    """A segment, as a view of the file.

    Raises:
        DiffTuneError: It is damaged.
    """
    try:
        with pa.memory_map(str(file)) as opened:  # what was read keeps the map, not the open file
            table = pa.ipc.open_file(opened).read_all()
        if table.schema.field("key").type == pa.binary(32) and len(table.column_names) > 1:
            return table
        found = f"its columns are {', '.join(table.column_names)}"
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        found = first_sentence(error)
    raise DiffTuneError(f"{file} of the cache is damaged ({found}); delete it, and its rows are encoded again.")


def write_segments(folder: Path, tables: Iterator[pa.Table], progress: Any = None) -> None:
    """Writes tables to new segments, each of which is whole or not there."""
    last = segments(folder)[-1:]
    number = int(last[0].stem) if last else 0
    while (table := next(tables, None)) is not None:
        number += 1
        file = folder / f"{number:06}.arrow"
        aside = file.with_name(f".{file.name}.tmp")
        until = time.monotonic() + SEGMENT_SECONDS
        try:
            with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                while table is not None:
                    writer.write_table(table)
                    if progress is not None:
                        progress.update(len(pc.unique(table["key"])))
                    table = next(tables, None) if time.monotonic() < until else None
            fsync_path(aside)
            os.replace(aside, file)
        finally:
            aside.unlink(missing_ok=True)
        fsync_path(folder)


@contextmanager
def turn_to_write(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing to a store, once none does."""
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        logger.info(f"Another process is encoding rows into {folder}; this one waits for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def tidy(folder: Path) -> None:
    """Removes what a killed process left, and makes one of many small segments, if no process reads them.

    To be called in one's [`turn_to_write`], without the store in use.
    """
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    with nobody_else(folder) as alone:
        if alone:
            merge(folder)


def merge(folder: Path) -> None:
    """Makes one of many small segments; a kill leaves a row twice at worst."""
    small = [file for file in segments(folder) if file.stat().st_size < SMALL]
    if len(small) >= MANY:
        write_segments(folder, map(read_segment, small))
        for file in small:
            file.unlink()


def write_use(folder: Path, use: Use, keys: Sequence[bytes]) -> None:
    """Records that a run uses these rows now, in place of those that the last run on the same data used."""
    folder = folder / USES
    folder.mkdir(exist_ok=True)
    array = np.frombuffer(b"".join(sorted(set(keys))), dtype=np.uint8).reshape(-1, 32)
    content = save({"keys": array}, {"model": use.model, "data": use.data})
    file = folder / use.file_name
    if file.is_file() and file.read_bytes() == content:
        os.utime(file)
    else:
        write_bytes_atomic(file, content)


def read_use(file: Path) -> tuple[Use, set[bytes]]:
    """What [`write_use`] wrote."""
    with safe_open(file, "numpy") as opened:
        keys, facts = opened.get_tensor("keys"), opened.metadata()
    return Use(facts["model"], facts["data"]), set(map(bytes, keys))


def to_arrow(array: np.ndarray) -> pa.Array:
    """A numpy array as nested Arrow lists of fixed size, so that the file knows the shape and type of a row."""
    values = pa.array(array.reshape(-1))
    for size in reversed(array.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


def from_arrow(array: pa.Array) -> np.ndarray:
    """The inverse of [`to_arrow`], as a read-only view of the same memory."""
    shape = []
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    return array.to_numpy(zero_copy_only=True).reshape(-1, *shape)
