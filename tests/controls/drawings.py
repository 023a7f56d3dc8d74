# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Drawings whose edges, regions and heights are known."""

import numpy as np
from PIL import Image

from diffusers_difftune.controls import MODEL_KINDS, Extractor, make_extractor


def drawing_extractor(kind: str) -> Extractor:
    """The extractor of a kind that needs no model."""
    return make_extractor(kind, "drawing" if kind in MODEL_KINDS else None)


def control(kind: str, image: Image.Image) -> np.ndarray:
    """The control image of a drawing, uint8 of shape (H, W, 3)."""
    return np.asarray(drawing_extractor(kind)([image])[0])


def disk(size: int = 64, radius: float = 20, color: tuple[int, int, int] = (200, 40, 40)) -> Image.Image:
    """A filled disk in the middle of white."""
    pixels = np.full((size, size, 3), 255, np.uint8)
    pixels[distance_to_centre(size) <= radius] = color
    return Image.fromarray(pixels)


def distance_to_centre(size: int) -> np.ndarray:
    """Of each pixel of a square image."""
    down, across = np.mgrid[:size, :size] - (size - 1) / 2
    return np.hypot(down, across)


def rectangle(
    size: tuple[int, int] = (48, 40),
    box: tuple[int, int, int, int] = (10, 8, 38, 30),
    color: tuple[int, int, int] = (30, 60, 200),
) -> Image.Image:
    """A filled rectangle (left, top, right, bottom) on white."""
    image = Image.new("RGB", size, "white")
    image.paste(color, box)
    return image


def with_noise(image: Image.Image, deviation: float, seed: int = 0) -> Image.Image:
    """The image with Gaussian noise in 8-bit steps."""
    noise = np.random.default_rng(seed).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).round().clip(0, 255).astype(np.uint8))


def icons(file: str, count: int, step: int) -> list[Image.Image]:
    """Real drawings of 32 × 32 pixels from the example's data."""
    import io
    from pathlib import Path

    import pyarrow.parquet as pq

    folder = Path(__file__).parents[2] / "examples" / "icons" / "data"
    rows = pq.read_table(folder / file, columns=["image"])["image"].to_pylist()[::step][:count]
    return [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in rows]
