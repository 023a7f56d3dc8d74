# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What extractors share that compute with the numbers of pixels."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from .extractor import Extractor


def pixelwise(extract: Callable[[np.ndarray], np.ndarray], settings: dict[str, Any]) -> Extractor:
    """The extractor that applies a function to each image, as uint8 arrays of shape (H, W, 3), or (H, W) of results."""

    def extract_all(images: list[Image.Image]) -> list[Image.Image]:
        return [Image.fromarray(extract(np.asarray(image))).convert("RGB") for image in images]

    return Extractor(settings, extract_all)


def normal_colors(normals: np.ndarray) -> np.ndarray:
    """Unit vectors of shape (H, W, 3) as colours, uint8: [−1, 1] becomes [0, 255]."""
    return np.floor(255 * (normals.clip(-1, 1) / 2 + 0.5) + 0.5).astype(np.uint8)
