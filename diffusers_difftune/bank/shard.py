# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A shard of a knowledge bank: one batch of samples in a Parquet file."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import first_sentence
from ..io.shards import parquet_bytes


@dataclass
class Shard:
    """Samples that were made in one batch.

    Attributes:
        indices (`list[int]`): Their places in the bank.
        prompts (`list[str]`): The prompt each was made with.
        latents (`np.ndarray` of shape `(N, *latent_shape)`, float32): Scaled as the denoiser expects them.
    """

    indices: list[int]
    prompts: list[str]
    latents: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.latents.nbytes

    def to_bytes(self) -> bytes:
        """The Parquet file; equal shards have equal bytes.

        Latents are kept in float32, so that they are exactly what the sampler returned at any precision it ran in: a
        sample of 4 × 64 × 64 takes 64 KB, a thousand of them 64 MB.
        """
        schema = shard_schema(self.latents.shape[1:])
        size = schema.field("latents").type.list_size
        latents = pa.FixedSizeListArray.from_arrays(pa.array(self.latents.astype(np.float32).ravel()), size)
        table = pa.table([pa.array(self.indices, pa.int64()), pa.array(self.prompts, pa.string()), latents], schema)
        return parquet_bytes(table)

    @classmethod
    def read(cls, path: Path, latent_shape: tuple[int, ...]) -> "Shard":
        table = pq.read_table(path, memory_map=True)
        latents = table["latents"].combine_chunks().flatten().to_numpy()
        return cls(
            indices=table["index"].to_pylist(),
            prompts=table["prompt"].to_pylist(),
            latents=latents.reshape(len(table), *latent_shape),
        )

    @staticmethod
    def read_prompts(path: Path) -> list[str]:
        """The prompts alone; latents stay on the disk."""
        return pq.read_table(path, columns=["prompt"], memory_map=True)["prompt"].to_pylist()

    @classmethod
    def problem(cls, path: Path, indices: range, latent_shape: tuple[int, ...]) -> str | None:
        """What is wrong with a file of the right bytes, or `None`: a bank of somebody else's can say what it likes. It is the end of
        a sentence that begins with the file."""
        try:
            schema, rows = pq.read_schema(path), pq.read_metadata(path).num_rows
            if not schema.remove_metadata().equals(shard_schema(latent_shape)):
                return f"has not the columns index, prompt and latents of {math.prod(latent_shape)} numbers"
            if rows != len(indices):
                return f"has {rows} rows, not {len(indices)}"
            table = pq.read_table(path, memory_map=True)
            table.validate(full=True)
        except (OSError, pa.ArrowException) as error:
            return f"is damaged: {first_sentence(error)}"
        if table["latents"].null_count or table["latents"].combine_chunks().flatten().null_count:
            return "lacks numbers"
        if table["prompt"].null_count or table["index"].to_pylist() != list(indices):
            return "has other samples than those of its place"
        if not np.isfinite(cls.read(path, latent_shape).latents).all():
            return "holds numbers that are not finite"
        return None


def shard_schema(latent_shape: tuple[int, ...]) -> pa.Schema:
    latents = pa.list_(pa.float32(), math.prod(latent_shape))
    return pa.schema([("index", pa.int64()), ("prompt", pa.string()), ("latents", latents)])
