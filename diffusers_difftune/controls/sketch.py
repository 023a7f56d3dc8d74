# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Sketches: a line drawing, white on black, by an extended difference of Gaussians."""

from typing import Any

import numpy as np

from .extractor import Extractor
from .opencv import cv2
from .pixels import pixelwise


# As parts of the shorter side, and as pixels at least: thinner lines than this are no lines on a grid.
LINE_WIDTH, LEAST_WIDTH = 0.004, 0.6
PARAMETERS: dict[str, Any] = {"k": 1.6, "tau": 0.998, "epsilon": -0.008, "phi": 50.0}


def sketch_extractor() -> Extractor:
    """The extractor of sketches; see [`sketch`]."""
    parameters = {"version": 1, "line_width": LINE_WIDTH, "least_width": LEAST_WIDTH} | PARAMETERS
    return pixelwise(sketch, {"kind": "sketch", "model": None, "parameters": parameters})


def sketch(pixels: np.ndarray) -> np.ndarray:
    """A line drawing: the extended difference of Gaussians of Winnemöller et al. (2012), inverted.

    D = G_σ − τ·G_kσ is below 0 on the dark side of an edge and in thin dark strokes. A line is drawn where it is
    below ε, the brighter the further below: tanh(φ·(ε − D)). So lines are soft, faint where the contrast is faint, and
    a stroke is one line where an edge detector sees two. Each colour channel is taken for itself, and the strongest
    line counts; between colours of equal lightness there are lines, too.

    Args:
        pixels (`np.ndarray` of shape `(H, W, 3)`, uint8): An RGB image.

    Returns:
        `np.ndarray` of shape `(H, W)`, uint8: Bright lines on 0.
    """
    image = pixels.astype(np.float32) / 255
    sigma = max(LEAST_WIDTH, LINE_WIDTH * min(image.shape[:2]))
    difference = blur(image, sigma) - PARAMETERS["tau"] * blur(image, PARAMETERS["k"] * sigma)
    lines = np.tanh(PARAMETERS["phi"] * (PARAMETERS["epsilon"] - difference.min(axis=-1))).clip(min=0)
    return (255 * lines).round().astype(np.uint8)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """An image under a Gaussian of this deviation, in pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
