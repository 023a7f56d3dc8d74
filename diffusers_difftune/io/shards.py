# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Rows stored in a folder: a manifest, and numbered Parquet files (shards) that are each whole or absent.

The manifest has the settings that decide the rows and, once all shards are there, the SHA-256 of each. So a folder is built
by one process or by several, goes on where it was stopped, is refused by other settings, and is checked when it is read.
"""

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator

from ..console import duration, progress_bar
from ..errors import DiffTuneError
from .atomic import fsync_path, write_bytes_atomic
from .hashing import file_sha256
from .locks import build_lock, remove_lock
from .manifest import ShardManifest
from .processes import from_main


logger = logging.getLogger(__name__)

MEMORY_LIMIT = 512 * 2**20  # bytes of shards that stay in memory; a thousand samples of 4 × 64 × 64 take an eighth

Manifest = TypeVar("Manifest", bound=ShardManifest)


def build_shards(
    folder: Path,
    manifest: Manifest,
    make_shard: Callable[[range], bytes],
    *,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    finish: Callable[[Manifest], dict[str, bytes]] = lambda manifest: {},
) -> Manifest:
    """Builds a folder of shards, or goes on with one that was begun with the same settings.

    Each shard is put into place whole, and the folder counts as complete when all are there. So its bytes do not depend on
    how often its building was killed, nor on the number of processes that share it (they must see the same folder). Of two
    runs that build in the same folder one waits for the other.

    Args:
        folder (`Path`): A new or empty folder, or one that was begun.
        manifest ([`ShardManifest`]): What is to be built.
        make_shard (`Callable`): From a range of rows to the Parquet file of these rows.
        accelerator ([`Accelerator`], *optional*): The processes that share the work. `None` is this one alone.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar with the time left, on the main process.
        finish (`Callable`, *optional*):
            Called on the main process when all shards are there; returns what else goes into the folder, by file name.

    Returns:
        [`ShardManifest`]: The manifest of the complete folder.

    Raises:
        DiffTuneError: The folder holds something else, such as rows of other settings, or is damaged, or cannot be written
            to.
    """
    begun = from_main(accelerator, lambda: begun_manifest(folder, manifest))
    if not begun.is_complete:
        with build_lock(folder, accelerator):
            # another run may have built it meanwhile
            begun = from_main(accelerator, lambda: begun_manifest(folder, manifest))
            if not begun.is_complete:
                return fill(folder, begun, make_shard, accelerator, progress, finish)
    remove_lock(folder)
    if damage := begun.damage(folder):
        raise DiffTuneError(f"{folder} {damage}.")
    if place_among(accelerator)[0] == 0:
        logger.info(f"{folder} is there already, with {begun.counted(len(begun))}.")
    return begun


def begun_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest of what was begun in `folder` with these settings, or else the one given.

    Raises:
        DiffTuneError: The folder holds something else, or rows of other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise DiffTuneError(f"{folder} is a file; name a new folder.")
    occupied = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if not (folder / manifest.file_name).is_file():  # asked after the listing: another process may just be writing it
        if occupied:
            raise DiffTuneError(f"{folder} is neither empty nor {manifest.what}; name another folder.")
        return manifest
    begun = type(manifest).read(folder)
    if differences := begun.differences(manifest):
        raise DiffTuneError(
            f"{folder} holds {manifest.what} of other settings: {'; '.join(differences)}; delete that folder, use another one,"
            " or go back to the old settings."
        )
    return begun


def fill(
    folder: Path,
    manifest: Manifest,
    make_shard: Callable[[range], bytes],
    accelerator: Accelerator | None,
    progress: bool,
    finish: Callable[[Manifest], dict[str, bytes]],
) -> Manifest:
    """Makes the shards that are not there yet, and then says that the folder is complete."""
    is_main = place_among(accelerator)[0] == 0
    building, place = folder / manifest.building, folder / manifest.place
    if is_main:
        prepare(folder, manifest)
    wait_for_all(accelerator)
    if building.is_dir():  # else a process was killed between putting all shards into place and saying so
        make_missing(folder, manifest, make_shard, accelerator, progress)
    if is_main:
        if building != place and building.is_dir():
            os.rename(building, place)
            fsync_path(folder)
        hashes = {name: file_sha256(place / name) for name in manifest.shard_names}
        for name, content in finish(manifest).items():
            write_bytes_atomic(folder / name, content)
        complete: Any = manifest
        complete = replace(complete, shards=hashes)
        write_bytes_atomic(folder / manifest.file_name, complete.to_bytes())  # last: only now is the folder complete
    wait_for_all(accelerator)
    return type(manifest).read(folder)


def prepare(folder: Path, manifest: ShardManifest) -> None:
    """Makes the folder with its manifest, without what a killed process may have left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.rglob(".*.tmp"):
            leftover.unlink()
        if not (folder / manifest.file_name).is_file():
            write_bytes_atomic(folder / manifest.file_name, manifest.to_bytes())
        if manifest.building == manifest.place or not (folder / manifest.place).is_dir():
            (folder / manifest.building / manifest.shard_name(0)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiffTuneError(f"{folder} cannot be written to: {error.strerror}; use another folder.") from None


def make_missing(
    folder: Path,
    manifest: ShardManifest,
    make_shard: Callable[[range], bytes],
    accelerator: Accelerator | None,
    progress: bool,
) -> None:
    """Makes this process's part of the shards that are not there yet, and waits for the others to make theirs."""
    rank, world = place_among(accelerator)
    paths = [folder / manifest.building / name for name in manifest.shard_names]
    rows = [manifest.shard_range(number) for number in range(len(paths))]
    missing = [number for number, path in enumerate(paths) if not has_rows(path, len(rows[number]))]
    there = len(manifest) - sum(len(rows[number]) for number in missing)
    if rank == 0:
        already = f"; {there:,} are there already" if there else ""
        logger.info(f"{manifest.title}: {manifest.counted(len(manifest))} in {folder}{already}.")
    with progress_bar(
        hidden=not (progress and rank == 0),
        desc=manifest.title,
        unit=f" {manifest.unit}",
        total=len(manifest),
        initial=there,
    ) as bar:
        started, is_first = time.perf_counter(), True
        for number in missing:
            if number % world != rank:
                continue
            write_bytes_atomic(paths[number], make_shard(rows[number]))
            there = there + len(rows[number]) if world == 1 else manifest.num_built(folder)
            bar.update(there - bar.n)
            if is_first and rank == 0 and there < len(manifest):
                took, count = time.perf_counter() - started, len(rows[number])
                rest = took * (len(manifest) - there) / count / world
                logger.info(f"The first {count:,} took {duration(took)}; the rest takes about {duration(rest)}.")
            is_first = False
        wait_for_all(accelerator)
        bar.update(len(manifest) - bar.n)


def has_rows(path: Path, count: int) -> bool:
    """Whether there is a Parquet file with this number of rows."""
    try:
        return pq.read_metadata(path).num_rows == count
    except (OSError, pa.ArrowInvalid):
        return False


def place_among(accelerator: Accelerator | None) -> tuple[int, int]:
    """The number of this process, and the number of processes; number 0 is the main one."""
    return (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)


def wait_for_all(accelerator: Accelerator | None) -> None:
    """Waits until all processes are here."""
    if accelerator is not None:
        accelerator.wait_for_everyone()


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file; equal tables have equal bytes. Nothing is compressed: latents and images do not compress."""
    sink = BytesIO()
    pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


Shard = TypeVar("Shard", bound=Any)  # what is kept in memory of a shard, with its size in `nbytes`


class StoredRows(Generic[Manifest, Shard]):
    """The rows of a folder of shards, by index. Shards are read when they are first asked for; those asked for last stay in
    memory, up to `MEMORY_LIMIT`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._shards: OrderedDict[int, Shard] = OrderedDict()

    def __len__(self) -> int:
        return len(self.manifest)

    def read_shard(self, path: Path) -> Shard:
        raise NotImplementedError

    def shard_path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / self.manifest.place / self.manifest.shard_name(number)

    def find(self, index: int) -> tuple[Shard, int]:
        """The shard that has a row, and the place of the row in it."""
        if not 0 <= index < len(self):
            raise IndexError(
                f"{self.folder} has {self.manifest.counted(len(self))}, and number {index} was asked for."
            )
        number, row = divmod(index, self.manifest.shard_size)
        if number in self._shards:
            self._shards.move_to_end(number)
        else:
            self._shards[number] = self.read_shard(self.shard_path(number))
            while len(self._shards) > 1 and sum(shard.nbytes for shard in self._shards.values()) > MEMORY_LIMIT:
                self._shards.popitem(last=False)
        return self._shards[number], row

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": OrderedDict()}  # workers of a data loader read for themselves
