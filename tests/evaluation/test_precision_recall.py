# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Improved precision and recall against brute force, and where they are known."""

import numpy as np
import pytest
import torch

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation import precision_recall as module
from diffusers_difftune.evaluation.precision_recall import precision_recall


def normal(count: int, dimension: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_brute_force(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, float]:
    """The definition, one pair of images at a time."""

    def part_inside(images: np.ndarray, centres: np.ndarray) -> float:
        inside = 0
        for image in images:
            for i, centre in enumerate(centres):
                others = sorted(np.linalg.norm(centre - other) for j, other in enumerate(centres) if j != i)
                if np.linalg.norm(image - centre) <= others[k - 1]:
                    inside += 1
                    break
        return inside / len(images)

    return part_inside(generated, real), part_inside(real, generated)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_definition(k, monkeypatch):
    real, generated = normal(30, 3, 0), 0.8 * normal(40, 3, 1) + 1
    monkeypatch.setattr(module, "ROWS", 7)  # in parts, as large sets are
    found = precision_recall(real, generated, k)
    assert found == pytest.approx(by_brute_force(real.numpy(), generated.numpy(), k), abs=1e-12)
    assert 0 < found[0] < 1 and 0 < found[1] < 1 and found[0] != found[1]


def test_identical_sets_cover_each_other_and_distant_ones_do_not():
    real = normal(50, 8, 0)
    assert precision_recall(real, real.clone()) == (1, 1)
    assert precision_recall(real.float(), real.float()) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)


def test_it_does_not_matter_where_the_features_lie():
    real, generated = normal(30, 3, 0), 0.8 * normal(40, 3, 1) + 1
    # there a distance by way of a product has lost its digits
    assert precision_recall(real + 1e7, generated + 1e7) == precision_recall(real, generated)


def test_a_missing_mode_costs_recall_and_a_strange_one_precision():
    modes = torch.cat([normal(40, 4, 0), normal(40, 4, 1) + 50])
    one = modes[:40]
    assert precision_recall(modes, one) == (1, 0.5)
    assert precision_recall(one, modes) == (0.5, 1)


def test_one_image_over_and_over_covers_nothing():
    real = normal(20, 4, 0)
    again = real[:1].expand(20, 4)
    assert precision_recall(real, again) == (1, 1 / 20)


def test_too_few_images_are_refused():
    with pytest.raises(DiffTuneError, match="3 nearest neighbours, for which 3 images are too few; use more than 3"):
        precision_recall(normal(3, 2, 0), normal(9, 2, 0))
