# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""ψ and ξ: the laws of noise levels against their closed forms, and against what diffusers itself draws."""

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.objective.noise_levels import NoiseLevels, draw_levels, entry_probabilities
from tests.laws import chi_square_p


T = 1000
T_AXIS = np.arange(T, dtype=np.float64)
SHIFT = 3.0


def flow_sigmas(shift: float = SHIFT) -> np.ndarray:
    """σ of each entry, noise first: entry i of the unshifted grid is (T − i) / T (Esser et al., ICML 2024, eq. 23)."""
    grid = (T - T_AXIS) / T
    return shift * grid / (1 + (shift - 1) * grid)


def psi_law(power: float) -> np.ndarray:
    return (T_AXIS + 1) ** power / ((T_AXIS + 1) ** power).sum()


def xi_law(power: float) -> np.ndarray:
    return (T - T_AXIS) ** power / ((T - T_AXIS) ** power).sum()


@pytest.mark.parametrize("scheduler_class", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0, 3.7])
def test_diffusion_laws_are_powers_of_t(scheduler_class, power):
    levels = NoiseLevels.of(scheduler_class())
    psi, xi = levels.reconsolidation_coefficient(power), levels.retention_coefficient(power)
    np.testing.assert_allclose(psi.numpy(), ((T_AXIS + 1) / T) ** power, rtol=1e-14)
    np.testing.assert_allclose(xi.numpy(), ((T - T_AXIS) / T) ** power, rtol=1e-14)
    np.testing.assert_allclose(levels.law(psi).numpy(), psi_law(power), rtol=1e-12)
    np.testing.assert_allclose(levels.law(xi).numpy(), xi_law(power), rtol=1e-12)
    assert levels.timesteps.tolist() == list(range(T))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("half", ["psi", "xi"])
def test_drawn_levels_follow_the_law(half, power):
    levels = NoiseLevels.of(DDPMScheduler())
    if half == "psi":
        law, expected, other = levels.law(levels.reconsolidation_coefficient(power)), psi_law, xi_law
    else:
        law, expected, other = levels.law(levels.retention_coefficient(power)), xi_law, psi_law
    drawn = draw_levels(law, torch.rand(1_000_000, generator=torch.Generator().manual_seed(1)))
    assert chi_square_p(drawn, expected(power)) > 1e-3
    assert chi_square_p(drawn, expected(1.05 * power + 0.05)) < 1e-6, "the test would not notice another power"
    if power:
        assert chi_square_p(drawn, other(power)) < 1e-6, "the test would not notice the other half's law"


def test_drawing_inverts_the_distribution_function():
    law = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25], dtype=torch.float64)
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999, 1.0])
    # Level 0 and level 2 have no mass; a float64 uniform rounded up to 1.0 still is the last level.
    assert draw_levels(law, uniform).tolist() == [1, 1, 3, 3, 4, 4, 4]
    stratified = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    counts = draw_levels(torch.from_numpy(psi_law(1)), stratified).bincount(minlength=T).numpy()
    assert np.abs(counts - psi_law(1) * 1_000_000).max() <= 1


SCHEMES = ["none", "logit_normal", "mode", "sigma_sqrt", "cosmap"]


def any_loss() -> np.ndarray:
    return np.random.default_rng(7).exponential(size=T)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("scheme", ["diffusion", *SCHEMES])
def test_weighting_has_the_expectation_of_sampling(scheme, power):
    if scheme == "diffusion":
        levels = NoiseLevels.of(DDPMScheduler())
    else:
        levels = NoiseLevels.of(FlowMatchEulerDiscreteScheduler(shift=SHIFT), scheme)
    loss = any_loss() * levels.loss_weight.numpy()
    for coefficient in (levels.reconsolidation_coefficient(power), levels.retention_coefficient(power)):
        sampled = math.fsum(levels.law(coefficient).numpy() * loss)
        weighted = math.fsum((levels.base * levels.weight(coefficient)).numpy() * loss)
        assert weighted == pytest.approx(sampled, rel=1e-12)


def test_diffusion_weights_are_the_coefficient_over_its_mean():
    levels = NoiseLevels.of(DDPMScheduler())
    psi = (T_AXIS + 1) / T
    np.testing.assert_allclose(levels.weight(levels.reconsolidation_coefficient(1)), psi / psi.mean(), rtol=1e-12)


@pytest.mark.parametrize("scheduler_class", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
def test_diffusion_factors_are_the_schedulers(scheduler_class):
    scheduler = scheduler_class(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, T) ** 2)
    levels = NoiseLevels.of(scheduler)
    np.testing.assert_allclose(levels.signal.numpy(), np.sqrt(alpha_bar), rtol=1e-4)
    np.testing.assert_allclose(levels.noise.numpy(), np.sqrt(1 - alpha_bar), rtol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_levels_are_sigma_after_shift(shift):
    levels = NoiseLevels.of(FlowMatchEulerDiscreteScheduler(shift=shift))
    sigmas = flow_sigmas(shift)
    assert len(levels) == T
    np.testing.assert_allclose(levels.height.numpy(), sigmas, rtol=1e-5)
    np.testing.assert_allclose(levels.depth.numpy(), 1 - sigmas, atol=1e-6)
    np.testing.assert_allclose(levels.noise.numpy(), sigmas, rtol=1e-5)
    np.testing.assert_allclose(levels.signal.numpy(), 1 - sigmas, atol=1e-6)
    np.testing.assert_allclose(levels.timesteps.numpy(), 1000 * sigmas, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["none", "logit_normal", "mode"])
def test_flow_laws_are_base_times_a_power_of_sigma(scheme):
    levels = NoiseLevels.of(FlowMatchEulerDiscreteScheduler(shift=SHIFT), scheme)
    sigmas, base = flow_sigmas(), levels.base.numpy()
    for law, height in (
        (levels.law(levels.reconsolidation_coefficient(2)), sigmas**2),
        (levels.law(levels.retention_coefficient(2)), (1 - sigmas) ** 2),
    ):
        np.testing.assert_allclose(law.numpy(), base * height / (base * height).sum(), rtol=1e-4, atol=1e-12)
    # The table runs from noise to data, so a law on the index instead of σ would have them swapped.
    noisy_end = slice(0, T // 10)
    psi, xi = levels.law(levels.reconsolidation_coefficient(1)), levels.law(levels.retention_coefficient(1))
    assert psi[noisy_end].sum() > 10 * xi[noisy_end].sum()
    assert draw_levels(xi, torch.zeros(1)).item() == 1, "σ = 1 has no mass under ξ"


@pytest.mark.parametrize(
    ("scheme", "parameters"),
    [
        ("none", {}),
        ("sigma_sqrt", {}),
        ("cosmap", {}),
        ("logit_normal", {}),
        ("logit_normal", {"logit_mean": 0.7, "logit_std": 0.5}),
        ("mode", {}),
        ("mode", {"mode_scale": 0.4}),
        ("mode", {"mode_scale": -0.8}),
    ],
)
def test_base_mass_is_what_diffusers_draws(scheme, parameters):
    full = {"logit_mean": 0.0, "logit_std": 1.0, "mode_scale": 1.29} | parameters
    torch.manual_seed(11)
    u = compute_density_for_timestep_sampling(scheme, batch_size=1_000_000, **full)
    drawn = (u.double() * T).long()
    base = NoiseLevels.of(FlowMatchEulerDiscreteScheduler(shift=SHIFT), scheme, **parameters).base.numpy()
    assert base.sum() == pytest.approx(1, abs=1e-12)
    assert chi_square_p(drawn, base) > 1e-3
    tilted = base * (1 + base.cumsum() / 10)
    assert chi_square_p(drawn, tilted / tilted.sum()) < 1e-6, "the test would not notice a small error"


def test_logit_normal_mass_in_closed_form():
    mean, std = -0.3, 1.2

    def distribution(u: float) -> float:
        if u in (0.0, 1.0):
            return u
        return 0.5 * (1 + math.erf((math.log(u / (1 - u)) - mean) / (std * math.sqrt(2))))

    expected = [distribution((i + 1) / 40) - distribution(i / 40) for i in range(40)]
    np.testing.assert_allclose(entry_probabilities(40, "logit_normal", mean, std).numpy(), expected, rtol=1e-9)


def test_mode_mass_in_closed_form():
    scale = 1.29
    distribution = torch.cat([torch.zeros(1), entry_probabilities(50, "mode", mode_scale=scale).cumsum(0)]).numpy()
    v = 1 - distribution  # u(v) of Esser et al., eq. 20, must give the edges of the entries back
    u = 1 - v - scale * (np.cos(np.pi * v / 2) ** 2 - 1 + v)
    np.testing.assert_allclose(u, np.arange(51) / 50, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_flow_loss_weight_is_diffusers(scheme):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    expected = compute_loss_weighting_for_sd3(scheme, scheduler.sigmas[:T].double())
    levels = NoiseLevels.of(scheduler, scheme)
    np.testing.assert_allclose(levels.loss_weight.numpy(), expected.numpy(), rtol=1e-6)
    assert (levels.loss_weight.numpy().std() > 0.1) == (scheme in ("sigma_sqrt", "cosmap"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NoiseLevels.of(EulerDiscreteScheduler()), "EulerDiscreteScheduler"),
        (lambda: NoiseLevels.of(DDPMScheduler(), "logit_normal"), "logit_normal"),
        (lambda: NoiseLevels.of(FlowMatchEulerDiscreteScheduler(), "gaussian"), "gaussian"),
        (lambda: NoiseLevels.of(FlowMatchEulerDiscreteScheduler(), "logit_normal", logit_std=0.0), "logit_std is 0.0"),
        (lambda: NoiseLevels.of(FlowMatchEulerDiscreteScheduler(), "mode", mode_scale=1.8), "mode_scale is 1.8"),
        (lambda: NoiseLevels.of(FlowMatchEulerDiscreteScheduler(), "mode", mode_scale=-1.1), "mode_scale is -1.1"),
    ],
)
def test_bad_values_are_one_sentence(make, said):
    with pytest.raises(DiffTuneError) as caught:
        make()
    message = str(caught.value)
    assert said in message and message.endswith(".") and "\n" not in message


def test_a_scheduler_set_to_sampling_steps_is_refused():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(28)
    with pytest.raises(DiffTuneError, match="28 sampling steps instead of its 1000"):
        NoiseLevels.of(scheduler)


def test_any_number_of_levels():
    levels = NoiseLevels.of(DDPMScheduler(num_train_timesteps=10))
    np.testing.assert_allclose(levels.law(levels.reconsolidation_coefficient(1)), np.arange(1, 11) / 55, rtol=1e-12)
    np.testing.assert_allclose(levels.law(levels.retention_coefficient(1)), np.arange(10, 0, -1) / 55, rtol=1e-12)
