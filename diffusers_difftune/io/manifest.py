# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The manifest of a folder of shards (see `shards.py`): the settings that decide the rows, and the SHA-256 of each shard."""

import json
import re
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any, Self

from ..errors import DiffTuneError, quoted
from .hashing import file_sha256
from .json_values import wrong_value


LARGEST = 2**32  # no number of a manifest is larger


def setting(words: str, least: float | None = None) -> Any:
    """A field of a manifest that decides the rows.

    Args:
        words (`str`): What messages call it; for a dictionary, what they put before the names of its entries.
        least (`float`, *optional*): The least value of a number.
    """
    return field(metadata={"words": words, "least": least})


class ShardManifest:
    """What is stored in a folder of shards. No time stamp: equal folders have equal manifests.

    A subclass is a dataclass with its settings (see [`setting`]) and the four attributes below as fields, and says how its
    folder and its files are called.

    Attributes:
        shard_size (`int`): Rows of a shard; the last may have fewer.
        libraries (`dict[str, str]`): Versions of the libraries that computed the rows.
        format_version (`int`): Version of the layout.
        shards (`dict[str, str]`): SHA-256 of each shard by its name. Empty until all are there.
    """

    shard_size: int
    libraries: dict[str, str]
    format_version: int
    shards: dict[str, str]

    file_name = "manifest.json"
    readable_format = 1
    what = "a folder of shards"
    unit = "rows"
    place = building = ""  # the folders of the shards, once all are there and before

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def title(self) -> str:
        """What the progress bar says."""
        raise NotImplementedError

    def shard_name(self, number: int) -> str:
        raise NotImplementedError

    def counted(self, number: int) -> str:
        """A number of rows, in words."""
        return f"{number:,} {self.unit.removesuffix('s') if number == 1 else self.unit}"

    @property
    def num_shards(self) -> int:
        return -(-len(self) // self.shard_size)

    @property
    def shard_names(self) -> list[str]:
        """The names of all shards, in the order of their rows."""
        return [self.shard_name(number) for number in range(self.num_shards)]

    @property
    def is_complete(self) -> bool:
        """Whether all shards are there."""
        return len(self.shards) == self.num_shards and list(self.shards) == self.shard_names

    def shard_range(self, number: int) -> range:
        """The rows of a shard."""
        start = number * self.shard_size
        return range(start, min(start + self.shard_size, len(self)))

    def num_built(self, folder: Path) -> int:
        """How many rows are there, going by the names of files."""
        place = folder / (self.place if self.is_complete else self.building)
        there = [(place / name).is_file() for name in self.shard_names]
        return sum(len(self.shard_range(number)) for number, is_there in enumerate(there) if is_there)

    def damage(self, folder: Path) -> str | None:
        """The end of a sentence about the shards of a complete folder that are not what was written, or `None`."""
        damaged = [
            str(Path(self.place, name))
            for name, sha256 in self.shards.items()
            if not (folder / self.place / name).is_file() or file_sha256(folder / self.place / name) != sha256
        ]
        if not damaged:
            return None
        return f"is damaged: {', '.join(damaged)} is missing or is not what was written; delete the folder and build it again"

    def to_bytes(self) -> bytes:
        values = {entry.name: getattr(self, entry.name) for entry in self.entries()}
        return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def entries(cls) -> tuple[Field, ...]:
        """The fields of the manifest, in their order."""
        manifest_class: Any = cls  # a dataclass
        return fields(manifest_class)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the manifest of a folder.

        Raises:
            DiffTuneError: It is not there, or not one that this version can read.
        """
        path = folder / cls.file_name
        if not path.is_file():
            raise DiffTuneError(f"{folder} is not {cls.what}: it has no {cls.file_name}.")
        try:
            values = json.loads(path.read_bytes())
            version = values["format_version"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise DiffTuneError(
                f"{path} is damaged: it is not a manifest in JSON; delete the folder and build it again."
            ) from None
        if version != cls.readable_format:
            raise DiffTuneError(
                f"{path} has format {quoted(version)}, and this version reads format {cls.readable_format}; delete the"
                " folder and build it again."
            )
        if problem := wrong_value(cls, values) or cls.out_of_range(values):
            raise DiffTuneError(f"{path} is damaged ({problem}); delete the folder and build it again.")
        return cls(**values)

    @classmethod
    def out_of_range(cls, values: dict[str, Any]) -> str | None:
        """What is wrong with values of the right types, or `None`."""
        for entry in cls.entries():
            least = entry.metadata.get("least")
            if least is not None and not least <= values[entry.name] < LARGEST:
                return f"{entry.name} is {values[entry.name]}"
        return None

    def differences(self, other: Self) -> list[str]:
        """In what `other` differs, as clauses such as `--bank_steps is 50, not 20` (the 20 being this one's).

        A complete folder stays good when a library is updated; one half built must not mix the rows of two versions.
        """
        entries = [entry for entry in self.entries() if "words" in entry.metadata]
        names = [entry.name for entry in entries if getattr(self, entry.name) != getattr(other, entry.name)]
        if self.is_complete and "libraries" in names:
            names.remove("libraries")
        return [clause for name in names for clause in self.clauses(name, other, names)]

    def clauses(self, name: str, other: Self, differing: list[str]) -> list[str]:
        """What [`differences`] says of one field."""
        words = next(entry.metadata["words"] for entry in self.entries() if entry.name == name)
        here, there = getattr(self, name), getattr(other, name)
        if not isinstance(here, dict):
            return [f"{words} is {shorten(there)}, not {shorten(here)}"]
        parts = [part for part in {**here, **there} if here.get(part) != there.get(part)]
        return [f"{words}{part} is {shorten(there.get(part))}, not {shorten(here.get(part))}" for part in parts]


def shorten(value: Any) -> str:
    """A value for a message; hashes and long texts are cut."""
    text = str(value)
    if re.fullmatch("[0-9a-f]{64}", text):
        return text[:12]
    return text if len(text) <= 200 else text[:199] + "…"
