# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Edges: Canny's detector, white on black."""

import numpy as np

from .extractor import Extractor
from .opencv import cv2
from .pixels import pixelwise


LOW, HIGH = 100, 200  # what ControlNets for edges are customarily trained with


def edge_extractor(low: int = LOW, high: int = HIGH) -> Extractor:
    """The extractor of edges; see [`edges`].

    Args:
        low (`int`, *optional*, defaults to 100): The lower threshold.
        high (`int`, *optional*, defaults to 200): The upper threshold.

    Returns:
        [`Extractor`]: The extractor.
    """
    return pixelwise(
        lambda pixels: edges(pixels, low, high),
        {"kind": "edge", "model": None, "parameters": {"version": 1, "low": low, "high": high}},
    )


def edges(pixels: np.ndarray, low: int = LOW, high: int = HIGH) -> np.ndarray:
    """Canny's edges: lines one pixel wide where the colour changes most.

    The thresholds are on the sum of both Sobel derivatives, in the channel where it is largest: a step between two
    colours that differ by 25 in one channel is beyond the lower one, by 50 beyond the upper. They hold for every
    size, because they are about neighbouring pixels: a drawing of 32 × 32 needs no others.

    Args:
        pixels (`np.ndarray` of shape `(H, W, 3)`, uint8): An RGB image.
        low (`int`, *optional*, defaults to 100): An edge goes on where the derivative is above this.
        high (`int`, *optional*, defaults to 200): An edge must be above this somewhere.

    Returns:
        `np.ndarray` of shape `(H, W)`, uint8: 255 on edges, else 0.
    """
    return cv2.Canny(np.ascontiguousarray(pixels), low, high)
