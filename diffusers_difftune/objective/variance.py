# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The variational term that trains a learned variance (Nichol and Dhariwal, ICML 2021).

Such a network answers with twice the channels: its prediction of the noise, and v, which places the log variance of a
denoising step between its two bounds, log β̃ (v = −1) and log β (v = 1).
"""

import math

import torch

from ..errors import DiffTuneError
from .noise_levels import NoiseScheduler


BIN = 1 / 255  # half the width of a grey level on [−1, 1]


class VariationalTerm:
    """−log p of a denoising step in bits per dimension, as a function of v; the predicted mean is taken as given.

    At t > 0 it is KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)), at t = 0 the negative log-likelihood of x_0 in bins of a
    256th of [−1, 1] (Nichol and Dhariwal, equations 4 to 6 and 15; the reference treats latents in the same way). The normal
    distribution's function is exact here, where theirs and the reference's is an approximation by a tanh.

    Args:
        scheduler ([`DDPMScheduler`], [`DDIMScheduler`] or [`PNDMScheduler`]): The scheduler the model was pretrained with.
        prediction_type (`str`): What the network predicts, which must be the noise.
    """

    def __init__(self, scheduler: NoiseScheduler, prediction_type: str) -> None:
        if prediction_type != "epsilon":
            raise DiffTuneError(
                f"The model learns its variance, which is trained beside the prediction epsilon, not {prediction_type}."
            )
        # Not from the scheduler's float32 products: their quotients have β to three digits only.
        betas = scheduler.betas.double().cpu()
        alphas_bar = (1 - betas).cumprod(0)
        before = torch.cat([alphas_bar.new_ones(1), alphas_bar[:-1]])
        variance = betas * (1 - before) / (1 - alphas_bar)  # β̃, of q(x_{t−1} | x_t, x_0); 0 at t = 0
        variance = torch.cat([variance[1:2], variance[1:]])  # whose logarithm is taken, so its neighbour's stands in
        from_clean = betas * before.sqrt() / (1 - alphas_bar)
        # How far an error in the noise moves the mean: x̂_0 − x_0 = (ε − ε̂) √(1/ᾱ − 1), and the mean has that times this.
        self.mean_per_noise = (from_clean * (1 / alphas_bar - 1).sqrt()).float()
        self.log_lower, self.width = variance.log().float(), (betas / variance).log().float()
        first = scheduler.alphas_cumprod[0].double()  # as x_0 was noised
        self.signal_0, self.noise_0 = first.sqrt().item(), (1 - first).sqrt().item()

    def __call__(
        self,
        values: torch.Tensor,
        predicted_noise: torch.Tensor,
        noise: torch.Tensor,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
    ) -> torch.Tensor:
        """Bits per dimension of each row, of v (mostly in [−1, 1]), ε̂ (no gradient reaches it), ε, x_t, all of shape
        (B, C, h, w), and t."""
        values, noise, sample = values.float(), noise.float(), sample.float()
        per_row = (-1, *[1] * (values.ndim - 1))

        def at(table: torch.Tensor) -> torch.Tensor:
            return table.to(timesteps.device)[timesteps].view(per_row)

        rise = (values + 1) / 2 * at(self.width)  # of the log variance over its lower bound
        log_variance = at(self.log_lower) + rise
        error = at(self.mean_per_noise) * (noise - predicted_noise.detach().float())
        divergence = 0.5 * (rise + torch.expm1(-rise) + error**2 * (-log_variance).exp())

        clean = (sample - self.noise_0 * noise) / self.signal_0  # where t = 0
        likelihood = bin_log_likelihood(clean, error, log_variance)
        first = (timesteps == 0).view(per_row)
        return torch.where(first, -likelihood, divergence).flatten(1).mean(1) / math.log(2)


def bin_log_likelihood(values: torch.Tensor, errors: torch.Tensor, log_variances: torch.Tensor) -> torch.Tensor:
    """The log-probability that a normal variable falls into the grey level of `values`, on [−1, 1]; the first and the
       last level reach to infinity (Ho et al., NeurIPS 2020, equation 13).
    The variable's mean is `values + errors`."""
    scale = (-0.5 * log_variances).exp()
    first = torch.special.log_ndtr(scale * (BIN - errors))
    last = torch.special.log_ndtr(scale * (BIN + errors))
    # The law is symmetric, and in a tail only erfc is exact: torch.special.ndtr goes by erf.
    away, unit = errors.abs(), scale * math.sqrt(0.5)
    inside = (0.5 * (torch.erfc(unit * (away - BIN)) - torch.erfc(unit * (away + BIN)))).clamp(min=1e-12).log()
    return torch.where(values < -0.999, first, torch.where(values > 0.999, last, inside))
