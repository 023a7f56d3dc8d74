# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Edges and sketches: lines, white on black, without a model."""

from typing import Any

import numpy as np

from .extractor import Extractor
from .opencv import cv2
from .pixels import pixelwise


LOW, HIGH = 100, 200  # what ControlNets for edges are customarily trained with
# As parts of the shorter side, and as pixels at least: thinner lines than this are no lines on a grid.
LINE_WIDTH, LEAST_WIDTH = 0.004, 0.6
PARAMETERS: dict[str, Any] = {"k": 1.6, "tau": 0.998, "epsilon": -0.008, "phi": 50.0}


def line_extractor(kind: str) -> Extractor:
    """The extractor of `"edge"` or `"sketch"`; see [`edges`] and [`sketch`]."""
    parameters = {"version": 1, "low": LOW, "high": HIGH}
    if kind == "sketch":
        parameters = {"version": 1, "line_width": LINE_WIDTH, "least_width": LEAST_WIDTH} | PARAMETERS
    extract = edges if kind == "edge" else sketch
    return pixelwise(extract, {"kind": kind, "model": None, "parameters": parameters})


def edges(pixels: np.ndarray) -> np.ndarray:
    """Canny's edges: lines one pixel wide where the colour changes most, uint8 of shape (H, W), of an RGB image.

    The thresholds are on the sum of both Sobel derivatives, in the channel where it is largest: a step between two
    colours that differ by 25 in one channel is beyond the lower one, by 50 beyond the upper. They hold for every
    size, because they are about neighbouring pixels: a drawing of 32 × 32 needs no others.
    """
    return cv2.Canny(np.ascontiguousarray(pixels), LOW, HIGH)


def sketch(pixels: np.ndarray) -> np.ndarray:
    """A line drawing: the extended difference of Gaussians of Winnemöller et al. (2012), inverted; uint8 of shape (H, W).

    D = G_σ − τ·G_kσ is below 0 on the dark side of an edge and in thin dark strokes. A line is drawn where it is
    below ε, the brighter the further below: tanh(φ·(ε − D)). So lines are soft, faint where the contrast is faint, and
    a stroke is one line where an edge detector sees two. Each colour channel is taken for itself, and the strongest
    line counts; between colours of equal lightness there are lines, too.
    """
    image = pixels.astype(np.float32) / 255
    sigma = max(LEAST_WIDTH, LINE_WIDTH * min(image.shape[:2]))
    difference = blur(image, sigma) - PARAMETERS["tau"] * blur(image, PARAMETERS["k"] * sigma)
    lines = np.tanh(PARAMETERS["phi"] * (PARAMETERS["epsilon"] - difference.min(axis=-1))).clip(min=0)
    return (255 * lines).round().astype(np.uint8)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """An image under a Gaussian of this deviation, in pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
