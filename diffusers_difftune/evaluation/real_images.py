# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Real images to compare generated ones with, and what real images score among themselves."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..data.dataset import TargetData
from ..data.images.decode import ImageTransform, load_rgb
from ..errors import DiffTuneError
from ..io.random import seeded_order
from . import FEWEST_IMAGES
from .metrics import distances


MEASURES = ("fid", "kid", "precision", "recall")


class RealImages:
    """What generated images are compared with, by FID, KID, precision and recall.

    Every figure comes with its floor, the same figure of real images against other real ones: no model of these images
    should be expected to do better.

    Args:
        features (`torch.Tensor` of shape `(N, D)`): Features of real images.
        other_features (`torch.Tensor` of shape `(M, D)`, *optional*): Those of other real images of the same kind, for
            the floor. `None` cuts `features` into two halves, whose FID is larger than at full size.
        seed (`int`, *optional*, defaults to 0): Seed of random halves.

    Attributes:
        floor (`dict`): The distances of real images among themselves; see [`distances`].

    Raises:
        DiffTuneError: There are fewer than 8 real images, or fewer than 4 others.
    """

    def __init__(self, features: torch.Tensor, other_features: torch.Tensor | None = None, seed: int = 0) -> None:
        sizes = (len(features), None if other_features is None else len(other_features))
        if sizes[0] < FEWEST_IMAGES or (sizes[1] is not None and sizes[1] < FEWEST_IMAGES // 2):
            raise DiffTuneError(
                f"{min(size for size in sizes if size is not None)} real images are too few to measure by; use at least"
                f" {FEWEST_IMAGES}, and for the floor {FEWEST_IMAGES // 2} others."
            )
        self.features, self.seed = features, seed
        self.floor = distances(*floor_pair(features, other_features, seed), seed)

    def compare(self, generated: torch.Tensor) -> dict[str, float | int | None]:
        """Measures generated images.

        Args:
            generated (`torch.Tensor` of shape `(K, D)`): Their features.

        Returns:
            `dict`: [`distances`] to the real images; `fid_floor`, `kid_floor`, `precision_floor` and `recall_floor`; and
            `num_floor`, how many real images the floor compares with as many others.
        """
        found = distances(self.features, generated, self.seed)
        floors = {f"{name}_floor": self.floor[name] for name in MEASURES}
        return found | floors | {"num_floor": self.floor["num_real"]}


def floor_pair(
    real: torch.Tensor, other_real: torch.Tensor | None = None, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two equally large draws of real images: of these and of others, or two halves of these."""
    generator = torch.Generator().manual_seed(seed)
    if other_real is None:
        order = torch.randperm(len(real), generator=generator)
        half = len(real) // 2
        return real[order[:half]], real[order[half : 2 * half]]
    count = min(len(real), len(other_real))
    first, second = (x[torch.randperm(len(x), generator=generator)[:count]] for x in (real, other_real))
    return first, second


def drawn_rows(data: TargetData, count: int) -> list[int]:
    """A draw of at most `count` rows, always the same; the first rows of a folder may be of one kind."""
    return seeded_order(0, "held-out rows", 0, len(data))[:count].tolist()


def row_prompts(
    data: TargetData, rows: Sequence[int], ids: Mapping[str, int] | None = None, model: str = "the model"
) -> list[str]:
    """What to sample so that it can be compared with these rows: the first caption of each, or its class.

    Args:
        data ([`TargetData`]): The rows.
        rows (`Sequence[int]`): Which of them.
        ids (`Mapping[str, int]`, *optional*): The model's classes by their names, where the data have classes.
        model (`str`, *optional*): What a message calls the model.

    Returns:
        `list[str]`: The prompts.

    Raises:
        DiffTuneError: The data have a class that the model does not have.
    """
    captions = [data.captions(row)[0] for row in rows]
    if data.class_names is None:
        return captions
    names = [data.class_names[int(caption)] for caption in captions]
    unknown = sorted(set(names) - set(ids or ()))
    if unknown:
        raise DiffTuneError(
            f"The data have the class {unknown[0]}, which is none of {model}'s {len(set((ids or {}).values()))}."
        )
    return [str((ids or {})[name]) for name in names]


def read_images(
    data: TargetData, rows: Sequence[int], resolution: int, interpolation: str = "lanczos"
) -> torch.Tensor:
    """Images of a data set as a pipeline would make them: square, cropped in the centre.

    Args:
        data ([`TargetData`]): The data set.
        rows (`Sequence[int]`): Which rows.
        resolution (`int`): The side in pixels.
        interpolation (`str`, *optional*, defaults to `"lanczos"`): How they are resized.

    Returns:
        `torch.Tensor` of shape `(N, 3, resolution, resolution)`: The images, uint8.
    """
    transform = ImageTransform(resolution, interpolation)
    images = np.empty((len(rows), resolution, resolution, 3), np.uint8)
    for place, row in enumerate(rows):
        image = transform.resize(load_rgb(data.image(row)))
        top, left = transform.crop_box(image.size)
        images[place] = np.asarray(image.crop((left, top, left + resolution, top + resolution)))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
