# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The control images of a knowledge bank's samples: extracted once, kept beside the bank."""

import hashlib
import io
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from PIL import Image

from ..bank.bank import MEMORY_LIMIT, KnowledgeBank
from ..data.cache.place import difftune_cache_dir
from ..io.processes import from_main
from . import Extractor
from .shards import DATA, MANIFEST_NAME, ConditionManifest, build_shards
from .write import library_versions, parquet_bytes, png_bytes


logger = logging.getLogger(__name__)

FOLDER = "conditions"  # in the bank's folder


class BankConditions:
    """The control images of a bank, by the index of the sample: `conditions[i]` is uint8 of shape (H, W, 3).

    Shards are read when they are first asked for. [`bank_conditions`] makes it.

    Args:
        folder (`Path`): Their folder.
        manifest ([`ConditionManifest`]): Its manifest.

    Attributes:
        folder (`Path`): Their folder.
        manifest ([`ConditionManifest`]): Its manifest, with the extractor's settings.
    """

    def __init__(self, folder: Path, manifest: ConditionManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._shards: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        largest = max((folder / DATA / name).stat().st_size for name in manifest.shard_names)
        self._limit = max(1, MEMORY_LIMIT // largest)

    def __len__(self) -> int:
        return self.manifest.num_rows

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"The bank has {len(self)} samples, and sample {index} was asked for.")
        shard, row = divmod(index, self.manifest.shard_size)
        stored = self._shard(shard)[row].as_py()["bytes"]
        return np.array(Image.open(io.BytesIO(stored), formats=["PNG"]).convert("RGB"))

    def _shard(self, number: int) -> pa.ChunkedArray:
        shard = self._shards.get(number)
        if shard is None:
            path = self.folder / DATA / self.manifest.shard_names[number]
            shard = self._shards[number] = pq.read_table(path)["conditioning_image"]
            if len(self._shards) > self._limit:
                self._shards.popitem(last=False)
        return shard

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_shards": OrderedDict()}  # workers of a data loader read for themselves


def bank_conditions(
    bank: KnowledgeBank,
    extractor: Extractor,
    decode: Callable[[torch.Tensor], list[Image.Image]],
    folder: str | Path | None = None,
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
        decode (`Callable`):
            From latents of shape (B, C, h, w), scaled as the denoiser expects them, to B RGB images. It is called
            once for each shard that is not there yet.
        folder (`str` or `Path`, *optional*):
            Where to keep them instead of `BANK/conditions`. `None` is this library's cache where the bank's folder
            cannot be written to.
        accelerator ([`Accelerator`], *optional*): The processes that share the work. `None` is this one alone.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar with the time left, on the main process.
        cache_dir (`str`, *optional*): Where this library's cache is; as `--cache_dir`.

    Returns:
        [`BankConditions`]: The control images.

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
    if folder is not None:
        path = Path(folder) / name
    else:
        path = from_main(accelerator, lambda: place_for(bank, name, cache_dir))

    def make_shard(indices: range) -> bytes:
        images = decode(torch.stack([bank.latents(index) for index in indices]))
        found = [png_bytes(image) for image in extractor(images)]
        return parquet_bytes({"index": list(indices), "conditioning_image": found})

    return BankConditions(path, build_shards(path, manifest, make_shard, accelerator, progress))


def place_for(bank: KnowledgeBank, name: str, cache_dir: str | None = None) -> Path:
    """Beside the bank, or in the cache if that cannot be written to and has none yet."""
    beside = bank.folder / FOLDER / name
    if (beside / MANIFEST_NAME).is_file() and ConditionManifest.read(beside).is_complete:
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
