# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How large the target images are, by their headers."""

import statistics
from dataclasses import dataclass

from .column import ImageColumn
from .decode import stored_size


MOST_READ = 2000  # reading every header of a million images would take minutes


@dataclass(frozen=True)
class ImageSides:
    """The shorter sides of images, in pixels; how many are enlarged to the resolution, and how many were looked at."""

    smallest: int
    median: int
    largest: int
    enlarged: int
    read: int


def image_sides(images: ImageColumn, resolution: int) -> ImageSides | None:
    """Reads the sizes of images, of very many those of a part, evenly spread over them; `None` if no header can be read."""
    step = max(1, -(-len(images) // MOST_READ))
    sides = [min(size) for row in range(0, len(images), step) if (size := stored_size(images.stored(row)))]
    if not sides:
        return None
    enlarged = sum(side < resolution for side in sides)
    return ImageSides(min(sides), round(statistics.median(sides)), max(sides), enlarged, len(sides))
