# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Improved precision and recall: are the generated images like real ones, and are all kinds of real ones among them?"""

import torch
from tqdm.auto import tqdm

from ..errors import DiffTuneError


NEIGHBOURS = 3  # as in the paper
ROWS = 512  # distances of so many rows are in memory at once


def precision_recall(real: torch.Tensor, generated: torch.Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019), in float64.

    The manifold of a set of images is the union of balls around their features, each as large as the distance to the
    k-th nearest other image of the set. **Precision** is the fraction of generated images in the manifold of the real
    ones, **recall** the fraction of real images in that of the generated ones. They are coarse: real images do not reach 1
    against other real ones either.

    Args:
        real (`torch.Tensor` of shape `(N, D)`): Features of real images.
        generated (`torch.Tensor` of shape `(M, D)`): Features of generated images.
        neighbours (`int`, *optional*, defaults to 3): k.

    Returns:
        `tuple[float, float]`: Precision and recall, in [0, 1].

    Raises:
        DiffTuneError: There are not more than k images in each set.
    """
    count = min(len(real), len(generated))
    if not 1 <= neighbours < count:
        raise DiffTuneError(
            f"Precision and recall look at {neighbours} nearest neighbours, for which {count} images are too few; use more"
            f" than {neighbours}."
        )
    real, generated = real.double(), generated.double()
    real_radii, generated_radii = radii(real, neighbours), radii(generated, neighbours)
    return covered(generated, real, real_radii), covered(real, generated, generated_radii)


def radii(features: torch.Tensor, neighbours: int) -> torch.Tensor:
    """The distance of each image to its k-th nearest other one, of shape `(N,)`."""
    nearest = [
        distances(rows, features).kthvalue(neighbours + 1).values  # itself is the nearest
        for rows in tqdm(features.split(ROWS), "neighbours", leave=False, delay=5)
    ]
    return torch.cat(nearest)


def covered(images: torch.Tensor, centres: torch.Tensor, radii: torch.Tensor) -> float:
    """The fraction of images that lie in at least one ball."""
    inside = [
        (distances(rows, centres) <= radii).any(1) for rows in tqdm(images.split(ROWS), "balls", leave=False, delay=5)
    ]
    return torch.cat(inside).double().mean().item()


def distances(rows: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Euclidean distances of shape `(R, N)`, summed directly: by way of a product, equal images would be apart."""
    return torch.cdist(rows, features, compute_mode="donot_use_mm_for_euclid_dist")
