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
    """The shorter sides of images, in pixels.

    Attributes:
        smallest (`int`): The smallest.
        median (`int`): The median.
        largest (`int`): The largest.
        enlarged (`int`): How many images are smaller than they are to be, and so are enlarged.
        read (`int`): How many images were looked at.
    """

    smallest: int
    median: int
    largest: int
    enlarged: int
    read: int


def image_sides(images: ImageColumn, resolution: int, most: int = MOST_READ) -> ImageSides | None:
    """Reads the sizes of images, of very many those of a part, evenly spread over them.

    Args:
        images ([`ImageColumn`]): The images.
        resolution (`int`): The shorter side that they are resized to.
        most (`int`, *optional*, defaults to 2000): How many to look at.

    Returns:
        [`ImageSides`] or `None`: The sizes; `None` if no image has a header that can be read.
    """
    step = max(1, -(-len(images) // most))
    sizes = [stored_size(images.stored(row)) for row in range(0, len(images), step)]
    sides = [min(size) for size in sizes if size is not None]
    if not sides:
        return None
    enlarged = sum(side < resolution for side in sides)
    return ImageSides(min(sides), round(statistics.median(sides)), max(sides), enlarged, len(sides))
