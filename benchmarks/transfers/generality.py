# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a fine-tuned model learned the target set or its training drawings, and what it forgot: what FID does not tell.

A model that copies its training drawings has a good FID, since those are as near to held-out drawings as real ones are.
"""

import torch
import torch.nn.functional as F

from diffusers_difftune.backbones import Backbone
from diffusers_difftune.evaluation.forgetting import denoising_loss_by_level
from diffusers_difftune.objective import DiffTuningObjective

from .measure import read_drawings
from .settings import Places
from .splits import SOURCE


ROWS, LEVELS = 128, 10  # drawings of each kind, and noise levels for each
LEAST_LIKELY = 0.01  # a sample counts as a copy if it stands out as only this part of real drawings does


def denoising_losses(
    backbone: Backbone, denoiser: torch.nn.Module, target: str, places: Places, knows_classes: bool = True
) -> dict[str, float]:
    """The mean denoising loss over noise levels, under the same noise for every model.

    Args:
        backbone ([`Backbone`]): The source model's family.
        denoiser (`torch.nn.Module`): The denoiser.
        target (`str`): The target set.
        places ([`Places`]): Where the drawings are.
        knows_classes (`bool`, *optional*, defaults to `True`): Whether it was tuned on the target's classes; if not, all
            drawings are shown to it under the null class.

    Returns:
        `dict[str, float]`: `loss_train` and `loss_held_out` on drawings of the target set; `loss_source` on held-out source
            drawings under the null class, as the classes are no longer the source's.
    """
    backbone.load_encoders(torch.device("cpu"), torch.float32)
    objective = DiffTuningObjective(backbone.noise_scheduler)
    found = {}
    for name, file in {
        "train": f"{target}_train",
        "held_out": f"{target}_held_out",
        "source": f"{SOURCE}_held_out",
    }.items():
        images, classes = read_drawings(places.data / f"{file}.parquet", ROWS)
        latents = torch.cat([backbone.encode_images(part.float() / 127.5 - 1)[0] for part in images.split(64)])
        shown = classes if knows_classes and name != "source" else [""] * len(classes)
        losses = denoising_loss_by_level(
            denoiser, backbone, objective, backbone.to_denoiser(latents), backbone.encode_prompts(shown), LEVELS
        )
        found[f"loss_{name}"] = float(losses.mean.mean())
    return found


def copied(images: torch.Tensor, target: str, places: Places) -> dict[str, float]:
    """How many samples are copies of a training drawing.

    A copy is much nearer to one training drawing than to the next nearest: the ratio of the two distances, between
    drawings at half the resolution, is below that of 99 % of the held-out drawings.

    Args:
        images (`torch.Tensor` of shape `(N, 3, 32, 32)`): The samples, uint8.
        target (`str`): The target set.
        places ([`Places`]): Where the drawings are.

    Returns:
        `dict[str, float]`: `copied`, the share; 0.01 is what real drawings score.
    """
    train, held_out = (read_drawings(places.data / f"{target}_{part}.parquet")[0] for part in ("train", "held_out"))
    limit = nearness(held_out, train).quantile(LEAST_LIKELY)
    return {"copied": float((nearness(images, train) < limit).double().mean())}


def nearness(images: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    """How far each image is from the nearest training drawing, in parts of how far it is from the next one."""
    flat = [F.avg_pool2d(part.double(), 2).flatten(1) for part in (images, train)]
    nearest = torch.cdist(*flat).topk(2, largest=False).values
    return nearest[:, 0] / nearest[:, 1].clamp(min=1e-9)
