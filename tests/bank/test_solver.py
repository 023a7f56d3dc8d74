# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from diffusers_difftune.bank.solver import SOLVERS, solver_settings
from diffusers_difftune.errors import DiffTuneError


STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
SCHEDULERS = {
    "sd": PNDMScheduler(**STABLE_DIFFUSION, set_alpha_to_one=False, skip_prk_steps=True),
    "clipping": DDPMScheduler(**STABLE_DIFFUSION, clip_sample=True, thresholding=True),
    "linear": DDPMScheduler(beta_schedule="linear", timestep_spacing="linspace"),
    "v": DDPMScheduler(**STABLE_DIFFUSION, prediction_type="v_prediction"),
    "zero snr": DDPMScheduler(
        **STABLE_DIFFUSION,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ),
}


def sample(name: str, solver: str, steps: int, mean: float, deviation: float, count: int = 2000) -> torch.Tensor:
    """Samples of a solver with the exact denoiser of Gaussian data."""
    own = SCHEDULERS[name]
    scheduler_class, settings = solver_settings(own, solver, steps)
    scheduler = scheduler_class.from_config(settings)
    scheduler.set_timesteps(steps)
    cumulative = DDPMScheduler.from_config(own.config).alphas_cumprod.double()
    x = torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * float(scheduler.init_noise_sigma)
    for t in scheduler.timesteps:
        x_in = scheduler.scale_model_input(x, t)
        below, part = int(t), float(t) % 1  # euler's timesteps may lie between two
        alpha = cumulative[below] * (1 - part) + cumulative[min(below + 1, len(cumulative) - 1)] * part
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        variance = alpha * deviation**2 + 1 - alpha
        x0 = mean + signal * deviation**2 / variance * (x_in - signal * mean)
        epsilon = noise * (x_in - signal * mean) / variance
        output = epsilon if own.config.prediction_type == "epsilon" else signal * epsilon - noise * x0
        x = scheduler.step(output, t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("steps", [8, 20, 50])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_last_step_reaches_clean_data(name: str, solver: str, steps: int) -> None:
    """With data that is one point, whatever noise is left in a sample shows; so does clipping, the point being 3."""
    samples = sample(name, solver, steps, mean=3.0, deviation=0.0, count=50)
    torch.testing.assert_close(samples, torch.full_like(samples, 3.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("steps", [1, 7, 30, 333, 1000])
@pytest.mark.parametrize("solver", SOLVERS)
def test_any_number_of_steps_reaches_clean_data(solver: str, steps: int) -> None:
    samples = sample("sd", solver, steps, mean=3.0, deviation=0.0, count=10)
    torch.testing.assert_close(samples, torch.full_like(samples, 3.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "solver, steps, least", [("ddim", 50, 0.6), ("dpm++", 20, 0.8), ("unipc", 20, 0.8), ("euler", 50, 0.8)]
)
def test_fine_detail_is_kept(solver: str, steps: int, least: float) -> None:
    """Of data with a small deviation; a coarse last step returns the mean instead."""
    assert least < sample("sd", solver, steps, mean=0.5, deviation=0.05).std() / 0.05 < 1.1


@pytest.mark.parametrize("solver", SOLVERS)
def test_broad_data_is_sampled_with_its_mean_and_deviation(solver: str) -> None:
    samples = sample("sd", solver, 50, mean=0.5, deviation=1.0)
    assert abs(samples.mean() - 0.5) < 0.07
    assert abs(samples.std() - 1) < 0.05


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_belongs_to_the_model_is_kept(solver: str) -> None:
    own = SCHEDULERS["zero snr"]
    scheduler_class, settings = solver_settings(own, solver, 50)
    config = scheduler_class.from_config(settings).config
    for name in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "prediction_type"):
        assert config[name] == own.config[name]
    assert config["rescale_betas_zero_snr"] is True


def test_flow_matching_is_refused() -> None:
    with pytest.raises(DiffTuneError, match="FlowMatchEulerDiscreteScheduler"):
        solver_settings(FlowMatchEulerDiscreteScheduler(), "euler", 50)


def test_more_steps_than_levels_are_refused() -> None:
    with pytest.raises(DiffTuneError, match="steps is 1001; it must be at most .* 1000"):
        solver_settings(SCHEDULERS["sd"], "dpm++", 1001)


def test_steps_that_miss_the_end_are_refused() -> None:
    with pytest.raises(DiffTuneError, match="steps is 7; .* a divisor of 1000"):
        solver_settings(SCHEDULERS["zero snr"], "ddim", 7)
