# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Diff-Tuning itself, against values worked out by hand and against the plain training loop of diffusers."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_difftune.data.plan import BatchPlan
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.objective import DiffTuningObjective, NoiseDraws, NoisyBatch
from tests.laws import chi_square_p


SCHEMES = ["none", "logit_normal", "mode", "sigma_sqrt", "cosmap"]


def batch(rows: int, shape: tuple[int, ...] = (4, 3, 2), seed: int = 0) -> tuple[torch.Tensor, NoiseDraws]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    latents = normal(rows, *shape)
    draws = NoiseDraws(
        uniform=torch.rand(rows, generator=generator),
        noise=normal(rows, *shape),
        offset=normal(rows, shape[0], *[1] * (len(shape) - 1)),
        perturbation=normal(rows, *shape),
    )
    return latents, draws


def network(sample: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """A stand-in for a UNet that depends on everything it is given."""
    scale = 1 + timesteps.view(-1, *[1] * (sample.ndim - 1)) / 1000
    return torch.sin(sample.float() * scale) * 0.7 + 0.1


def alternate(rows: int) -> torch.Tensor:
    return torch.arange(rows) % 5 == 4


# The loss


def test_loss_by_hand():
    noise = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).view(5, 1, 1, 1)
    objective = DiffTuningObjective(DDPMScheduler())
    noisy = objective.add_noise(torch.zeros(5, 1, 1, 1), alternate(5), NoiseDraws(torch.full((5,), 0.5), noise))
    losses = objective.loss(torch.zeros(5, 1, 1, 1), noisy)
    # Errors 1, 4, 9, 16 on target rows and 25 on the source row; s·B = 1, so these are the two means.
    assert losses.rows.tolist() == [1, 4, 9, 16, 25]
    assert losses.reconsolidation.item() == pytest.approx(30 / 4)
    assert losses.retention.item() == pytest.approx(25)
    assert losses.total.item() == pytest.approx(30 / 4 + 0.1 * 25)


def test_loss_divides_by_the_requested_share_not_by_the_count():
    noise = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    objective = DiffTuningObjective(DDPMScheduler(), source_share=0.5, retention_weight=0.3)
    noisy = objective.add_noise(
        torch.zeros(3, 1, 1, 1), torch.tensor([True, False, False]), NoiseDraws(torch.full((3,), 0.5), noise)
    )
    losses = objective.loss(torch.zeros(3, 1, 1, 1), noisy)
    assert losses.reconsolidation.item() == pytest.approx((4 + 9) / (0.5 * 3))
    assert losses.retention.item() == pytest.approx(1 / (0.5 * 3))
    assert losses.total.item() == pytest.approx(13 / 1.5 + 0.3 * 1 / 1.5)


def test_noisy_sample_and_levels_by_hand():
    """Uniform numbers chosen so that the drawn level follows from the sums 1 + 2 + … + n = n(n + 1)/2."""
    scheduler = DDPMScheduler(num_train_timesteps=4, beta_start=0.1, beta_end=0.4)
    alpha_bar = [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7, 0.9 * 0.8 * 0.7 * 0.6]
    # ψ: tenths 1, 2, 3, 4, so levels start at 0, 0.1, 0.3, 0.6. ξ: 4, 3, 2, 1, so at 0, 0.4, 0.7, 0.9.
    uniform = torch.tensor([0.05, 0.25, 0.55, 0.65, 0.35, 0.45, 0.85, 0.95])
    is_source = torch.arange(8) >= 4
    latents, draws = batch(8)
    draws.uniform = uniform
    noisy = DiffTuningObjective(scheduler).add_noise(latents, is_source, draws)
    assert noisy.timesteps.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert noisy.height.tolist() == [0.25, 0.5, 0.75, 1.0] * 2
    assert noisy.weight.tolist() == [1.0] * 8
    for row in range(8):
        a = alpha_bar[row % 4]
        expected = math.sqrt(a) * latents[row] + math.sqrt(1 - a) * draws.noise[row]
        torch.testing.assert_close(noisy.sample[row], expected, rtol=1e-5, atol=1e-6)


def test_weighted_coefficients_by_hand():
    scheduler = DDPMScheduler(num_train_timesteps=4, beta_start=0.1, beta_end=0.4)
    latents, draws = batch(8)
    draws.uniform = torch.tensor([0.1, 0.3, 0.6, 0.9] * 2)
    objective = DiffTuningObjective(scheduler, coefficients="weighted")
    noisy = objective.add_noise(latents, torch.arange(8) >= 4, draws)
    assert noisy.timesteps.tolist() == [0, 1, 2, 3] * 2
    # ψ / mean ψ with ψ = ¼, ½, ¾, 1 of mean ⅝; ξ the other way round.
    torch.testing.assert_close(noisy.weight, torch.tensor([0.4, 0.8, 1.2, 1.6, 1.6, 1.2, 0.8, 0.4]))
    losses = objective.loss(torch.zeros_like(latents), noisy)
    torch.testing.assert_close(losses.rows, noisy.weight * draws.noise.square().flatten(1).mean(1))


def test_the_sum_of_the_parts_is_the_whole():
    latents, draws = batch(9)
    is_source = torch.tensor([0, 0, 1, 0, 1, 0, 0, 1, 0]).bool()
    objective = DiffTuningObjective(DDPMScheduler(), source_share=0.3, snr_gamma=5.0)

    def losses_of(rows: slice, batch_size: int | None):
        part = NoiseDraws(draws.uniform[rows], draws.noise[rows])
        noisy = objective.add_noise(latents[rows], is_source[rows], part)
        return objective.loss(network(noisy.sample, noisy.timesteps), noisy, batch_size=batch_size)

    whole = losses_of(slice(None), None)
    parts = [losses_of(slice(start, end), 9) for start, end in ((0, 1), (1, 2), (2, 6), (6, 9))]
    for name in ("total", "reconsolidation", "retention"):
        assert sum(getattr(part, name).item() for part in parts) == pytest.approx(
            getattr(whole, name).item(), rel=1e-6
        )


def test_the_gradient_is_that_of_total():
    objective = DiffTuningObjective(DDPMScheduler())
    latents, draws = batch(10)
    noisy = objective.add_noise(latents, alternate(10), draws)
    prediction = torch.zeros_like(latents, requires_grad=True)
    losses = objective.loss(prediction, noisy)
    losses.total.backward()
    # d/dŷ of mean((ŷ − y)²) / rows at ŷ = 0; source rows count 0.1.
    per_row = torch.where(alternate(10), 0.1 / 2, 1 / 8).view(-1, 1, 1, 1)
    torch.testing.assert_close(prediction.grad, -2 * per_row * draws.noise / latents[0].numel())
    assert not (losses.reconsolidation.requires_grad or losses.retention.requires_grad or losses.rows.requires_grad)


# The same objective at every batch size


@pytest.mark.parametrize("share", [0.2, 0.15, 0.5])
@pytest.mark.parametrize("batch_size", range(1, 10))
def test_the_effective_retention_weight_is_one_tenth_at_every_batch_size(batch_size, share):
    plan = BatchPlan(seed=0, batch_size=batch_size, source_share=share, num_target=17, num_source=5)
    objective = DiffTuningObjective(DDPMScheduler(), source_share=share)
    target_error, source_error = torch.tensor(3.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    totals = []
    for step in range(plan.period):
        is_source = torch.tensor([plan.slot(step, position).is_source for position in range(batch_size)])
        zero = torch.zeros(batch_size, 1, 1, 1)
        noisy = objective.add_noise(zero, is_source, NoiseDraws(torch.full((batch_size,), 0.5), zero))
        prediction = torch.where(is_source, source_error, target_error).view(-1, 1, 1, 1)
        totals.append(objective.loss(prediction, noisy).total)
    mean = torch.stack(totals).mean()
    mean.backward()
    assert mean.item() == pytest.approx(3.0**2 + 0.1 * 2.0**2, rel=1e-5)
    assert target_error.grad.item() == pytest.approx(2 * 3.0, rel=1e-5)
    assert source_error.grad.item() == pytest.approx(0.1 * 2 * 2.0, rel=1e-5)


@pytest.mark.parametrize("batch_size", range(1, 10))
def test_each_half_gets_its_own_law_at_every_batch_size(batch_size):
    plan = BatchPlan(seed=0, batch_size=batch_size, source_share=0.2, num_target=50, num_source=50)
    objective = DiffTuningObjective(DDPMScheduler())
    generator = torch.Generator().manual_seed(batch_size)
    drawn: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for step in range(2700 // batch_size):
        is_source = torch.tensor([plan.slot(step, position).is_source for position in range(batch_size)])
        noisy = objective.add_noise(torch.zeros(batch_size, 1, 1, 1), is_source, generator=generator)
        assert torch.equal(noisy.is_source, is_source)
        for half in (False, True):
            drawn[half].append(noisy.timesteps[is_source == half])
    t = np.arange(1000.0)
    psi, xi = (t + 1) / (t + 1).sum(), (1000 - t) / (1000 - t).sum()
    for half, own, other in ((False, psi, xi), (True, xi, psi)):
        levels = torch.cat(drawn[half])
        assert len(levels) == pytest.approx(2700 * (0.2 if half else 0.8), rel=0.02)
        assert chi_square_p(levels, own) > 1e-4
        assert chi_square_p(levels, np.full(1000, 1e-3)) < 1e-6
        assert chi_square_p(levels, other) < 1e-6


def random_loss() -> np.ndarray:
    return np.random.default_rng(3).exponential(size=1000)


@pytest.mark.parametrize("powers", [(1.0, 1.0), (0.0, 2.0), (2.5, 0.5)])
@pytest.mark.parametrize(
    ("make_scheduler", "options"),
    [
        (DDPMScheduler, {}),
        (DDPMScheduler, {"snr_gamma": 5.0}),
        (DDPMScheduler, {"snr_gamma": 5.0, "prediction_type": "v_prediction"}),
        *[(lambda: FlowMatchEulerDiscreteScheduler(shift=3.0), {"weighting_scheme": scheme}) for scheme in SCHEMES],
    ],
)
def test_weighted_and_sampled_have_the_same_expectation(make_scheduler, options, powers):
    """Σ_t P(t) · weight(t) · ℓ(t), exactly, for any ℓ."""
    expectation = {}
    for form in ("sampled", "weighted"):
        objective = DiffTuningObjective(
            make_scheduler(),
            coefficients=form,
            reconsolidation_power=powers[0],
            retention_power=powers[1],
            **options,
        )
        expectation[form] = [
            math.fsum((law * weight).numpy() * random_loss()) for law, weight in zip(objective.laws, objective.weights)
        ]
    assert expectation["weighted"] == pytest.approx(expectation["sampled"], rel=1e-12)
    assert expectation["sampled"][0] != pytest.approx(expectation["sampled"][1], rel=1e-3), "ψ and ξ differ"


# Standard fine-tuning is a special case


@pytest.mark.parametrize("snr_gamma", [None, 5.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_share_0_and_power_0_is_the_plain_objective(prediction_type, snr_gamma):
    scheduler = DDPMScheduler(prediction_type=prediction_type, beta_schedule="scaled_linear")
    objective = DiffTuningObjective(scheduler, source_share=0, reconsolidation_power=0, snr_gamma=snr_gamma)
    latents, draws = batch(32)
    noisy = objective.add_noise(latents, torch.zeros(32, dtype=torch.bool), draws)
    losses = objective.loss(network(noisy.sample, noisy.timesteps), noisy)

    # The loop of diffusers' train_text_to_image.py, with the same random numbers.
    timesteps = (draws.uniform * 1000).long()
    noisy_latents = scheduler.add_noise(latents, draws.noise, timesteps)
    target = draws.noise if prediction_type == "epsilon" else scheduler.get_velocity(latents, draws.noise, timesteps)
    model_pred = network(noisy_latents, timesteps)
    if snr_gamma is None:
        loss = torch.nn.functional.mse_loss(model_pred.float(), target.float(), reduction="mean")
    else:
        snr = compute_snr(scheduler, timesteps)
        weights = torch.stack([snr, snr_gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
        weights = weights / snr if prediction_type == "epsilon" else weights / (snr + 1)
        loss = torch.nn.functional.mse_loss(model_pred.float(), target.float(), reduction="none")
        loss = (loss.mean(dim=list(range(1, len(loss.shape)))) * weights).mean()

    assert torch.equal(noisy.timesteps, timesteps)
    assert losses.total.item() == pytest.approx(loss.item(), rel=2e-6)
    assert losses.reconsolidation.item() == losses.total.item()
    assert losses.retention.item() == 0


def test_share_0_and_power_0_is_the_plain_flow_matching_objective():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    objective = DiffTuningObjective(scheduler, source_share=0, reconsolidation_power=0, weighting_scheme="cosmap")
    latents, draws = batch(32)
    noisy = objective.add_noise(latents, torch.zeros(32, dtype=torch.bool), draws)
    losses = objective.loss(network(noisy.sample, noisy.timesteps), noisy)

    # The loop of diffusers' train_dreambooth_lora_sd3.py, with the same random numbers.
    indices = (draws.uniform * 1000).long()
    timesteps, sigmas = scheduler.timesteps[indices], scheduler.sigmas[indices].view(-1, 1, 1, 1)
    model_pred = network((1 - sigmas) * latents + sigmas * draws.noise, timesteps)
    weighting = 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2))
    loss = (weighting * (model_pred - (draws.noise - latents)) ** 2).reshape(32, -1).mean(1).mean()
    assert torch.equal(noisy.timesteps, timesteps)
    assert losses.total.item() == pytest.approx(loss.item(), rel=1e-5)


# What touches target rows only


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_noise_offset_touches_target_rows_only(prediction_type):
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    latents, draws = batch(10)
    is_source = alternate(10)
    plain = DiffTuningObjective(scheduler).add_noise(latents, is_source, draws)
    offset = DiffTuningObjective(scheduler, noise_offset=0.1).add_noise(latents, is_source, draws)
    assert torch.equal(offset.timesteps, plain.timesteps)
    assert torch.equal(offset.sample[is_source], plain.sample[is_source])
    assert torch.equal(offset.target[is_source], plain.target[is_source])
    # On target rows, the sample and the target are those of the shifted noise, as in diffusers' scripts.
    noise, rows = draws.noise + 0.1 * draws.offset, ~is_source
    expected = scheduler.add_noise(latents, noise, plain.timesteps)
    torch.testing.assert_close(offset.sample[rows], expected[rows], rtol=1e-5, atol=1e-6)
    velocity = scheduler.get_velocity(latents, noise, plain.timesteps)
    target = {"epsilon": noise, "v_prediction": velocity, "sample": latents}[prediction_type]
    torch.testing.assert_close(offset.target[rows], target[rows], rtol=1e-5, atol=1e-6)
    assert (offset.sample[rows] != plain.sample[rows]).any()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_input_perturbation_touches_the_sample_of_target_rows_only(prediction_type):
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    latents, draws = batch(10)
    is_source = alternate(10)
    plain = DiffTuningObjective(scheduler).add_noise(latents, is_source, draws)
    objective = DiffTuningObjective(scheduler, input_perturbation=0.2)
    perturbed = objective.add_noise(latents, is_source, draws)
    assert torch.equal(perturbed.target, plain.target)
    assert torch.equal(perturbed.sample[is_source], plain.sample[is_source])
    expected = scheduler.add_noise(latents, draws.noise + 0.2 * draws.perturbation, plain.timesteps)
    torch.testing.assert_close(perturbed.sample[~is_source], expected[~is_source], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(perturbed.sample[~is_source], plain.sample[~is_source])


def test_min_snr_weighs_both_halves():
    scheduler = DDPMScheduler()
    latents, draws = batch(40)
    noisy = DiffTuningObjective(scheduler, snr_gamma=5.0).add_noise(latents, alternate(40), draws)
    snr = compute_snr(scheduler, noisy.timesteps)
    torch.testing.assert_close(noisy.weight, snr.clamp(max=5.0) / snr, rtol=1e-4, atol=0)
    assert noisy.weight[alternate(40)].min() < 0.5, "some source rows are weighed down"


# Distillation


def test_distillation_holds_source_rows_to_the_pretrained_output():
    objective = DiffTuningObjective(DDPMScheduler(), snr_gamma=5.0)
    latents, draws = batch(10)
    is_source = alternate(10)
    noisy = objective.add_noise(latents, is_source, draws)
    prediction = network(noisy.sample, noisy.timesteps)
    pretrained = (prediction + 0.5).requires_grad_()
    losses = objective.loss(prediction.clone().requires_grad_(), noisy, pretrained_prediction=pretrained)
    plain = objective.loss(prediction, noisy)
    assert losses.reconsolidation.item() == plain.reconsolidation.item()
    torch.testing.assert_close(losses.rows[is_source], 0.25 * noisy.weight[is_source], rtol=1e-5, atol=0)
    assert losses.retention.item() == pytest.approx(0.25 * noisy.weight[is_source].mean().item(), rel=1e-5)
    losses.total.backward()
    assert pretrained.grad is None, "the pretrained model is not trained"
    assert objective.loss(prediction, noisy, pretrained_prediction=prediction).retention.item() == 0


# Precision, shapes and randomness


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scheduler", [DDPMScheduler(), FlowMatchEulerDiscreteScheduler(shift=3.0)])
def test_half_precision_latents(scheduler, dtype):
    objective = DiffTuningObjective(scheduler, noise_offset=0.1, input_perturbation=0.1)
    latents, draws = batch(20)
    full = objective.add_noise(latents, alternate(20), draws)
    half = objective.add_noise(latents.to(dtype), alternate(20), draws)
    assert half.sample.dtype == dtype
    assert torch.equal(half.timesteps, full.timesteps), "the level does not depend on the precision"
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(half.sample.float(), full.sample, rtol=tolerance, atol=4 * tolerance)
    losses = objective.loss(network(half.sample, half.timesteps).to(dtype), half)
    expected = objective.loss(network(full.sample, full.timesteps), full)
    assert losses.total.dtype == torch.float32
    assert losses.total.item() == pytest.approx(expected.total.item(), rel=5 * tolerance)


def test_a_large_half_precision_error_does_not_overflow():
    objective = DiffTuningObjective(DDPMScheduler())
    latents, draws = batch(5)
    noisy = objective.add_noise(latents.half(), alternate(5), draws)
    losses = objective.loss(torch.full_like(noisy.sample, 1000.0), noisy)  # 1000² is beyond float16
    assert losses.total.item() == pytest.approx(1.1e6, rel=0.01)


@pytest.mark.parametrize("shape", [(4, 8, 8), (16, 3, 8, 8), (12, 64)])
def test_any_shape_of_latents(shape):
    objective = DiffTuningObjective(DDPMScheduler(), noise_offset=0.1, input_perturbation=0.1)
    latents = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    noisy = objective.add_noise(latents, alternate(5), generator=torch.Generator().manual_seed(1))
    assert noisy.sample.shape == noisy.target.shape == latents.shape
    assert noisy.timesteps.shape == noisy.weight.shape == noisy.height.shape == (5,)
    assert objective.loss(noisy.target, noisy).total.item() == 0


def test_draws_come_from_the_generator():
    objective = DiffTuningObjective(DDPMScheduler(), noise_offset=0.1, input_perturbation=0.1)
    latents, is_source = torch.zeros(20_000, 2, 2, 1), torch.zeros(20_000, dtype=torch.bool)

    def draw(seed: int) -> NoiseDraws:
        return objective.draw(latents, torch.Generator().manual_seed(seed))

    first, again, other = draw(0), draw(0), draw(1)
    for name in ("uniform", "noise", "offset", "perturbation"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))
    assert first.offset.shape == (20_000, 2, 1, 1)
    assert first.noise.std().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(first.noise, first.perturbation)

    noisy = objective.add_noise(latents, is_source, generator=torch.Generator().manual_seed(0))
    with_draws = objective.add_noise(latents, is_source, first)
    assert torch.equal(noisy.sample, with_draws.sample) and torch.equal(noisy.timesteps, with_draws.timesteps)
    torch.manual_seed(5)
    untouched = torch.rand(1)
    torch.manual_seed(5)
    objective.add_noise(latents[:5], is_source[:5], generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.rand(1), untouched), "torch's global generator is left alone"


def test_the_defaults_are_the_reference_implementations():
    objective = DiffTuningObjective(DDPMScheduler())
    assert objective.source_share == 0.2
    assert objective.retention_weight == 0.1
    t = torch.arange(1000, dtype=torch.float64)
    torch.testing.assert_close(objective.laws[0], (t + 1) / 500_500)
    torch.testing.assert_close(objective.laws[1], (1000 - t) / 500_500)
    assert (objective.weights == 1).all()
    assert objective.noise_offset == objective.input_perturbation == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source_share": 1.0}, "--source_share is 1.0"),
        ({"source_share": -0.1}, "--source_share is -0.1"),
        ({"source_share": math.nan}, "--source_share is nan"),
        ({"retention_weight": -1.0}, "--retention_weight is -1.0"),
        ({"retention_weight": math.inf}, "--retention_weight is inf"),
        ({"reconsolidation_power": -1.0}, "--reconsolidation_power is -1.0"),
        ({"retention_power": math.nan}, "--retention_power is nan"),
        ({"coefficients": "both"}, "--coefficients is 'both'"),
        ({"prediction_type": "noise"}, "--prediction_type is 'noise'"),
        ({"snr_gamma": 0}, "--snr_gamma is 0"),
        ({"weighting_scheme": "mode"}, "weighting_scheme='mode'"),
    ],
)
def test_bad_values_are_one_sentence(options, said):
    with pytest.raises(DiffTuneError) as caught:
        DiffTuningObjective(DDPMScheduler(), **options)
    message = str(caught.value)
    assert said in message and message.endswith(".") and "\n" not in message


@pytest.mark.parametrize(("option", "missing"), [("noise_offset", "offset"), ("input_perturbation", "perturbation")])
def test_draws_that_lack_numbers_are_refused(option, missing):
    latents, draws = batch(5)
    setattr(draws, missing, None)
    with pytest.raises(DiffTuneError, match=rf"{option}.* no {missing}\.$"):
        DiffTuningObjective(DDPMScheduler(), **{option: 0.1}).add_noise(latents, alternate(5), draws)


def test_rows_of_one_half_alone():
    """A micro-step may hold rows of one half only; the other half's loss is 0, not nan."""
    objective = DiffTuningObjective(DDPMScheduler())
    latents, draws = batch(3)
    for is_source, empty in ((torch.zeros(3).bool(), "retention"), (torch.ones(3).bool(), "reconsolidation")):
        noisy: NoisyBatch = objective.add_noise(latents, is_source, draws)
        losses = objective.loss(torch.zeros_like(latents), noisy, batch_size=12)
        assert getattr(losses, empty).item() == 0
        assert losses.total.isfinite() and losses.total.item() > 0


class Copies(TorchDispatchMode):
    """Notes the copies to the meta device, which stands in for a GPU, that everyone would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to_meta = kwargs.get("device") == torch.device("meta") and args[0].device.type != "meta"
        moved = operator.overloadpacket.__name__ == "_to_copy" and to_meta
        self.waiting += moved and not kwargs.get("non_blocking")
        return operator(*args, **kwargs)


def test_no_copy_to_the_device_waits_for_it() -> None:
    latents, draws = batch(4)
    objective = DiffTuningObjective(DDPMScheduler(), noise_offset=0.1, input_perturbation=0.1, snr_gamma=5.0)
    with Copies() as copies:
        noisy = objective.add_noise(latents.to("meta", non_blocking=True), torch.arange(4) == 3, draws)
    assert {value.device.type for value in vars(noisy).values()} == {"meta"}
    assert copies.waiting == 0
