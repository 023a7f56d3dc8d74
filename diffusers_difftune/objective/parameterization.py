# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What the network is asked to predict, and the loss weights that depend on it."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ..errors import DiffTuneError
from .noise_levels import NoiseScheduler


def resolve_prediction_type(scheduler: NoiseScheduler, prediction_type: str | None = None) -> str:
    """The prediction type to train with: the given one, or else the scheduler's own: `"epsilon"`, `"v_prediction"` or `"sample"`
    for diffusion. Flow matching always predicts the `"velocity"`."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        if prediction_type not in (None, "velocity"):
            raise DiffTuneError(
                f"--prediction_type is '{prediction_type}', but a flow-matching model predicts the velocity; leave it"
                " out."
            )
        return "velocity"
    found = prediction_type or scheduler.config.prediction_type
    if found not in ("epsilon", "v_prediction", "sample"):
        where = "--prediction_type" if prediction_type else "The scheduler's prediction_type"
        raise DiffTuneError(f"{where} is '{found}'; it must be epsilon, v_prediction or sample.")
    return found


def regression_target(
    prediction_type: str,
    sample: torch.Tensor,
    noise: torch.Tensor,
    signal_factor: torch.Tensor,
    noise_factor: torch.Tensor,
) -> torch.Tensor:
    """What the network should answer to x_t = a · sample + b · noise.

    Args:
        prediction_type (`str`): `"epsilon"` (the noise), `"sample"` (the clean sample), `"v_prediction"`
            (a · noise − b · sample, Salimans and Ho, 2022) or `"velocity"` (noise − sample, flow matching).
        sample, noise (`torch.Tensor` of shape `(B, ...)`): The clean sample and the noise.
        signal_factor, noise_factor (`torch.Tensor`, broadcastable to `sample`): a and b.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return sample
    if prediction_type == "velocity":
        return noise - sample
    return signal_factor * noise - noise_factor * sample


def snr_weight(prediction_type: str, snr: torch.Tensor, gamma: float) -> torch.Tensor:
    """The min-SNR-γ loss weight (Hang et al., ICCV 2023), for a loss taken on the network's own output.

    Args:
        prediction_type (`str`): `"epsilon"`: min(SNR, γ) / SNR, with its limit 1 at SNR = 0. `"v_prediction"`:
            min(SNR, γ) / (SNR + 1). `"sample"`: min(SNR, γ).
        snr (`torch.Tensor`): The signal-to-noise ratio a² / b² of each level.
        gamma (`float`): γ, above 0; the paper recommends 5.
    """
    if prediction_type == "velocity":
        raise DiffTuneError("--snr_gamma does not apply to flow-matching models; leave it out.")
    if gamma <= 0:
        raise DiffTuneError(f"--snr_gamma is {gamma}; it must be above 0 (5.0 is recommended).")
    clipped = snr.clamp(max=gamma)
    if prediction_type == "epsilon":
        return torch.where(snr > 0, clipped / snr.clamp(min=torch.finfo(snr.dtype).tiny), torch.ones_like(snr))
    if prediction_type == "v_prediction":
        return clipped / (snr + 1)
    return clipped
