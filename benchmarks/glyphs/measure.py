# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Samples of a model, and the figures of them."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiTTransformer2DModel

from diffusers_difftune.backbones import Backbone
from diffusers_difftune.evaluation.forgetting import denoising_loss_by_level
from diffusers_difftune.evaluation.metrics import frechet_distance
from diffusers_difftune.evaluation.samples import sample_images
from diffusers_difftune.objective import DiffTuningObjective

from .classifiers import Judge
from .settings import FIRST_SOURCE_ROW, LOSS_LEVELS, NEAR, SAMPLING_STEPS


LEAST_LIKELY = 0.01  # a sample counts as a copy if it is as near to a training image as only this part of real ones


def sample(backbone: Backbone, denoiser: torch.nn.Module, rows: Sequence[int], seed: int) -> torch.Tensor:
    """Samples of classes, in [−1, 1] and of shape `(N, 1, 24, 24)`; the i-th starts from noise of (seed, i) alone.

    Args:
        backbone ([`Backbone`]): The source model's family.
        denoiser (`torch.nn.Module`): The denoiser.
        rows (`Sequence[int]`): The row of the class tables of each sample.
        seed (`int`): Of the noise.
    """
    pipeline = backbone.pipeline(denoiser.eval(), torch.device("cpu"), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        images = sample_images(
            pipeline, [str(row) for row in rows], seed=seed, steps=SAMPLING_STEPS, guidance_scale=1.0, batch_size=128
        )
    return images[:, :1].float() / 127.5 - 1


def blend(source: torch.nn.Module, finetuned: torch.nn.Module, alpha: float) -> DiTTransformer2DModel:
    """Source + α (fine-tuned − source)."""
    mixed = DiTTransformer2DModel.from_config(source.config)
    own = source.state_dict()
    mixed.load_state_dict(
        {name: torch.lerp(own[name], value, alpha) for name, value in finetuned.state_dict().items()}
    )
    for block in mixed.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    return mixed.eval()


def source_rows(labels: Sequence[int]) -> list[int]:
    """The rows of the class tables of source classes."""
    return [FIRST_SOURCE_ROW + label for label in labels]


def recognition(judges: Sequence[Judge], images: torch.Tensor, labels: torch.Tensor, name: str) -> float:
    """The share of images that are recognised, a mean of the classifiers."""
    return sum(float(judge.recognised(images, labels, name).float().mean()) for judge in judges) / len(judges)


def distances(judges: Sequence[Judge], real: torch.Tensor, images: torch.Tensor) -> list[float]:
    """The Fréchet distance in the features of every classifier."""
    return [frechet_distance(judge.features(real), judge.features(images)) for judge in judges]


def losses(
    backbone: Backbone, denoiser: torch.nn.Module, images: torch.Tensor, rows: Sequence[int | str]
) -> dict[str, float]:
    """The denoising loss of images under classes, an empty one being the null class.

    Returns:
        `dict[str, float]`: `near` the data, at the levels up to 0.2, and `all`, over every level.
    """
    found = denoising_loss_by_level(
        denoiser,
        backbone,
        DiffTuningObjective(backbone.noise_scheduler),
        images,
        backbone.encode_prompts([str(row) for row in rows]),
        LOSS_LEVELS,
        batch_size=128,
    )
    near = found.heights <= NEAR
    return {"near": float(found.mean[near].mean()), "all": float(found.mean.mean())}


def drift(images: torch.Tensor, before: torch.Tensor) -> float:
    """The mean square difference of samples from those of the source model of the same noise."""
    return float((images - before).square().mean())


def copied(images: torch.Tensor, train: torch.Tensor, held_out: torch.Tensor) -> float:
    """The share of samples that are nearer to a training image than 99 % of the held-out images are; 0.01 is what real ones
    score."""
    limit = nearest(held_out, train).quantile(LEAST_LIKELY)
    return float((nearest(images, train) < limit).double().mean())


def nearest(images: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    """How far each image is from the nearest training image."""
    return torch.cdist(images.flatten(1).double(), train.flatten(1).double()).min(1).values


def rounded(value: Any) -> Any:
    """Figures with as many digits as they are worth."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
