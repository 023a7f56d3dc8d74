# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The loss of a DiT, against a direct evaluation of the formulas in float64 that shares no code with ours.

Squared error and, for a network that learns its variance, the variational term of Nichol and Dhariwal (2021): linear betas
from 1e-4 to 0.02 over 1000 levels, the log variance between log β̃ and log β, bits per dimension.
"""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from scipy.stats import norm

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.objective import DiffTuningObjective, NoiseDraws, NoisyBatch
from diffusers_difftune.objective.variance import VariationalTerm
from tests.tiny import tiny_dit_pipeline


T = 1000
LINEAR = {"num_train_timesteps": T, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SHARE, WEIGHT = 0.25, 0.1

# Each row's number for drawing its level: from the very first level to the very last one, on target and source rows.
UNIFORM = torch.tensor([0.0, 1e-6, 1e-4, 0.3, 0.9, 1 - 1e-7, 0.0, 0.002, 0.5, 0.9, 1 - 1e-9, 0.7], dtype=torch.float64)
IS_SOURCE = torch.tensor([False] * 6 + [True] * 6)
LABELS = torch.tensor([0, 1, 2, 1000, 0, 207, 1000, 1000, 5, 7, 1000, 999])


class Level(NamedTuple):
    """What the formulas say at one level."""

    beta: float
    alpha_bar: float
    alpha_bar_before: float
    posterior: float  # β̃, the variance of q(x_{t−1} | x_t, x_0)


def level(t: int) -> Level:
    betas = np.linspace(1e-4, 0.02, T, dtype=np.float64)
    products = np.concatenate([[1.0], np.cumprod(1 - betas)])
    return Level(betas[t], products[t + 1], products[t], betas[t] * (1 - products[t]) / (1 - products[t + 1]))


def bits(clean: np.ndarray, noise: np.ndarray, predicted: np.ndarray, v: np.ndarray, t: int) -> float:
    """The variational term of one row."""
    beta, alpha_bar, before, posterior = level(t)
    x_t = math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * noise
    clipped = level(1).posterior if t == 0 else posterior  # at t = 0 it would be 0

    def mean_given(x_0: np.ndarray) -> np.ndarray:
        """The mean of q(x_{t−1} | x_t, x_0)."""
        of_x_0 = math.sqrt(before) * beta / (1 - alpha_bar)
        of_x_t = math.sqrt(1 - beta) * (1 - before) / (1 - alpha_bar)
        return of_x_0 * x_0 + of_x_t * x_t

    mean = mean_given((x_t - math.sqrt(1 - alpha_bar) * predicted) / math.sqrt(alpha_bar))
    variance = np.exp((v + 1) / 2 * math.log(beta) + (1 - v) / 2 * math.log(clipped))
    if t > 0:  # KL of two normal laws
        ratio = posterior / variance
        nats = 0.5 * (ratio - 1 - np.log(ratio) + (mean_given(clean) - mean) ** 2 / variance)
        return float(nats.mean() / math.log(2))
    deviation, half = np.sqrt(variance), 1 / 255
    below, above = (clean - half - mean) / deviation, (clean + half - mean) / deviation
    between = np.where(below > 0, norm.sf(below) - norm.sf(above), norm.cdf(above) - norm.cdf(below))
    inside = np.log(np.maximum(between, 1e-12))
    nats = -np.where(clean < -0.999, norm.logcdf(above), np.where(clean > 0.999, norm.logsf(below), inside))
    return float(nats.mean() / math.log(2))


def coefficient(t: int, is_source: bool) -> float:
    """ψ or ξ at power 1."""
    return (T - t) / T if is_source else (t + 1) / T


def mean_coefficient() -> float:
    return (T + 1) / (2 * T)  # of ψ and of ξ


def expected_rows(clean: torch.Tensor, noisy: NoisyBatch, output: torch.Tensor, coefficients: str, how: str | None):
    """Every row's loss."""
    found = []
    for row, t in enumerate(noisy.timesteps.tolist()):
        source = bool(IS_SOURCE[row])
        x_0, noise, answer = (part[row].double().numpy() for part in (clean, noisy.noise, output.detach()))
        law = coefficient(t, source) / (T * mean_coefficient())  # P(t), of sampled coefficients
        weight = 1.0 if coefficients == "sampled" else coefficient(t, source) / mean_coefficient()
        of_bits = weight
        if how == "target" and source:
            of_bits = 0.0
        if how == "unskewed":  # back to an even law, at most ten times
            of_bits = min(10.0, 1 / (T * law)) if coefficients == "sampled" else 1.0
        loss = weight * ((answer[:4] - noise) ** 2).mean()
        found.append(loss + (0.0 if how is None else of_bits * bits(x_0, noise, answer[:4], answer[4:], t)))
    return np.array(found)


class Case(NamedTuple):
    objective: DiffTuningObjective
    clean: torch.Tensor
    noisy: NoisyBatch
    output: torch.Tensor


def make_case(how: str | None, coefficients: str = "sampled", **settings) -> Case:
    """A batch with a level at both ends of the scale, and what a DiT answers to it and its labels."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, len(UNIFORM), 4, 8, 8, generator=generator)
    objective = DiffTuningObjective(
        DDPMScheduler(**LINEAR), SHARE, WEIGHT, coefficients=coefficients, variance_loss=how, **settings
    )
    noisy = objective.add_noise(clean, IS_SOURCE, NoiseDraws(UNIFORM, noise))
    transformer = tiny_dit_pipeline(learned_variance=how is not None).transformer
    output = transformer(noisy.sample, noisy.timesteps, LABELS, return_dict=False)[0]
    return Case(objective, clean, noisy, output.detach().requires_grad_())


@pytest.mark.parametrize("coefficients", ["sampled", "weighted"])
@pytest.mark.parametrize("how", [None, "both", "target", "unskewed"])
def test_the_loss_is_that_of_the_formulas(how: str | None, coefficients: str) -> None:
    objective, clean, noisy, output = make_case(how, coefficients)
    assert noisy.timesteps[0] == noisy.timesteps[6] == 0 and {999} <= set(noisy.timesteps.tolist())
    for row, t in enumerate(noisy.timesteps.tolist()):
        signal, sigma = math.sqrt(level(t).alpha_bar), math.sqrt(1 - level(t).alpha_bar)
        x_t = signal * clean[row].double() + sigma * noisy.noise[row].double()
        torch.testing.assert_close(noisy.sample[row].double(), x_t, rtol=1e-5, atol=1e-5)

    rows = expected_rows(clean, noisy, output, coefficients, how)
    losses = objective.loss(output, noisy)
    np.testing.assert_allclose(losses.rows.numpy(), rows, rtol=1e-5)
    target, source = rows[:6].sum() / ((1 - SHARE) * len(rows)), rows[6:].sum() / (SHARE * len(rows))
    assert losses.reconsolidation.item() == pytest.approx(target, rel=1e-5)
    assert losses.retention.item() == pytest.approx(source, rel=1e-5)
    assert losses.total.item() == pytest.approx(target + WEIGHT * source, rel=1e-5)


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
def test_every_level_is_that_of_the_formulas(scheduler: type) -> None:
    """From the first to the last, for predictions near and far, and v within its bounds and beyond."""
    generator = torch.Generator().manual_seed(1)
    t = torch.tensor([0, 0, 0, *range(1, T, 7), 998, 999])
    clean, noise, error, v = torch.randn(4, len(t), 4, 4, generator=generator)
    scale = torch.logspace(-3, 0.3, len(t))[torch.randperm(len(t), generator=generator)]
    predicted = noise + error * scale.view(-1, 1, 1)
    made = scheduler(**LINEAR)
    found = VariationalTerm(made, "epsilon")(v, predicted, noise, made.add_noise(clean, noise, t), t)
    parts = (part.double().numpy() for part in (clean, noise, predicted, v))
    expected = [bits(*row, step) for *row, step in zip(*parts, t.tolist())]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-9)


def test_a_perfect_answer_costs_nothing() -> None:
    noise, t = torch.randn(2, 4, 8, 8), torch.tensor([1, 700])
    true_variance = -torch.ones(2, 4, 8, 8)
    found = VariationalTerm(DDPMScheduler(**LINEAR), "epsilon")(
        true_variance, noise, noise, torch.zeros_like(noise), t
    )
    assert found.tolist() == [0, 0]


@pytest.mark.parametrize("how", ["both", "target", "unskewed"])
def test_the_term_trains_the_variance_and_nothing_else(how: str) -> None:
    case = make_case(how)
    case.objective.loss(case.output, case.noisy).total.backward()
    mean, values = case.output.grad.chunk(2, dim=1)

    plain = make_case(None)
    alone = case.output.detach()[:, :4].clone().requires_grad_()
    plain.objective.loss(alone, plain.noisy).total.backward()
    torch.testing.assert_close(mean, alone.grad, rtol=0, atol=0)

    moved = values.flatten(1).abs().sum(1) > 0
    assert moved.tolist() == [not (how == "target" and source) for source in IS_SOURCE.tolist()]


@pytest.mark.parametrize("row", [0, 1, 3, 6, 9])
def test_the_gradient_of_the_variance_is_the_slope_of_the_formulas(row: int) -> None:
    objective, clean, noisy, output = make_case("both")
    objective.loss(output, noisy).total.backward()
    gradient = output.grad[row, 4:].double().numpy()
    x_0, noise, answer = (part[row].double().numpy() for part in (clean, noisy.noise, output.detach()))
    way = np.random.default_rng(row).standard_normal(gradient.shape)

    def along(step: float) -> float:
        return bits(x_0, noise, answer[:4], answer[4:] + step * way, int(noisy.timesteps[row]))

    of_row = WEIGHT / (SHARE * len(UNIFORM)) if IS_SOURCE[row] else 1 / ((1 - SHARE) * len(UNIFORM))
    slope = of_row * (along(1e-4) - along(-1e-4)) / 2e-4
    assert (gradient * way).sum() == pytest.approx(slope, rel=1e-3)


def test_the_gradient_is_finite_however_wrong_the_answer_is() -> None:
    case = make_case("both")
    output = (1000 * case.output.detach()).requires_grad_()
    output.data[:, 4:] /= 1000
    losses = case.objective.loss(output, case.noisy)
    losses.total.backward()
    assert losses.total.isfinite() and output.grad.isfinite().all()


def test_min_snr_weighs_the_squared_error_alone() -> None:
    case, plain, bare = make_case("both", snr_gamma=5.0), make_case("both"), make_case(None, snr_gamma=5.0)
    mean = case.output.detach()[:, :4]
    term = (
        plain.objective.loss(plain.output, plain.noisy).rows - make_case(None).objective.loss(mean, plain.noisy).rows
    )
    rows = case.objective.loss(case.output, case.noisy).rows
    torch.testing.assert_close(rows - bare.objective.loss(mean, bare.noisy).rows, term, rtol=1e-4, atol=1e-5)


def test_distillation_holds_the_mean_to_the_pretrained_one_and_the_variance_to_the_noise() -> None:
    case = make_case("both")
    term = (
        case.objective.loss(case.output, case.noisy).rows
        - make_case(None).objective.loss(case.output.detach()[:, :4], case.noisy).rows
    )
    itself = case.objective.loss(case.output, case.noisy, pretrained_prediction=case.output).rows
    torch.testing.assert_close(itself[IS_SOURCE], term[IS_SOURCE], rtol=1e-4, atol=1e-5)
    assert (itself - term)[~IS_SOURCE].min() > 0.1


@pytest.mark.parametrize(("how", "channels", "expected"), [("both", 4, 8), ("both", 6, 8), (None, 8, 4)])
def test_another_number_of_channels_is_refused(how: str | None, channels: int, expected: int) -> None:
    objective, _, noisy, _ = make_case(how)
    with pytest.raises(DiffTuneError, match=f"answers with {channels} channels to 4 of noise, not {expected}"):
        objective.loss(torch.zeros(len(UNIFORM), channels, 8, 8), noisy)


@pytest.mark.parametrize(
    ("scheduler", "given", "found"),
    [
        (DDPMScheduler(**LINEAR, prediction_type="v_prediction"), {}, "v_prediction"),
        (DDPMScheduler(**LINEAR), {"prediction_type": "v_prediction"}, "v_prediction"),
        (DDIMScheduler(**LINEAR), {"prediction_type": "sample"}, "sample"),
        (FlowMatchEulerDiscreteScheduler(), {}, "velocity"),
    ],
)
def test_a_network_that_predicts_something_else_is_refused(scheduler, given: dict, found: str) -> None:
    with pytest.raises(DiffTuneError, match=f"beside the prediction epsilon, not {found}"):
        DiffTuningObjective(scheduler, variance_loss="both", **given)


def test_an_unknown_variance_loss_is_refused() -> None:
    with pytest.raises(DiffTuneError, match="--variance_loss is 'all'; it must be both, target or unskewed"):
        DiffTuningObjective(DDPMScheduler(**LINEAR), variance_loss="all")
