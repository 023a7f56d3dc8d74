# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""FID and KID against closed forms, against torchmetrics called by itself, and against NumPy."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.metrics import (
    KID_SUBSETS,
    distances,
    extract_features,
    frechet_distance,
    kernel_distance,
)
from diffusers_difftune.evaluation.real_images import RealImages, floor_pair


def standardized(count: int, dimension: int, seed: int) -> torch.Tensor:
    """Features whose sample mean is exactly 0 and whose sample covariance is exactly the identity."""
    x = torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (count - 1))).T


def test_fid_of_gaussians_is_the_closed_form():
    # d² = |μ|² + Σ (σ₁ − σ₂)² for covariances that commute
    shift = torch.linspace(-1, 2, 8, dtype=torch.float64)
    scale = torch.linspace(0.5, 3, 8, dtype=torch.float64)
    quality = distances(standardized(200, 8, 0), standardized(150, 8, 1) * scale + shift)
    assert quality["fid"] == pytest.approx(((shift**2).sum() + ((scale - 1) ** 2).sum()).item(), rel=1e-6)
    assert (quality["num_real"], quality["num_generated"], quality["num_features"]) == (200, 150, 8)


def test_fid_survives_a_large_mean_in_float32_features():
    real, generated = standardized(200, 4, 0) + 1000, standardized(200, 4, 1) + 1001
    assert frechet_distance(real.float(), generated.float()) == pytest.approx(4, abs=1e-2)


def test_kid_is_the_unbiased_estimate_with_the_cubic_kernel():
    # With all features equal to a constant vector, k(x, y) = (x·y / d + 1)³ is known, and so is the distance.
    real, generated = torch.ones(40, 4), torch.full((40, 4), 2.0)
    expected = (1 + 1) ** 3 + (4 + 1) ** 3 - 2 * (2 + 1) ** 3
    assert kernel_distance(real, generated) == (pytest.approx(expected, rel=1e-12), pytest.approx(0, abs=1e-9))


def correlated(count: int, dimension: int, seed: int) -> torch.Tensor:
    """Features as networks give them: not negative, correlated, some much larger than others."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    drawn = torch.randn(count, dimension, generator=generator, dtype=torch.float64) + 0.1 * seed
    return (drawn @ mixing).clamp(min=0) * torch.linspace(0.1, 3, dimension, dtype=torch.float64)


def test_fid_is_what_numpy_finds():
    real, generated = correlated(300, 16, 0), correlated(200, 16, 1)
    x, y = real.numpy(), generated.numpy()
    root = scipy.linalg.sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False)).real
    means = np.square(x.mean(0) - y.mean(0)).sum()
    expected = means + np.trace(np.cov(x, rowvar=False) + np.cov(y, rowvar=False) - 2 * root)
    assert expected > 1
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-9)


def test_kid_is_what_numpy_finds_on_the_same_halves():
    real, generated = correlated(40, 6, 0), correlated(30, 6, 1)
    generator = torch.Generator().manual_seed(7)
    half, values = 15, []
    for _ in range(KID_SUBSETS):
        x, y = (
            features[torch.randperm(len(features), generator=generator)[:half]].numpy()
            for features in (real, generated)
        )
        near, far = [(a @ a.T / 6 + 1) ** 3 for a in (x, y)], (x @ y.T / 6 + 1) ** 3
        unbiased = sum((kernel.sum() - np.trace(kernel)) / (half * (half - 1)) for kernel in near)
        values.append(unbiased - 2 * far.mean())
    mean, deviation = kernel_distance(real, generated, seed=7)
    assert mean == pytest.approx(np.mean(values), rel=1e-9)
    assert deviation == pytest.approx(np.std(values), rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_both_are_what_torchmetrics_finds():
    real, generated = correlated(60, 6, 0), correlated(50, 6, 1)
    network = torch.nn.Identity()
    network.num_features = 6
    fid = FrechetInceptionDistance(feature=network).set_dtype(torch.float64)
    kid = KernelInceptionDistance(feature=network, subsets=KID_SUBSETS, subset_size=25)
    for metric in (fid, kid):
        for batch in real.split(7):
            metric.update(batch, real=True)
        metric.update(generated, real=False)
    found = distances(real, generated, seed=3)
    assert found["fid"] == pytest.approx(fid.compute().item(), rel=1e-9)
    torch.manual_seed(3)
    assert (found["kid"], found["kid_std"]) == pytest.approx([value.item() for value in kid.compute()], rel=1e-12)


def test_same_arguments_give_the_same_numbers_and_leave_the_global_generator_alone():
    real, generated = standardized(60, 4, 0), standardized(60, 4, 1)
    state = torch.get_rng_state()
    assert distances(real, generated, seed=3) == distances(real, generated, seed=3)
    assert kernel_distance(real, generated, seed=3) != kernel_distance(real, generated, seed=4)
    assert torch.equal(torch.get_rng_state(), state)


def test_floor_compares_disjoint_draws_of_stated_size():
    real = standardized(101, 4, 0)
    halves = RealImages(real).floor
    assert (halves["num_real"], halves["num_generated"]) == (50, 50)
    assert halves == RealImages(real).floor
    assert 0 < halves["fid"] < 0.5
    first, second = floor_pair(real)
    assert len({tuple(row) for row in torch.cat([first, second]).tolist()}) == 100
    other = standardized(70, 4, 1)
    draw = RealImages(real, other).floor
    assert (draw["num_real"], draw["num_generated"]) == (70, 70)
    far = distances(real, other + 3)
    assert far["fid"] > 20 * halves["fid"] and far["kid"] > 20 * abs(halves["kid"])


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (torch.zeros(9, 4), torch.zeros(9, 5), "equal width"),
        (torch.zeros(3, 2), torch.zeros(9, 2), "for which 3 are too few; use at least 4"),
        (torch.full((9, 4), torch.nan), torch.zeros(9, 4), "not finite"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(real, generated, message):
    with pytest.raises(DiffTuneError, match=message):
        distances(real, generated)


def test_any_module_extracts_features():
    class Corners(torch.nn.Module):
        def forward(self, images):
            return images[:, :, 0, 0].float()

    images = torch.arange(7 * 3 * 4, dtype=torch.uint8).view(7, 3, 2, 2)
    features = extract_features(Corners(), images, batch_size=3)
    assert features.dtype == torch.float64 and torch.equal(features, images[:, :, 0, 0].double())
