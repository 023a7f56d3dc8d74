# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Depth, normals and segmentation of drawings on a white ground, without a model.

A control image is extracted again from what a model made of it, and the two are compared. So nothing here hangs on a
single pixel, and a little noise changes little: numbers are fixed, not taken from the image's own extremes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .extractor import Extractor
from .opencv import cv2
from .pixels import normal_colors, pixelwise


PAPER = 24  # a pixel all of whose channels are closer to 255 than this is white ground
SPECK = 1 / 400  # a shape smaller than this part of the image is dust
LEAST_DEPTH = 64  # the brightness at which depth begins
SMOOTHING = 1 / 24  # of the height field, as a part of the shorter side

# What regions are painted with: colours that are far from each other, so that noise rarely moves a region to another.
PALETTE = np.array(
    [
        (255, 255, 255), (190, 190, 190), (120, 120, 120), (40, 40, 40),
        (220, 40, 40), (130, 20, 30), (250, 170, 160), (245, 130, 30),
        (140, 80, 40), (240, 200, 150), (250, 210, 50), (120, 190, 60),
        (30, 110, 50), (170, 225, 180), (30, 170, 160), (150, 215, 245),
        (50, 130, 230), (25, 45, 130), (130, 70, 200), (200, 170, 235), (215, 60, 150),
    ],
    np.uint8,
)  # fmt: skip
SMOOTHED_NOISE = 40.0  # differences of colour that smoothing takes for noise
LEAST_REGION = 1 / 8  # times the shorter side: regions of fewer pixels go to their neighbours


def drawing_extractor(kind: str) -> Extractor:
    """The extractor of `"depth"`, `"normal"` or `"segmentation"` for drawings on white, which are uint8 of shape (H, W, 3)."""
    extract: Callable[[np.ndarray], np.ndarray]
    parameters: dict[str, Any]
    if kind == "segmentation":
        extract = regions
        parameters = {"palette": PALETTE.tolist(), "noise": SMOOTHED_NOISE, "least_region": LEAST_REGION}
    else:
        extract = depth if kind == "depth" else normals
        parameters = {"paper": PAPER, "speck": SPECK, "smoothing": SMOOTHING, "least_depth": LEAST_DEPTH}
    return pixelwise(extract, {"kind": kind, "model": "drawing", "parameters": {"version": 1} | parameters})


def depth(pixels: np.ndarray) -> np.ndarray:
    """The height of the drawing's silhouette, inflated, see [`height`]; uint8 of shape (H, W). What is nearer is brighter. The
    ground is 0, and what is drawn begins at a quarter, so that thin strokes are seen, too."""
    heights = height(pixels)
    relative = heights / (min(heights.shape) / 2)
    return np.where(heights > 0, LEAST_DEPTH + (255 - LEAST_DEPTH) * relative, 0).round().astype(np.uint8)


def normals(pixels: np.ndarray) -> np.ndarray:
    """The directions in which the inflated silhouette faces, see [`height`]; uint8 of shape (H, W, 3): x to the right, y up and z to
    the viewer, as Marigold has them, with [−1, 1] as [0, 255]. The ground faces the viewer: (128, 128, 255)."""
    heights = cv2.copyMakeBorder(height(pixels), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    right = (heights[1:-1, 2:] - heights[1:-1, :-2]) / 2
    down = (heights[2:, 1:-1] - heights[:-2, 1:-1]) / 2
    normal = np.stack([-right, down, np.ones_like(right)], axis=-1)
    return normal_colors(normal / np.linalg.norm(normal, axis=-1, keepdims=True))


def height(pixels: np.ndarray) -> np.ndarray:
    """The drawing's silhouette as a height field: round like a ball where it is wide, low where it is thin; float32 of shape (H, W),
    in pixels, 0 on the ground, at most half the shorter side.

    At a distance d from the ground the height is √(d·(2R − d)) with R half the shorter side, which makes a ball of a
    disk that fills the image. It is then smoothed, so that a bar has a round back and not the edge of a roof.
    """
    inside = silhouette(pixels)
    radius = min(inside.shape) / 2
    # the pixels around the image are ground, and a distance is to the border of a pixel, not to its centre
    padded = cv2.copyMakeBorder(inside.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    # the last digits depend on the number of threads, but its square is a whole number
    distance = (np.sqrt((distance**2).round()) - 0.5).clip(0, radius)
    heights = np.sqrt(distance * (2 * radius - distance))
    smooth = cv2.GaussianBlur(heights, (0, 0), SMOOTHING * min(inside.shape), borderType=cv2.BORDER_CONSTANT)
    return np.where(inside, smooth, 0).astype(np.float32)


def silhouette(pixels: np.ndarray) -> np.ndarray:
    """What is drawn, with all it encloses: the white of an eye belongs to the face, and paper to its outline."""
    drawn = (pixels.min(axis=-1) <= 255 - PAPER).astype(np.uint8)
    # ground is what is reached from outside; not diagonally, or it would leak through slanted outlines
    _, grounds = cv2.connectedComponents(np.pad(1 - drawn, 1, constant_values=1), connectivity=4)
    filled = (grounds != grounds[0, 0])[1:-1, 1:-1]
    _, shapes, statistics, _ = cv2.connectedComponentsWithStats(filled.astype(np.uint8), connectivity=8)
    large = statistics[:, cv2.CC_STAT_AREA] >= SPECK * filled.size
    large[0] = False  # the ground
    return large[shapes]


def regions(pixels: np.ndarray) -> np.ndarray:
    """Flat regions in the colours of a fixed palette; uint8 of shape (H, W, 3).

    Noise is smoothed away and edges are made steep, so that the colours between two regions are none of their own.
    Each pixel takes the nearest colour of the palette, and connected pixels of a colour are a region; small regions
    fall to those around them.
    """
    reach = max(1, round(min(pixels.shape[:2]) / 128))
    smooth = cv2.bilateralFilter(np.ascontiguousarray(pixels), 2 * reach + 1, SMOOTHED_NOISE, reach)
    return PALETTE[without_small_regions(nearest_colors(steepened(smooth, reach)))]


def steepened(pixels: np.ndarray, reach: int) -> np.ndarray:
    """An image each of whose pixels is the darkest or the brightest within reach, whichever is more like it."""
    flat = pixels.reshape(-1, 3).astype(np.int64)
    # lightness and, below it, the place of the pixel, in numbers that a float64 holds exactly
    key = (flat @ (299, 587, 114) * len(flat) + np.arange(len(flat))).reshape(pixels.shape[:2]).astype(np.float64)
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    ends = [flat[extreme(key, window).ravel().astype(np.int64) % len(flat)] for extreme in (cv2.erode, cv2.dilate)]
    dark, bright = (((end - flat) ** 2).sum(-1, keepdims=True) for end in ends)
    return np.where(dark <= bright, *ends).reshape(pixels.shape)


def nearest_colors(colors: np.ndarray) -> np.ndarray:
    """The index of the palette's colour nearest to each, by the eye's measure (CIELAB), of shape (…) for (…, 3)."""
    palette = lab(PALETTE)
    return ((palette**2).sum(-1) - 2 * lab(colors) @ palette.T).argmin(-1).astype(np.int32)


def lab(colors: np.ndarray) -> np.ndarray:
    """Colours of shape (…, 3) in [0, 255] in CIELAB."""
    flat = np.ascontiguousarray(colors, dtype=np.float32).reshape(1, -1, 3) / 255
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(colors.shape)


def connected_regions(labels: np.ndarray) -> np.ndarray:
    """A number for each region of connected pixels of equal label, counted from 0."""
    numbers, count = np.zeros_like(labels), 0
    for label in np.unique(labels):
        found, components = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)
        numbers[components > 0] = components[components > 0] + (count - 1)
        count += found - 1
    return numbers


def without_small_regions(labels: np.ndarray) -> np.ndarray:
    """The labels, with those of the nearest pixels of larger regions in the small ones."""
    numbers = connected_regions(labels)
    small = np.bincount(numbers.ravel())[numbers] < LEAST_REGION * min(labels.shape)
    if small.all():
        return labels
    _, nearest = cv2.distanceTransformWithLabels(
        small.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_number = np.zeros(nearest.max() + 1, labels.dtype)
    of_number[nearest[~small]] = labels[~small]
    return of_number[nearest]
