# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Reading the Parquet files of `fetch.py`, keeping resumable training state, and ranking names."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from captions import core
from PIL import Image


def read_parquet(path: str | Path) -> dict[str, list]:
    """Columns of a Parquet file, `image` as one uint8 tensor of shape (N, 3, H, W)."""
    columns = pq.read_table(path).to_pydict()
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB")) for image in columns["image"]]
    columns["image"] = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return columns


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 to [-1, 1]."""
    return images.float() / 127.5 - 1


def save_state(path: Path, **state) -> None:
    """Written aside and renamed, so that a killed program never leaves half a checkpoint."""
    aside = path.with_suffix(".tmp")
    torch.save(state, aside)
    os.replace(aside, path)


def load_state(path: Path) -> dict | None:
    return torch.load(path, weights_only=True) if path.exists() else None


def batch_indices(n: int, step: int, batch: int, seed: int) -> torch.Tensor:
    """Rows of one step: a new permutation of all rows each epoch, a function of (seed, step) alone."""
    per_epoch = n // batch
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 100003 + step // per_epoch))
    start = step % per_epoch * batch
    return order[start : start + batch]


def ranks_of_100(scores: torch.Tensor, names: list[str]) -> list[int]:
    """For each drawing, how many of 99 names of other things, a seeded draw, score at least as high as its own name.

    Args:
        scores (`torch.Tensor` of shape `(N, N)`): How well drawing i goes with name j.
        names (`list[str]`): The names.
    """
    cores, generator, ranks = [core(name) for name in names], torch.Generator().manual_seed(0), []
    for i, own in enumerate(cores):
        others, seen = [], {own}
        for j in torch.randperm(len(cores), generator=generator).tolist():
            if cores[j] not in seen:
                others.append(j)
                seen.add(cores[j])
            if len(others) == 99:
                break
        ranks.append(int((scores[i, others] >= scores[i, i]).sum()))
    return ranks


def grid(images: torch.Tensor, columns: int, zoom: int = 4) -> Image.Image:
    """Float images in [-1, 1] as one enlarged picture."""
    images = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(images[i : i + columns], axis=1) for i in range(0, len(images), columns)]
    return Image.fromarray(np.concatenate(rows).repeat(zoom, axis=0).repeat(zoom, axis=1))


def thin_skin_tones(texts: list[str], sets: list[str], seed: int) -> list[int]:
    """Rows to train on: of the skin tones of one person in one set only one, the plain drawing in any case."""
    kept, seen = [], set()
    for i in torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist():
        toned = "skin tone" in texts[i]
        key = (sets[i], core(texts[i]))
        if not toned or key not in seen:
            kept.append(i)
        if toned:
            seen.add(key)
    return sorted(kept)
