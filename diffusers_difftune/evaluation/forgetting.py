# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How much a fine-tuned denoiser forgot: its denoising loss by noise level, against the pretrained one's."""

from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from ..backbones import Backbone
from ..errors import DiffTuneError
from ..io.random import counter_generator
from ..objective import DiffTuningObjective
from ..objective.parameterization import regression_target


@dataclass(frozen=True)
class LossByLevel:
    """The denoising loss of every row at every noise level.

    Attributes:
        timesteps (`torch.Tensor` of shape `(L,)`): What the denoiser was given, from data to noise.
        heights (`torch.Tensor` of shape `(L,)`): The noise levels in (0, 1], 1 being noise.
        rows (`torch.Tensor` of shape `(L, N)`): Mean squared error of each row's prediction, float64, unweighted.
    """

    timesteps: torch.Tensor
    heights: torch.Tensor
    rows: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """The loss at each level, of shape `(L,)`."""
        return self.rows.mean(1)


def equally_spaced_levels(heights: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the levels nearest to the centres of `count` equal parts of the noise scale, from data to noise."""
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return (heights[:, None] - centres).abs().argmin(0)


@torch.no_grad()
def denoising_loss_by_level(
    denoiser: torch.nn.Module,
    backbone: Backbone,
    objective: DiffTuningObjective,
    latents: torch.Tensor,
    condition: dict[str, torch.Tensor],
    num_levels: int = 20,
    batch_size: int = 64,
    seed: int = 0,
) -> LossByLevel:
    """The denoising loss at equally spaced noise levels, under noise that depends on (seed, row, level) alone.

    Because the noise is fixed, the losses of two denoisers differ by what the denoisers do and by nothing else.

    Args:
        denoiser (`torch.nn.Module`): The denoiser.
        backbone ([`Backbone`]): Its family.
        objective ([`DiffTuningObjective`]): Of the same prediction type; only its noise levels and type are used, no
            coefficients or weights.
        latents (`torch.Tensor` of shape `(N, C, h, w)`): Clean latents, scaled as the denoiser expects them.
        condition (`dict[str, torch.Tensor]`): What the denoiser is conditioned on, N entries each.
        num_levels (`int`, *optional*, defaults to 20): Noise levels.
        batch_size (`int`, *optional*, defaults to 64): Rows at once.
        seed (`int`, *optional*, defaults to 0): Seed of the noise.

    Returns:
        [`LossByLevel`]: The losses.

    Raises:
        DiffTuneError: There are no rows, or not as many prompts as rows.
    """
    for name, values in condition.items():
        if len(values) != len(latents) or not len(latents):
            raise DiffTuneError(f"Each row needs its '{name}', but there are {len(values)} for {len(latents)} rows.")
    levels = objective.levels
    chosen = equally_spaced_levels(levels.height, num_levels)
    device = next(denoiser.parameters()).device
    rows = torch.empty(num_levels, len(latents), dtype=torch.float64)
    training = denoiser.training
    denoiser.eval()
    for place, index in enumerate(tqdm(chosen.tolist(), "loss by noise level", leave=False)):
        for batch in torch.arange(len(latents)).split(batch_size):
            clean = latents[batch].to(device, torch.float32)
            given = {name: values[batch].to(device) for name, values in condition.items()}
            noise = fixed_noise(seed, place, batch, clean)
            rows[place, batch] = row_losses(denoiser, backbone, objective, index, clean, noise, given).cpu()
    denoiser.train(training)
    return LossByLevel(levels.timesteps[chosen], levels.height[chosen], rows)


def row_losses(
    denoiser: torch.nn.Module,
    backbone: Backbone,
    objective: DiffTuningObjective,
    level: int,
    clean: torch.Tensor,
    noise: torch.Tensor,
    condition: dict[str, torch.Tensor],
) -> torch.Tensor:
    """The denoising loss ℓ of each row at one noise level (an index): the mean squared error of the prediction, unweighted,
    float64."""
    levels = objective.levels
    signal, sigma = (factor[level].float().to(clean.device) for factor in (levels.signal, levels.noise))
    timesteps = levels.timesteps[level].to(clean.device).expand(len(clean))
    prediction = backbone.predict(denoiser, signal * clean + sigma * noise, timesteps, condition)
    prediction = prediction[:, : clean.shape[1]]  # a learned variance, where there is one, comes after it
    target = regression_target(objective.prediction_type, clean, noise, signal, sigma)
    return (prediction.float() - target).double().square().flatten(1).mean(1)


def fixed_noise(seed: int, level: int, rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The noise of these rows at this level, of the shape, type and device of `like`."""
    draws = [
        counter_generator(seed, "forgetting", level, row).standard_normal(like.shape[1:], dtype="float32")
        for row in rows.tolist()
    ]
    return torch.stack([torch.from_numpy(draw) for draw in draws]).to(like)


def relative_increase(finetuned: LossByLevel, pretrained: LossByLevel) -> torch.Tensor:
    """How much the loss rose at each level, as a fraction of the pretrained loss, of shape `(L,)`."""
    return finetuned.mean / pretrained.mean - 1


def forgetting(finetuned: LossByLevel, pretrained: LossByLevel) -> tuple[float, float]:
    """The mean over the noise levels of the relative increase of the denoising loss, and its standard error.

    On source data that was never trained on, this is what fine-tuning took from the pretrained model: 0.05 is a loss
    that is 5 % higher on average over the levels.

    Args:
        finetuned ([`LossByLevel`]): Of the fine-tuned denoiser.
        pretrained ([`LossByLevel`]): Of the pretrained one, on the same rows, levels and noise.

    Returns:
        `tuple[float, float]`: The forgetting, and the standard error that comes from the choice of rows.
    """
    per_row = row_influences(finetuned, pretrained).mean(0)
    return relative_increase(finetuned, pretrained).mean().item(), standard_error(per_row)


def forgetting_difference(one: LossByLevel, other: LossByLevel, pretrained: LossByLevel) -> tuple[float, float]:
    """How much more one fine-tuned denoiser forgot than another, and the standard error of this difference.

    Both are measured on the same rows under the same noise, and a row on which one loses much is one on which the other
    does: most of what the choice of rows does to the two figures cancels in their difference. Its error is therefore that
    of the rows' differences, and not what two independent figures would give.

    Args:
        one ([`LossByLevel`]): Of one fine-tuned denoiser.
        other ([`LossByLevel`]): Of the other.
        pretrained ([`LossByLevel`]): Of the pretrained one that both began as; all three on the same rows, levels and
            noise.

    Returns:
        `tuple[float, float]`: [`forgetting`] of `one` minus that of `other`, and its standard error.
    """
    per_row = (row_influences(one, pretrained) - row_influences(other, pretrained)).mean(0)
    increases = relative_increase(one, pretrained) - relative_increase(other, pretrained)
    return increases.mean().item(), standard_error(per_row)


def row_influences(finetuned: LossByLevel, pretrained: LossByLevel) -> torch.Tensor:
    """How much each row moves the relative increase of each level, of shape `(L, N)`: the ratio of means, linearised about
    them, is a mean over rows of these."""
    ratio = finetuned.mean / pretrained.mean
    return (finetuned.rows - ratio[:, None] * pretrained.rows) / pretrained.mean[:, None]


def increase_error(finetuned: LossByLevel, pretrained: LossByLevel) -> torch.Tensor:
    """The standard error of [`relative_increase`] at each level, of shape `(L,)`; both on the same rows under the same
    noise."""
    return row_influences(finetuned, pretrained).std(1) / finetuned.rows.shape[1] ** 0.5


def standard_error(values: torch.Tensor) -> float:
    return (values.std() / len(values) ** 0.5).item()
