# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of control images: built shard by shard, resumable, whole or not to be mistaken for it."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..bank.manifest import LARGEST, shorten
from ..bank.shard import Shard
from ..console import progress_bar
from ..errors import DiffTuneError
from ..io.atomic import fsync_path, write_bytes_atomic
from ..io.hashing import file_sha256
from ..io.json_values import wrong_value
from ..io.locks import remove_lock, turn_to_build
from ..io.processes import from_main


MANIFEST_NAME = "conditions.json"
FORMAT_VERSION = 1
# Shards lie in a hidden folder until all are there; so no script trains on half of them.
BUILDING, DATA = ".building", "data"


@dataclass(kw_only=True)
class ConditionManifest:
    """Everything that decides the bytes of a folder of control images.

    Attributes:
        extractor (`dict[str, Any]`): The settings of the [`Extractor`].
        source (`dict[str, Any]`): Which images, in words or numbers that change with them.
        num_rows (`int`): How many images.
        shard_size (`int`): Rows of a shard.
        libraries (`dict[str, str]`): Versions of the libraries that extracted.
        format_version (`int`): Version of this layout.
        shards (`dict[str, str]`): SHA-256 of each shard by its name. Empty until the folder is whole.
    """

    extractor: dict[str, Any]
    source: dict[str, Any]
    num_rows: int
    shard_size: int
    libraries: dict[str, str]
    format_version: int = FORMAT_VERSION
    shards: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A hash of the extractor's settings and the images: what tells folders apart that lie side by side."""
        return hashlib.sha256(json.dumps([self.extractor, self.source], sort_keys=True).encode()).hexdigest()

    @property
    def num_shards(self) -> int:
        """The number of shards."""
        return -(-self.num_rows // self.shard_size)

    @property
    def shard_names(self) -> list[str]:
        """The names of all shards, in the order of their rows; `datasets` takes them for a split named train."""
        count = self.num_shards
        return [f"train-{k:05d}-of-{count:05d}.parquet" for k in range(count)]

    @property
    def is_complete(self) -> bool:
        """Whether all shards are there."""
        return len(self.shards) == self.num_shards and list(self.shards) == self.shard_names

    def shard_range(self, shard: int) -> range:
        """The rows of a shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_rows))

    def to_bytes(self) -> bytes:
        """The manifest as it is written to `conditions.json`."""
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def read(cls, folder: Path) -> "ConditionManifest":
        """Reads the manifest in a folder.

        Raises:
            DiffTuneError: It is not one that this version can read.
        """
        try:
            values = json.loads((folder / MANIFEST_NAME).read_bytes())
            if not isinstance(values, dict) or wrong_value(cls, values):
                raise ValueError
            manifest = cls(**values)
            if not (1 <= manifest.num_rows < LARGEST and 1 <= manifest.shard_size < LARGEST):
                raise ValueError
        except (OSError, ValueError, RecursionError):
            raise DiffTuneError(
                f"{folder / MANIFEST_NAME} is damaged; delete the folder and build it again."
            ) from None
        if manifest.format_version != FORMAT_VERSION:
            raise DiffTuneError(
                f"{folder / MANIFEST_NAME} has format {manifest.format_version}, and this version reads format"
                f" {FORMAT_VERSION}; delete the folder and build it again."
            )
        return manifest

    def differences(self, other: "ConditionManifest") -> list[str]:
        """In what `other` differs, as clauses such as `kind is sketch, not edge` (the edge being this one's)."""
        facts = [(self.extractor, other.extractor), (self.source, other.source)]
        facts += [
            ({"the number of rows": self.num_rows}, {"the number of rows": other.num_rows}),
            ({"the number of rows in a shard": self.shard_size}, {"the number of rows in a shard": other.shard_size}),
        ]
        if not self.is_complete:  # a whole folder stays good when a library is updated
            facts += [
                ({"the set of library versions": self.libraries}, {"the set of library versions": other.libraries})
            ]
        clauses = []
        for here, there in facts:
            names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
            # one extractor's parameters are nothing to another's
            names = [name for name in names if name != "parameters"] or names
            clauses += [f"{name} is {shorten(there.get(name))}, not {shorten(here.get(name))}" for name in names]
        return clauses


def build_shards(
    folder: Path,
    manifest: ConditionManifest,
    make_shard: Callable[[range], bytes],
    accelerator: Accelerator | None = None,
    progress: bool = True,
) -> ConditionManifest:
    """Builds a folder of control images, or goes on with one that was begun with the same settings.

    Each shard is put into place whole, and the folder counts as whole when all are there. So its bytes do not depend
    on how often its building was killed, nor on the number of processes that share it. Of two runs that want the same
    folder one waits for the other.

    Args:
        folder (`Path`): A new or empty folder, or one that was begun.
        manifest ([`ConditionManifest`]): What is to be built.
        make_shard (`Callable`): From a range of rows to the Parquet file of these rows.
        accelerator ([`Accelerator`], *optional*): The processes that share the work. `None` is this one alone.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar with the time left, on the main process.

    Returns:
        [`ConditionManifest`]: Its manifest.

    Raises:
        DiffTuneError: The folder holds something else, such as control images of other settings, or is damaged,
            or cannot be written to.
    """
    begun = from_main(accelerator, lambda: begun_manifest(folder, manifest))
    if not begun.is_complete:
        with turn_to_build(folder, accelerator):
            begun = from_main(accelerator, lambda: begun_manifest(folder, manifest))  # another run may have built it
            if not begun.is_complete:
                fill_folder(folder, manifest, make_shard, accelerator, progress)
                return ConditionManifest.read(folder)
    remove_lock(folder)
    return checked(folder, begun)


def fill_folder(
    folder: Path,
    manifest: ConditionManifest,
    make_shard: Callable[[range], bytes],
    accelerator: Accelerator | None,
    progress: bool,
) -> None:
    """Makes the shards that are not there yet, and then says that the folder is whole."""
    is_main = accelerator is None or accelerator.is_main_process
    rank, world = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    wait = (lambda: None) if accelerator is None else accelerator.wait_for_everyone
    if is_main:
        prepare_folder(folder, manifest)
    wait()

    building, names = folder / BUILDING, manifest.shard_names
    if building.is_dir():  # else a process was killed between putting the last shard in place and saying so
        whole = [Shard.is_whole(building / name, len(manifest.shard_range(k))) for k, name in enumerate(names)]
        sizes = [len(manifest.shard_range(k)) for k in range(len(names))]
        with progress_bar(
            hidden=not (progress and is_main),
            desc=f"Control images ({manifest.extractor['kind']})",
            unit=" images",
            total=manifest.num_rows,
            initial=sum(size for size, done in zip(sizes, whole) if done),
        ) as bar:
            wait()  # nobody counts what another has just made
            for k, name in list(enumerate(names))[rank::world]:
                if whole[k]:
                    continue
                write_bytes_atomic(building / name, make_shard(manifest.shard_range(k)))
                there = sum(size for other, size in zip(names, sizes) if (building / other).is_file())
                bar.update(there - bar.n)
            wait()
            bar.update(manifest.num_rows - bar.n)
    wait()
    if is_main:
        if building.is_dir():
            os.rename(building, folder / DATA)
            fsync_path(folder)
        manifest.shards = {name: file_sha256(folder / DATA / name) for name in names}
        write_bytes_atomic(
            folder / MANIFEST_NAME, manifest.to_bytes()
        )  # last: only now does the folder count as whole
    wait()


def begun_manifest(folder: Path, manifest: ConditionManifest) -> ConditionManifest:
    """The manifest of what was begun in `folder` with these settings, or else the one given."""
    if folder.exists() and not folder.is_dir():
        raise DiffTuneError(f"{folder} is a file; build the control images in a new folder.")
    occupied = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if not (folder / MANIFEST_NAME).is_file():  # asked after the listing: another process may just be writing it
        if occupied:
            raise DiffTuneError(
                f"{folder} is neither empty nor a folder of control images; build them in another folder."
            )
        return manifest
    begun = ConditionManifest.read(folder)
    if differences := begun.differences(manifest):
        raise DiffTuneError(
            f"{folder} holds control images of other settings: {'; '.join(differences)}; delete that folder, use"
            " another one, or go back to the old settings."
        )
    return begun


def prepare_folder(folder: Path, manifest: ConditionManifest) -> None:
    """Makes the folder with its manifest, without what a killed process may have left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.rglob(".*.tmp"):
            leftover.unlink()
        if not (folder / MANIFEST_NAME).is_file():
            write_bytes_atomic(folder / MANIFEST_NAME, manifest.to_bytes())
        if not (folder / DATA).is_dir():
            (folder / BUILDING).mkdir(exist_ok=True)
    except OSError as error:
        raise DiffTuneError(f"{folder} cannot be written to: {error.strerror}; use another folder.") from None


def checked(folder: Path, manifest: ConditionManifest) -> ConditionManifest:
    """The manifest of a whole folder, if every shard is as it was written."""
    for name, sha256 in manifest.shards.items():
        if not (folder / DATA / name).is_file() or file_sha256(folder / DATA / name) != sha256:
            raise DiffTuneError(
                f"{folder} is damaged: {DATA}/{name} is missing or is not what was written; delete the folder and build"
                " it again."
            )
    return manifest
