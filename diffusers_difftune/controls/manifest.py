# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The manifest of a folder of control images: how they were extracted, and from which images."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Self

from ..io.manifest import ShardManifest, setting


FORMAT_VERSION = 1


@dataclass(kw_only=True)
class ConditionManifest(ShardManifest):
    """Everything that decides the bytes of a folder of control images.

    Attributes:
        extractor (`dict[str, Any]`): The settings of the [`Extractor`].
        source (`dict[str, Any]`): Which images, in words or numbers that change with them.
        num_rows (`int`): How many images.
    """

    extractor: dict[str, Any] = setting("")
    source: dict[str, Any] = setting("")
    num_rows: int = setting("the number of rows", least=1)
    shard_size: int = setting("the number of rows in a shard", least=1)
    libraries: dict[str, str] = setting("the version of ")
    format_version: int = FORMAT_VERSION
    shards: dict[str, str] = field(default_factory=dict)

    file_name = "conditions.json"
    readable_format = FORMAT_VERSION
    what = "a set of control images"
    unit = "images"
    # Shards lie in a hidden folder until all are there; so no script trains on half of them.
    building, place = ".building", "data"

    def __len__(self) -> int:
        return self.num_rows

    @property
    def title(self) -> str:
        return f"Control images ({self.extractor['kind']})"

    def shard_name(self, number: int) -> str:
        """The name of a shard; `datasets` takes them for a split named train."""
        return f"train-{number:05d}-of-{self.num_shards:05d}.parquet"

    @property
    def key(self) -> str:
        """A hash of the extractor's settings and the images: what tells folders apart that lie side by side."""
        return hashlib.sha256(json.dumps([self.extractor, self.source], sort_keys=True).encode()).hexdigest()

    def clauses(self, name: str, other: Self, differing: list[str]) -> list[str]:
        """What [`differences`] says of one field; one extractor's parameters are nothing to another's."""
        clauses = super().clauses(name, other, differing)
        return [clause for clause in clauses if not clause.startswith("parameters is")] or clauses
