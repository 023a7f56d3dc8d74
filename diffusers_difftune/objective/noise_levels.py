# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The coefficients ψ and ξ of Diff-Tuning, and the laws of noise levels they stand for.

A *noise level* t runs from data (t = 0) to noise (t = T, or σ = 1) for every scheduler, whatever the order of the
scheduler's own table is. Reconsolidation weighs a level by ψ, which never falls with t; retention weighs it by ξ,
which never rises (Zhong et al., NeurIPS 2024, "Diff-Tuning objective").
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from ..errors import DiffTuneError


DIFFUSION_SCHEDULERS = (DDPMScheduler, DDIMScheduler, PNDMScheduler)
NoiseScheduler: TypeAlias = DDPMScheduler | DDIMScheduler | PNDMScheduler | FlowMatchEulerDiscreteScheduler


@dataclass(frozen=True)
class NoiseLevels:
    """Every noise level a scheduler trains on, in the order of the scheduler's own table.

    Attributes:
        timesteps (`torch.Tensor` of shape `(T,)`): What the network is given as its timestep.
        signal (`torch.Tensor` of shape `(T,)`, float64): The factor of the clean sample in x_t.
        noise (`torch.Tensor` of shape `(T,)`, float64): The factor of the noise in x_t.
        height (`torch.Tensor` of shape `(T,)`, float64): How near to noise the level is, in (0, 1]: (t + 1) / T for
            diffusion, σ for flow matching. ψ is a power of it.
        depth (`torch.Tensor` of shape `(T,)`, float64): How near to data the level is, in [0, 1]: (T − t) / T for
            diffusion, 1 − σ for flow matching. ξ is a power of it.
        base (`torch.Tensor` of shape `(T,)`, float64): The probability of each level in plain training.
        loss_weight (`torch.Tensor` of shape `(T,)`, float64): The model family's own loss weight at each level.
    """

    timesteps: torch.Tensor
    signal: torch.Tensor
    noise: torch.Tensor
    height: torch.Tensor
    depth: torch.Tensor
    base: torch.Tensor
    loss_weight: torch.Tensor

    @classmethod
    def of(
        cls,
        scheduler: NoiseScheduler,
        weighting_scheme: str = "none",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        mode_scale: float = 1.29,
    ) -> "NoiseLevels":
        """Reads the noise levels of a scheduler.

        Args:
            scheduler ([`DDPMScheduler`], [`DDIMScheduler`], [`PNDMScheduler`] or [`FlowMatchEulerDiscreteScheduler`]):
                The scheduler the model was pretrained with, freshly loaded (no `set_timesteps` call on it).
            weighting_scheme (`str`, *optional*, defaults to `"none"`):
                Flow matching only, with the names of diffusers' Stable Diffusion 3 scripts. `"logit_normal"` and
                `"mode"` change how often a level is drawn, `"sigma_sqrt"` and `"cosmap"` weigh the loss, `"none"` does
                neither.
            logit_mean (`float`, *optional*, defaults to 0.0): Mean of the normal law of `"logit_normal"`.
            logit_std (`float`, *optional*, defaults to 1.0): Standard deviation of the normal law of `"logit_normal"`.
            mode_scale (`float`, *optional*, defaults to 1.29): The scale of `"mode"`, in [−1, 2 / (π − 2)].

        Returns:
            [`NoiseLevels`]: The levels.

        Raises:
            DiffTuneError: The scheduler is of no supported class, or is for flow matching and was already set to
                sampling steps, or a weighting scheme was asked of a diffusion scheduler.
        """
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            return cls._of_flow_matching(scheduler, weighting_scheme, logit_mean, logit_std, mode_scale)
        if not isinstance(scheduler, DIFFUSION_SCHEDULERS):
            raise DiffTuneError(
                f"The noise scheduler is a {type(scheduler).__name__}; training needs one of"
                f" {', '.join(c.__name__ for c in DIFFUSION_SCHEDULERS)} or FlowMatchEulerDiscreteScheduler."
            )
        if weighting_scheme != "none":
            raise DiffTuneError(
                f"weighting_scheme='{weighting_scheme}' is for flow-matching models, but the noise scheduler is a"
                f" {type(scheduler).__name__}; leave it at 'none'."
            )
        alphas_cumprod = scheduler.alphas_cumprod.double().cpu()  # add_noise leaves it on the GPU
        count = len(alphas_cumprod)
        steps = torch.arange(count, dtype=torch.float64)
        return cls(
            timesteps=torch.arange(count),
            signal=alphas_cumprod.sqrt(),
            noise=(1 - alphas_cumprod).sqrt(),
            height=(steps + 1) / count,
            depth=(count - steps) / count,
            base=torch.full((count,), 1 / count, dtype=torch.float64),
            loss_weight=torch.ones(count, dtype=torch.float64),
        )

    @classmethod
    def _of_flow_matching(
        cls,
        scheduler: FlowMatchEulerDiscreteScheduler,
        weighting_scheme: str,
        logit_mean: float,
        logit_std: float,
        mode_scale: float,
    ) -> "NoiseLevels":
        count = scheduler.config.num_train_timesteps
        if len(scheduler.timesteps) != count:
            raise DiffTuneError(
                f"The noise scheduler holds {len(scheduler.timesteps)} sampling steps instead of its {count} training"
                " levels; pass one on which set_timesteps was not called."
            )
        sigmas = scheduler.sigmas[:count].double().cpu()
        return cls(
            timesteps=scheduler.timesteps.cpu(),
            signal=1 - sigmas,
            noise=sigmas,
            height=sigmas.clamp(max=1),  # float32 may leave it a rounding error above
            depth=1 - sigmas.clamp(max=1),
            base=entry_probabilities(count, weighting_scheme, logit_mean, logit_std, mode_scale),
            loss_weight=flow_loss_weight(sigmas, weighting_scheme),
        )

    def __len__(self) -> int:
        return len(self.timesteps)

    def reconsolidation_coefficient(self, power: float = 1.0) -> torch.Tensor:
        """ψ at every level: ((t + 1) / T)^p for diffusion, σ^p for flow matching; power 0 is plain training."""
        return self.height**power

    def retention_coefficient(self, power: float = 1.0) -> torch.Tensor:
        """ξ at every level: ((T − t) / T)^q for diffusion, (1 − σ)^q for flow matching; power 0 is uniform."""
        return self.depth**power

    def law(self, coefficient: torch.Tensor) -> torch.Tensor:
        """The probability of each level when it is drawn in proportion to base × coefficient; sums to 1."""
        mass = self.base * coefficient
        return mass / mass.sum()

    def weight(self, coefficient: torch.Tensor) -> torch.Tensor:
        """The loss weight of each level that, under the base law, has the same expectation as drawing from `law`."""
        return coefficient / (self.base * coefficient).sum()


def draw_levels(law: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The indices (B,) of levels, drawn from their law (T,) with uniform numbers (B,) by inverting the distribution function."""
    # Apple's GPUs have no float64; there the last digits of a probability do not matter.
    dtype = torch.float32 if uniform.device.type == "mps" else torch.float64
    distribution = law.cumsum(0).to(uniform.device, dtype)
    return torch.searchsorted(distribution, uniform.to(dtype), right=True).clamp_(max=len(law) - 1)


def entry_probabilities(
    count: int, weighting_scheme: str, logit_mean: float = 0.0, logit_std: float = 1.0, mode_scale: float = 1.29
) -> torch.Tensor:
    """The exact probability with which diffusers' flow-matching scripts draw each entry of the scheduler's table.

    They draw u from a density on [0, 1] (Esser et al., ICML 2024, section 3.1) and take entry ⌊u · count⌋, so an
    entry's probability is the increment of the distribution function of u over it. Arguments are as in [`NoiseLevels.of`].

    Raises:
        DiffTuneError: The scheme is unknown, or a parameter of it is out of range.
    """
    edges = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    if weighting_scheme in ("none", "sigma_sqrt", "cosmap"):
        distribution = edges
    elif weighting_scheme == "logit_normal":
        if logit_std <= 0:
            raise DiffTuneError(f"logit_std is {logit_std}; it must be above 0.")
        distribution = torch.special.ndtr((torch.logit(edges) - logit_mean) / logit_std)
    elif weighting_scheme == "mode":
        if not -1 <= mode_scale <= 2 / (math.pi - 2):
            raise DiffTuneError(
                f"mode_scale is {mode_scale}; it must lie in [-1, {2 / (math.pi - 2):.3f}], where the density exists."
            )
        # u falls from 1 to 0 as the uniform v rises from 0 to 1, so P(u <= x) = 1 - v(x); v(x) by bisection.
        low, high = torch.zeros_like(edges), torch.ones_like(edges)
        for _ in range(60):
            v = (low + high) / 2
            above = 1 - v - mode_scale * (torch.cos(math.pi * v / 2) ** 2 - 1 + v) > edges
            low, high = torch.where(above, v, low), torch.where(above, high, v)
        distribution = 1 - (low + high) / 2
        distribution[0], distribution[-1] = 0, 1
    else:
        raise DiffTuneError(
            f"weighting_scheme is '{weighting_scheme}'; it must be none, logit_normal, mode, sigma_sqrt or cosmap."
        )
    return distribution.diff()


def flow_loss_weight(sigmas: torch.Tensor, weighting_scheme: str) -> torch.Tensor:
    """The loss weight of a flow-matching level: σ⁻² for `"sigma_sqrt"`, 2/(π(1 − 2σ + 2σ²)) for `"cosmap"`, else 1."""
    if weighting_scheme == "sigma_sqrt":
        return sigmas**-2.0
    if weighting_scheme == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2))
    return torch.ones_like(sigmas)
