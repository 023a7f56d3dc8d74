# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The control images of a knowledge bank's samples: extracted once, kept beside the bank."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from PIL import Image

from ..bank.bank import KnowledgeBank
from ..bank.preview import grid_png
from ..data.cache.place import difftune_cache_dir
from ..io.processes import from_main
from ..io.shards import StoredRows, build_shards
from .extractor import Extractor
from .manifest import ConditionManifest
from .write import library_versions, png_bytes, table_bytes


logger = logging.getLogger(__name__)

FOLDER = "conditions"  # in the bank's folder


class BankConditions(StoredRows[ConditionManifest, pa.ChunkedArray]):
    """The control images of a bank, by the index of the sample: `conditions[i]` is uint8 of shape (H, W, 3)."""

    def __getitem__(self, index: int) -> np.ndarray:
        shard, row = self.find(index)
        return np.array(Image.open(BytesIO(shard[row].as_py()["bytes"]), formats=["PNG"]).convert("RGB"))

    def read_shard(self, path: Path) -> pa.ChunkedArray:
        return pq.read_table(path)["conditioning_image"]


def bank_conditions(
    bank: KnowledgeBank,
    extractor: Extractor,
    decode: Callable[[torch.Tensor], list[Image.Image]],
    accelerator: Accelerator | None = None,
    progress: bool = True,
    cache_dir: str | None = None,
) -> BankConditions:
    """Extracts the control image of each sample of a bank, or finds them where that was done before.

    They are kept in `BANK/conditions/KIND-HASH`, the hash being one of the extractor's settings and of the bank's
    samples; a killed build goes on. The bank is as it was, for whoever does not ask for them.

    Args:
        bank ([`KnowledgeBank`]): The bank, whole.
        extractor ([`Extractor`]): What extracts.
        decode (`Callable`): From canonical latents of shape (B, C, h, w) to B RGB images; called once for each missing shard.
        accelerator, progress: See [`build_shards`].
        cache_dir (`str`, *optional*): Where this library's cache is, in which they are kept where the bank's folder cannot be
            written to.

    Raises:
        DiffTuneError: The bank is half built, or the control images are damaged.
    """
    if not bank.manifest.is_complete:
        bank.check()
    manifest = ConditionManifest(
        extractor=extractor.settings,
        # by their hashes the samples are known, whatever the bank or its model is called
        source={"samples": hashlib.sha256(json.dumps(bank.manifest.shards).encode()).hexdigest()},
        num_rows=len(bank),
        shard_size=bank.manifest.shard_size,
        libraries=library_versions(),
    )
    name = f"{extractor.settings['kind']}-{manifest.key[:8]}"
    path = from_main(accelerator, lambda: place_for(bank, name, cache_dir))

    def make_shard(indices: range) -> bytes:
        images = decode(torch.stack([bank.latents(index) for index in indices]))
        found = [png_bytes(image) for image in extractor(images)]
        return table_bytes({"index": list(indices), "conditioning_image": found})

    def finish(begun: ConditionManifest) -> dict[str, bytes]:
        """A picture as the bank has one, of the control images of the same samples."""
        found = BankConditions(path, begun)
        return {"preview.png": grid_png([Image.fromarray(found[index]) for index in range(min(16, len(found)))])}

    built = build_shards(path, manifest, make_shard, accelerator=accelerator, progress=progress, finish=finish)
    return BankConditions(path, built)


def place_for(bank: KnowledgeBank, name: str, cache_dir: str | None = None) -> Path:
    """Beside the bank, or in the cache if that cannot be written to and has none yet."""
    beside = bank.folder / FOLDER / name
    if (beside / ConditionManifest.file_name).is_file() and ConditionManifest.read(beside).is_complete:
        return beside
    try:
        beside.parent.mkdir(exist_ok=True)
        if os.access(beside if beside.is_dir() else beside.parent, os.W_OK):
            return beside
    except OSError:
        pass
    elsewhere = difftune_cache_dir(cache_dir) / FOLDER / name
    logger.info(f"{bank.folder} cannot be written to; the control images of its samples go to {elsewhere}.")
    return elsewhere
