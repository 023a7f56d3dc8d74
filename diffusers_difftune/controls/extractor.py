# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What makes control images from images, whatever it computes them with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Extractor:
    """Makes control images of one kind: called with RGB images, it returns as many RGB images of the same sizes.

    Args:
        settings (`dict[str, Any]`):
            What decides its results, for JSON: `kind`, `model` (`None` where none is needed), `commit` (of a model from
            the Hub) or `fingerprint` (of one in a folder), and `parameters`. Extractors of equal settings are the same.
        extract (`Callable`): From RGB images to as many control images. Brings its model, if it has one, to the device.
        release (`Callable`, *optional*): Takes the model off the device; the next call brings it back.
    """

    settings: dict[str, Any]
    extract: "Callable[[list[Image]], list[Image]]"
    release: Callable[[], object] = lambda: None

    def __call__(self, images: "list[Image]") -> "list[Image]":
        wrong = [image.mode for image in images if image.mode != "RGB"]
        if wrong:
            raise ValueError(f"An extractor takes RGB images, not {wrong[0]}; `data.images.load_rgb` makes them so.")
        return self.extract(images)
