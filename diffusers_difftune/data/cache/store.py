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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import AcquireReturnProxy, FileLock, Timeout
from safetensors import safe_open
from safetensors.numpy import save
from tqdm.auto import tqdm

from ...errors import DiffTuneError, first_sentence
from ...io.atomic import fsync_path, write_bytes_atomic
from .in_use import hold


logger = logging.getLogger(__name__)

FOLDER = "encoded"  # in this library's cache
SETTINGS_NAME = "store.json"
USES = "used_by"
LOCK_NAME = "write.lock"
# What is encoded is put in place as often as this, in seconds, so that a killed run has not worked for nothing.
SEGMENT_SECONDS = 60.0


def row_key(content: str) -> bytes:
    """The key of a row: 32 bytes for a text, or for the hash of a file."""
    return hashlib.sha256(content.encode()).digest()


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
    use: tuple[str, str],
    encode: Callable[[list[int]], Iterator[pa.Table]],
) -> Rows:
    """The rows of some keys, in their order; those that no run has encoded with these settings are encoded.

    Every process of a run calls this; one at a time encodes, and those after it find what it did. A file lock and not a
    barrier makes them wait: encoding may take longer than a barrier's time limit, and each machine of several may have
    a cache of its own.

    Args:
        cache_dir (`Path`): This library's cache.
        kind (`str`): What the rows are: "images" or "prompts".
        settings (`dict`): Everything beside its content that decides what a row is encoded to.
        keys (`Sequence[bytes]`): The key of each wanted row; see [`row_key`].
        use (`tuple[str, str]`): The model that encodes them and the data they are of, as `difftune cache list` calls them.
        encode (`Callable`):
            Is given positions in `keys`, each of another key, and yields tables with a column `key` and columns of the
            encodings. The records of a key follow each other in one table.

    Raises:
        DiffTuneError: A segment is damaged, or the cache cannot be written to.
    """
    settings_key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_dir / FOLDER / kind / settings_key
    wanted = set(keys)
    try:
        in_use = hold(folder)
        write_use(folder, *use, wanted)
    except OSError as error:
        raise DiffTuneError(f"{folder} cannot be written to: {error.strerror}.", "--cache_dir") from None
    with in_use:
        names, places = find(folder, wanted)
        if len(places) < len(wanted):
            with turn_to_write(folder):
                for leftover in folder.glob(".*.tmp"):  # of a killed process
                    leftover.unlink(missing_ok=True)
                write_bytes_atomic(folder / SETTINGS_NAME, json.dumps({"kind": kind} | settings, indent=2).encode())
                _, places = find(folder, wanted)  # another process may have encoded them meanwhile
                new = {key: position for position, key in enumerate(keys) if key not in places}
                if places and new:
                    logger.info(f"{len(places)} of {len(wanted)} {kind} are in the cache, {len(new)} are new.")
                if new:
                    with tqdm(total=len(new), desc=f"Encoding {kind}") as progress:
                        write_segments(folder, encode(list(new.values())), progress)
            names, places = find(folder, wanted)
        return Rows(folder, names, np.array([places[key] for key in keys], dtype=np.int64).reshape(-1, 3))


def find(folder: Path, wanted: set[bytes]) -> tuple[list[str], dict[bytes, tuple[int, int, int]]]:
    """The segments of a store that have rows of the wanted keys, and the place of each row that is there, as in [`Rows`]."""
    found: dict[bytes, tuple[int, int, int]] = {}
    names, parts = [], 0
    for file in segments(folder):
        before = len(found)
        chunks = read_segment(file)["key"].chunks
        for part, chunk in enumerate(chunks, parts):
            for key, start, count in runs(chunk.to_pylist()):
                if key in wanted:
                    found.setdefault(key, (part, start, count))
        if len(found) > before:
            names.append(file.name)
            parts += len(chunks)
    return names, found


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
    """A segment, as a view of the file; raises a [`DiffTuneError`] if it is damaged."""
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


def turn_to_write(folder: Path) -> AcquireReturnProxy:
    """Keeps other processes from writing to a store, once none does and until the returned context ends."""
    lock = FileLock(folder / LOCK_NAME)
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        logger.info(f"Another process is encoding rows into {folder}; this one waits for it.")
        return lock.acquire()


class Use(NamedTuple):
    """The rows that the latest run with a model on some data used."""

    model: str  # the pipeline that encoded them: a folder, or an id on the Hub
    data: str
    keys: set[bytes]


def write_use(folder: Path, model: str, data: str, keys: set[bytes]) -> None:
    """Records that a run uses these rows now, in place of those that the last run on the same data used."""
    name = hashlib.sha256(json.dumps([model, data]).encode()).hexdigest()[:16]
    file = folder / USES / f"{name}.safetensors"
    file.parent.mkdir(exist_ok=True)
    array = np.frombuffer(b"".join(sorted(keys)), dtype=np.uint8).reshape(-1, 32)
    write_bytes_atomic(file, save({"keys": array}, {"model": model, "data": data}))


def read_use(file: Path) -> Use:
    """What [`write_use`] wrote; of a damaged file, a use of nothing."""
    try:
        with safe_open(file, "numpy") as opened:
            keys, facts = opened.get_tensor("keys"), opened.metadata()
        return Use(facts["model"], facts["data"], set(map(bytes, keys)))
    except Exception:  # safetensors raises an error of its own
        return Use("", "", set())


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
