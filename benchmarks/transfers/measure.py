# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How good a class-conditional model's samples are: FID, KID, precision and recall against held-out drawings."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from diffusers_difftune.backbones import Backbone
from diffusers_difftune.evaluation.features import make_features
from diffusers_difftune.evaluation.metrics import extract_features
from diffusers_difftune.evaluation.real_images import RealImages
from diffusers_difftune.evaluation.samples import sample_images
from diffusers_difftune.io.hashing import file_sha256
from diffusers_difftune.io.random import seeded_order

from .settings import FEATURES, GUIDANCE, SAMPLER, Places, Size
from .splits import SOURCE


MOST_SOURCE = 800  # source drawings of the floor: as many as are held out, at most


class HeldOut:
    """The held-out drawings of a set, and what samples are compared with them.

    The floor compares them with as many of the set's other real drawings, or with all of these if there are fewer.

    Args:
        name (`str`): A target set, or `"source"`.
        size ([`Size`]): How much to measure.
        places ([`Places`]): Where the drawings are, and where their features are kept.

    Attributes:
        order (`list[int]`): The rows of the held-out drawings in a seeded order.
        prompts (`list[str]`): The class id of each, in decimal.
        num_train (`int`): Training drawings of the set.
    """

    def __init__(self, name: str, size: Size, places: Places) -> None:
        self.size = size
        data, work = places.data, places.work
        held_out = data / f"{name}_held_out.parquet"
        labels = pq.read_table(held_out, columns=["label"])["label"].to_pylist()
        self.order = seeded_order(0, "held-out drawings", 0, len(labels))[: size.most_samples].tolist()
        self.prompts = [str(labels[row]) for row in self.order]
        self.file = held_out
        self.num_train = pq.read_metadata(data / f"{name}_train.parquet").num_rows
        others = [data / f"{name}_train.parquet", data / f"{name}_rest.parquet"]
        real = torch.cat([real_features(file, work) for file in others if file.is_file()])
        count = min(len(self.order), len(real))
        chosen = seeded_order(0, "other drawings", 0, len(real))[:count].tolist()
        self.real = RealImages(real_features(held_out, work)[self.order], real[chosen])

    def measure(self, images: torch.Tensor, guidance: float = GUIDANCE) -> dict[str, Any]:
        """What is said of samples, one for each prompt: their figures with the floors, and what these rest on."""
        features = extract_features(make_features(str(FEATURES)), images, batch_size=16)
        found = self.real.compare(features)
        return found | {
            "num_train": self.num_train,
            "num_held_out": len(self.prompts),
            "sampler": SAMPLER,
            "sampling_steps": self.size.sampling_steps,
            "guidance_scale": guidance,
        }

    def drawings(self) -> torch.Tensor:
        """The held-out drawings themselves, in that order; uint8 of shape `(N, 3, 32, 32)`."""
        return read_drawings(self.file)[0][self.order]


def through_autoencoder(backbone: Backbone, images: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Images encoded and decoded again: as good as any sample of a latent model can be.

    Args:
        backbone ([`Backbone`]): The model's family, whose encoders are in memory.
        images (`torch.Tensor`): uint8 of shape `(N, 3, 32, 32)`, and so is what comes back.
        batch_size (`int`, *optional*, defaults to 64): Images at a time.
    """
    latents = [backbone.encode_images(batch / 127.5 - 1)[0] for batch in images.split(batch_size)]
    decoded = [backbone.decode(backbone.vae, backbone.to_denoiser(part)) for part in latents]
    return (255 * torch.cat(decoded)).round().to(torch.uint8)


def sample(
    backbone: Backbone,
    denoiser: torch.nn.Module,
    prompts: list[str],
    size: Size,
    seed: int,
    batch_size: int = 64,
    guidance: float = GUIDANCE,
) -> torch.Tensor:
    """Samples, uint8 of shape `(N, 3, 32, 32)`; the i-th starts from noise that depends on the seed and i alone."""
    pipeline = backbone.pipeline(denoiser.eval(), torch.device("cpu"), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        return sample_images(
            pipeline, prompts, seed=seed, steps=size.sampling_steps, guidance_scale=guidance, batch_size=batch_size
        )


def source_prompts(count: int, data: Path, seed: int = 0) -> list[str]:
    """Classes of the source model as often as its training drawings have them."""
    labels = pq.read_table(data / f"{SOURCE}_train.parquet", columns=["label"])["label"].to_pylist()
    return [str(labels[row]) for row in seeded_order(seed, "source classes", 0, len(labels))[:count]]


def read_drawings(file: Path, most: int | None = None) -> tuple[torch.Tensor, list[str]]:
    """The first drawings of a Parquet file, uint8 of shape `(N, 3, 32, 32)`, and the class id of each, in decimal."""
    table = pq.read_table(file, columns=["image", "label"])[:most]
    stored = table["image"].to_pylist()
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB")) for image in stored]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), list(
        map(str, table["label"].to_pylist())
    )


def real_features(file: Path, work: Path) -> torch.Tensor:
    """Features of the drawings of a Parquet file, kept in a file of their own."""
    key = hashlib.sha256(f"{file_sha256(file)} {file_sha256(FEATURES)}".encode()).hexdigest()[:16]
    kept = work / "features" / f"{file.stem}-{key}.npy"
    if not kept.is_file():
        images, _ = read_drawings(file)
        if file.stem == f"{SOURCE}_train":
            images = images[seeded_order(0, "source drawings", 0, len(images))[:MOST_SOURCE].tolist()]
        features = extract_features(make_features(str(FEATURES)), images, batch_size=16)
        kept.parent.mkdir(parents=True, exist_ok=True)
        aside = kept.with_name(f"{kept.stem}-{os.getpid()}.tmp")
        with open(aside, "wb") as stream:
            np.save(stream, features.numpy())
        aside.rename(kept)
    return torch.from_numpy(np.load(kept))
