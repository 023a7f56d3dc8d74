# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Diff-Tuning itself: a batch of clean latents in, two losses out. No models, no files."""

import math
from dataclasses import dataclass

import torch

from ..errors import DiffTuneError
from .noise_levels import NoiseLevels, NoiseScheduler, draw_levels
from .parameterization import regression_target, resolve_prediction_type, snr_weight
from .variance import VariationalTerm


MOST_UNSKEWED = 10.0  # the largest importance weight of a row's variational term

LEAST_SHARE = 1e-6  # of source rows, but for none; with less, dividing by the share is dividing by zero


@dataclass
class NoiseDraws:
    """The random numbers of a batch, so that a caller can make each row's a function of its place in the run.

    Attributes:
        uniform (`torch.Tensor` of shape `(B,)`): In [0, 1); picks the noise level.
        noise (`torch.Tensor` of shape `(B, ...)`): Standard normal, of the shape of the latents.
        offset (`torch.Tensor` of shape `(B, C, 1, 1)`, *optional*): Standard normal, for the noise offset.
        perturbation (`torch.Tensor` of shape `(B, ...)`, *optional*): Standard normal, for the input perturbation.
    """

    uniform: torch.Tensor
    noise: torch.Tensor
    offset: torch.Tensor | None = None
    perturbation: torch.Tensor | None = None


@dataclass
class NoisyBatch:
    """What the network sees and what it should answer.

    Attributes:
        sample (`torch.Tensor` of shape `(B, ...)`): x_t.
        timesteps (`torch.Tensor` of shape `(B,)`): The timestep to hand to the network.
        target (`torch.Tensor` of shape `(B, ...)`): The regression target.
        noise (`torch.Tensor` of shape `(B, ...)`): The noise the target was made of.
        weight (`torch.Tensor` of shape `(B,)`): The loss weight of each row.
        variance_weight (`torch.Tensor` of shape `(B,)`): The weight of each row's variational term, where the model
            learns its variance.
        is_source (`torch.Tensor` of shape `(B,)`, bool): Which rows are from the knowledge bank.
        height (`torch.Tensor` of shape `(B,)`): The noise level in (0, 1], 1 being noise.
    """

    sample: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor
    noise: torch.Tensor
    weight: torch.Tensor
    variance_weight: torch.Tensor
    is_source: torch.Tensor
    height: torch.Tensor


@dataclass
class DiffTuningLoss:
    """The losses of a batch.

    Attributes:
        total (`torch.Tensor`, scalar): reconsolidation + retention_weight · retention; call `backward` on this.
        reconsolidation (`torch.Tensor`, scalar): Over the target rows.
        retention (`torch.Tensor`, scalar): Over the source rows.
        rows (`torch.Tensor` of shape `(B,)`): The weighted loss of each row, detached.
    """

    total: torch.Tensor
    reconsolidation: torch.Tensor
    retention: torch.Tensor
    rows: torch.Tensor


class DiffTuningObjective:
    """The Diff-Tuning objective (Zhong et al., NeurIPS 2024, arXiv 2406.00773).

    L = Σ_target ℓ / ((1 − s) · B) + w · Σ_source ℓ / (s · B), with the noise levels of target rows drawn in proportion
    to ψ and those of source rows in proportion to ξ. It divides by the *requested* share s, not by the count that fell
    into this batch, so its expectation is the same at every batch size; when s · B is a whole number it is the two
    means.

    The defaults are those of the paper's reference implementation; docs/method.md says where the two differ.

    Args:
        noise_scheduler ([`DDPMScheduler`], [`DDIMScheduler`], [`PNDMScheduler`], [`FlowMatchEulerDiscreteScheduler`]):
            The scheduler the model was pretrained with.
        source_share (`float`, *optional*, defaults to 0.2):
            s, the fraction of source rows in a batch, in [0, 1). 0 leaves retention out.
        retention_weight (`float`, *optional*, defaults to 0.1):
            w, the weight of the retention loss, at least 0.
        reconsolidation_power (`float`, *optional*, defaults to 1.0):
            p in ψ(t) = t^p, at least 0. 0 is plain training.
        retention_power (`float`, *optional*, defaults to 1.0):
            q in ξ(t) = (1 − t)^q, at least 0.
        coefficients (`str`, *optional*, defaults to `"sampled"`):
            `"sampled"` draws noise levels in proportion to ψ and ξ with weight 1, `"weighted"` draws them as in plain
            training and weighs the loss; the expectation is the same.
        prediction_type (`str`, *optional*):
            What the network predicts; `None` takes the scheduler's own.
        snr_gamma (`float`, *optional*):
            γ of the min-SNR weighting, on target and source rows. `None` leaves it out.
        noise_offset (`float`, *optional*, defaults to 0.0):
            Scale of a noise that is constant over each channel, on target rows only.
        input_perturbation (`float`, *optional*, defaults to 0.0):
            Scale of a noise that is added to x_t and not to the target, on target rows only.
        weighting_scheme (`str`, *optional*, defaults to `"none"`), logit_mean, logit_std, mode_scale:
            Flow matching only; see [`NoiseLevels.of`].
        variance_loss (`str`, *optional*):
            For a network that learns its variance, and so answers with twice the channels: the variational term
            ([`VariationalTerm`]) is added to each row's loss. `"both"` takes it on target and source rows, each under
            its own law of noise levels, as the reference does; `"target"` on target rows alone; `"unskewed"` on both,
            with importance weights (at most 10) that undo the laws. `None` is a network without.

    Raises:
        DiffTuneError: A value is out of range or does not go with the scheduler.
    """

    def __init__(
        self,
        noise_scheduler: NoiseScheduler,
        source_share: float = 0.2,
        retention_weight: float = 0.1,
        reconsolidation_power: float = 1.0,
        retention_power: float = 1.0,
        coefficients: str = "sampled",
        prediction_type: str | None = None,
        snr_gamma: float | None = None,
        noise_offset: float = 0.0,
        input_perturbation: float = 0.0,
        weighting_scheme: str = "none",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        mode_scale: float = 1.29,
        variance_loss: str | None = None,
    ) -> None:
        check_range("source_share", source_share, 0 <= source_share < 1, "at least 0 and below 1")
        check_range(
            "source_share", source_share, source_share == 0 or source_share >= LEAST_SHARE, "0 or at least 1e-6"
        )
        check_range("retention_weight", retention_weight, retention_weight >= 0, "at least 0")
        check_range("reconsolidation_power", reconsolidation_power, reconsolidation_power >= 0, "at least 0")
        check_range("retention_power", retention_power, retention_power >= 0, "at least 0")
        if coefficients not in ("sampled", "weighted"):
            raise DiffTuneError(f"--coefficients is '{coefficients}'; it must be sampled or weighted.")

        self.source_share = source_share
        self.retention_weight = retention_weight
        self.noise_offset = noise_offset
        self.input_perturbation = input_perturbation
        self.prediction_type = resolve_prediction_type(noise_scheduler, prediction_type)
        self.levels = NoiseLevels.of(noise_scheduler, weighting_scheme, logit_mean, logit_std, mode_scale)

        psi = self.levels.reconsolidation_coefficient(reconsolidation_power)
        xi = self.levels.retention_coefficient(retention_power)
        for name, power, coefficient in (
            ("reconsolidation_power", reconsolidation_power, psi),
            ("retention_power", retention_power, xi),
        ):
            left = bool((self.levels.base * coefficient).sum() > 0)
            check_range(name, power, left, "smaller; no noise level is left with it")
        if coefficients == "sampled":
            self.laws = (self.levels.law(psi), self.levels.law(xi))
            weights = torch.ones(2, len(self.levels), dtype=torch.float64)
        else:
            self.laws = (self.levels.base, self.levels.base)
            weights = torch.stack([self.levels.weight(psi), self.levels.weight(xi)])
        if variance_loss not in (None, "both", "target", "unskewed"):
            raise DiffTuneError(f"--variance_loss is '{variance_loss}'; it must be both, target or unskewed.")
        self.variational_term: VariationalTerm | None = None
        if variance_loss is not None:
            self.variational_term = VariationalTerm(noise_scheduler, self.prediction_type)
        variance_weights = weights.clone()
        if variance_loss == "target":
            variance_weights[1] = 0
        if variance_loss == "unskewed":
            variance_weights = (self.levels.base / torch.stack(self.laws)).clamp(max=MOST_UNSKEWED)
        self.variance_weights = variance_weights  # (2, T), like the weights below
        weights = weights * self.levels.loss_weight
        if snr_gamma is not None:
            snr = (self.levels.signal / self.levels.noise) ** 2
            weights = weights * snr_weight(self.prediction_type, snr, snr_gamma)
        self.weights = weights  # (2, T), float64: target rows, source rows

    def add_noise(
        self,
        latents: torch.Tensor,
        is_source: torch.Tensor,
        draws: NoiseDraws | None = None,
        generator: torch.Generator | None = None,
    ) -> NoisyBatch:
        """Draws noise levels and noise, and makes x_t with its regression target.

        Args:
            latents (`torch.Tensor` of shape `(B, ...)`): Clean latents, scaled as the denoiser expects them.
            is_source (`torch.Tensor` of shape `(B,)`, bool): Which rows are from the knowledge bank.
            draws ([`NoiseDraws`], *optional*): The random numbers. `None` draws them with `generator`.
            generator (`torch.Generator`, *optional*): Used without `draws`; `None` is torch's global one.

        Returns:
            [`NoisyBatch`]: x_t, t, the target and the loss weights, on the device of `latents`.

        Raises:
            DiffTuneError: `draws` lack the numbers of the noise offset or of the input perturbation.
        """
        if draws is None:
            draws = self.draw(latents, generator)
        device = latents.device
        is_source = is_source.to(draws.uniform.device)
        psi_law, xi_law = self.laws
        index = torch.where(is_source, draw_levels(xi_law, draws.uniform), draw_levels(psi_law, draws.uniform))

        def moved(values: torch.Tensor) -> torch.Tensor:  # without waiting for the device
            return values.to(device, non_blocking=True)

        def at_level(values: torch.Tensor) -> torch.Tensor:
            return moved(values.to(index.device, torch.float32)[index])

        per_row = (-1, *[1] * (latents.ndim - 1))
        signal, sigma = at_level(self.levels.signal).view(per_row), at_level(self.levels.noise).view(per_row)
        weights = torch.stack([self.weights, self.variance_weights]).to(index.device, torch.float32)
        weight, variance_weight = moved(weights[:, is_source.long(), index])
        is_source = moved(is_source)
        is_target = (~is_source).view(per_row)
        noise = moved(draws.noise).to(latents)
        if self.noise_offset:
            if draws.offset is None:
                raise DiffTuneError("The objective has a noise_offset, but the draws have no offset.")
            noise = noise + self.noise_offset * is_target * moved(draws.offset).to(latents)
        input_noise = noise
        if self.input_perturbation:
            if draws.perturbation is None:
                raise DiffTuneError("The objective has an input_perturbation, but the draws have no perturbation.")
            input_noise = noise + self.input_perturbation * is_target * moved(draws.perturbation).to(latents)
        return NoisyBatch(
            sample=(signal * latents + sigma * input_noise).to(latents.dtype),
            timesteps=moved(self.levels.timesteps.to(index.device)[index]),
            target=regression_target(self.prediction_type, latents, noise, signal, sigma),
            noise=noise,
            weight=weight,
            variance_weight=variance_weight,
            is_source=is_source,
            height=at_level(self.levels.height),
        )

    def draw(self, latents: torch.Tensor, generator: torch.Generator | None = None) -> NoiseDraws:
        """Draws the random numbers of one batch with a generator (on the generator's device)."""
        device = latents.device if generator is None else generator.device

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device=device)

        return NoiseDraws(
            uniform=torch.rand(len(latents), generator=generator, device=device),
            noise=normal(*latents.shape),
            offset=normal(*latents.shape[:2], *[1] * (latents.ndim - 2)) if self.noise_offset else None,
            perturbation=normal(*latents.shape) if self.input_perturbation else None,
        )

    def loss(
        self,
        prediction: torch.Tensor,
        noisy: NoisyBatch,
        pretrained_prediction: torch.Tensor | None = None,
        batch_size: int | None = None,
    ) -> DiffTuningLoss:
        """The two losses of a batch, or of the part of a global batch that one process sees in one micro-step.

        Args:
            prediction (`torch.Tensor` of shape `(B, ...)`): What the network answered to `noisy`; with a
                `variance_loss`, of twice its channels.
            noisy ([`NoisyBatch`]): The batch from [`add_noise`].
            pretrained_prediction (`torch.Tensor` of shape `(B, ...)`, *optional*): What the pretrained network
                answered; if given, source rows are held to it instead of to the noise (the paper's distillation
                variant).
            batch_size (`int`, *optional*): The rows B of the global batch of which these are a part; the sum of the
                parts' losses is then the global batch's loss. `None` is the number of rows given.

        Returns:
            [`DiffTuningLoss`]: The losses, float32.
        """
        is_source, target = noisy.is_source, noisy.target.float()
        channels = target.shape[1]
        expected = channels if self.variational_term is None else 2 * channels
        if prediction.shape[1] != expected:
            raise DiffTuneError(
                f"The network answers with {prediction.shape[1]} channels to {channels} of noise, not {expected}; variance_loss is"
                " for networks that learn their variance, and for no others."
            )
        mean = prediction[:, :channels].float()
        if pretrained_prediction is not None:
            per_row = is_source.view(-1, *[1] * (target.ndim - 1))
            target = torch.where(per_row, pretrained_prediction[:, :channels].detach().float(), target)
        rows = (mean - target).square().flatten(1).mean(1) * noisy.weight
        if self.variational_term is not None:
            values = prediction[:, channels:]
            bits = self.variational_term(values, mean, noisy.noise, noisy.sample, noisy.timesteps)
            rows = rows + bits * noisy.variance_weight
        batch_size = batch_size or len(rows)
        reconsolidation = (rows * ~is_source).sum() / ((1 - self.source_share) * batch_size)
        retention = rows.new_zeros(())
        if self.source_share:
            retention = (rows * is_source).sum() / (self.source_share * batch_size)
        return DiffTuningLoss(
            total=reconsolidation + self.retention_weight * retention,
            reconsolidation=reconsolidation.detach(),
            retention=retention.detach(),
            rows=rows.detach(),
        )


def check_range(name: str, value: float, holds: bool, allowed: str) -> None:
    """Raises unless the value is finite and in its range."""
    if not (holds and math.isfinite(value)):
        raise DiffTuneError(f"--{name} is {value}; it must be {allowed}.")
