# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Regression targets and SNR weights against diffusers' schedulers and training utilities."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from diffusers.training_utils import compute_snr

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.objective import DiffTuningObjective, NoiseDraws
from diffusers_difftune.objective.parameterization import resolve_prediction_type, snr_weight


SHAPE = (64, 4, 3, 2)
ZERO_SNR = {"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear"}


def drawn(seed: int = 0) -> tuple[torch.Tensor, NoiseDraws, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(SHAPE, generator=generator)
    uniform = torch.rand(SHAPE[0], generator=generator)
    uniform[:2] = torch.tensor([0.0, 1 - 2**-24])  # both ends of the table
    return latents, NoiseDraws(uniform, torch.randn(SHAPE, generator=generator)), torch.arange(SHAPE[0]) % 3 == 0


@pytest.mark.parametrize(
    ("scheduler_class", "options"),
    [
        (DDPMScheduler, {}),
        (DDPMScheduler, ZERO_SNR),
        (DDIMScheduler, {}),
        (DDIMScheduler, ZERO_SNR),
        (PNDMScheduler, {}),
    ],
)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_diffusion_targets_are_the_schedulers(scheduler_class, options, prediction_type):
    scheduler = scheduler_class(prediction_type=prediction_type, **options)
    latents, draws, is_source = drawn()
    noisy = DiffTuningObjective(scheduler).add_noise(latents, is_source, draws)
    assert {0, 999} <= set(noisy.timesteps.tolist())
    torch.testing.assert_close(
        noisy.sample, scheduler.add_noise(latents, draws.noise, noisy.timesteps), rtol=1e-5, atol=1e-6
    )
    if prediction_type == "epsilon":
        assert torch.equal(noisy.target, draws.noise)
    elif prediction_type == "sample":
        assert torch.equal(noisy.target, latents)
    else:
        # PNDM has no get_velocity; its noise levels are DDPM's.
        velocity = getattr(scheduler, "get_velocity", DDPMScheduler().get_velocity)
        torch.testing.assert_close(noisy.target, velocity(latents, draws.noise, noisy.timesteps), rtol=1e-5, atol=1e-6)
    if options:
        at_the_end = noisy.timesteps == 999
        assert torch.equal(noisy.sample[at_the_end], draws.noise[at_the_end]), (
            "x_T of zero terminal SNR is noise alone"
        )


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_targets_are_the_schedulers(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    latents, draws, is_source = drawn()
    noisy = DiffTuningObjective(scheduler).add_noise(latents, is_source, draws)
    expected = scheduler.scale_noise(latents, noisy.timesteps, draws.noise)
    torch.testing.assert_close(noisy.sample, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(noisy.target, draws.noise - latents)
    # x_t moves by the velocity: dx/dσ = noise − sample.
    sigma = (noisy.timesteps / 1000).view(-1, 1, 1, 1)
    torch.testing.assert_close(latents + sigma * noisy.target, noisy.sample, rtol=1e-5, atol=1e-5)


def test_the_given_prediction_type_replaces_the_schedulers():
    scheduler = DDPMScheduler(prediction_type="epsilon")
    assert resolve_prediction_type(scheduler) == "epsilon"
    assert resolve_prediction_type(scheduler, "v_prediction") == "v_prediction"
    assert resolve_prediction_type(FlowMatchEulerDiscreteScheduler()) == "velocity"
    latents, draws, is_source = drawn()
    noisy = DiffTuningObjective(scheduler, prediction_type="sample").add_noise(latents, is_source, draws)
    assert torch.equal(noisy.target, latents)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("options", [{}, ZERO_SNR], ids=["betas", "zero terminal SNR"])
def test_min_snr_weight_is_upstreams(options, prediction_type, gamma):
    scheduler = DDPMScheduler(prediction_type=prediction_type, **options)
    objective = DiffTuningObjective(scheduler, snr_gamma=gamma)
    t = torch.arange(1000)
    snr = compute_snr(scheduler, t)
    # As diffusers' scripts compute it, from compute_snr; "sample" is min(SNR, γ), the same loss as the other two.
    expected = torch.stack([snr, gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    if prediction_type == "epsilon":
        expected = expected / snr
    elif prediction_type == "v_prediction":
        expected = expected / (snr + 1)
    if options and prediction_type == "epsilon":
        assert snr[-1] == 0 and expected[-1].isnan(), "upstream divides 0 by 0 at the last level"
        expected[-1] = 1.0  # the limit of min(S, γ) / S
    for half in objective.weights:
        torch.testing.assert_close(half.float(), expected, rtol=2e-4, atol=1e-7)


def test_min_snr_weighs_the_same_loss_whatever_is_predicted():
    """A prediction error e of the clean sample costs min(S, γ) · e² in all three parameterizations."""
    scheduler = DDPMScheduler(beta_schedule="scaled_linear")
    alpha_bar = scheduler.alphas_cumprod.double()
    signal, sigma, snr = alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), alpha_bar / (1 - alpha_bar)
    # With x_t fixed, an error e in x0 is −(a/b)·e in ε and −e/b in v.
    scale = {"sample": torch.ones_like(snr), "epsilon": (signal / sigma) ** 2, "v_prediction": 1 / sigma**2}
    for prediction_type, squared in scale.items():
        weight = snr_weight(prediction_type, snr, 5.0)
        torch.testing.assert_close(weight * squared, snr.clamp(max=5.0), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: resolve_prediction_type(DDPMScheduler(), "noise"), "--prediction_type is 'noise'"),
        (lambda: resolve_prediction_type(DDPMScheduler(), "velocity"), "--prediction_type is 'velocity'"),
        (
            lambda: resolve_prediction_type(DDPMScheduler(prediction_type="score")),
            "scheduler's prediction_type is 'score'",
        ),
        (
            lambda: resolve_prediction_type(FlowMatchEulerDiscreteScheduler(), "epsilon"),
            "--prediction_type is 'epsilon'",
        ),
        (lambda: DiffTuningObjective(FlowMatchEulerDiscreteScheduler(), snr_gamma=5.0), "--snr_gamma does not apply"),
        (lambda: DiffTuningObjective(DDPMScheduler(), snr_gamma=0.0), "--snr_gamma is 0.0"),
        (lambda: DiffTuningObjective(DDPMScheduler(), snr_gamma=-5.0), "--snr_gamma is -5.0"),
    ],
)
def test_bad_values_are_one_sentence(make, said):
    with pytest.raises(DiffTuneError) as caught:
        make()
    message = str(caught.value)
    assert said in message and message.endswith(".") and "\n" not in message
