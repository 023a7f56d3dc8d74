# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning did along the chain of noise levels: where the loss rose and fell, and how far the weights went."""

from dataclasses import dataclass
from typing import Any

import torch

from ..backbones import Backbone
from ..errors import DiffTuneError
from ..objective import DiffTuningObjective
from .distance import measure_distance
from .finetuned import Finetuned
from .forgetting import (
    LossByLevel,
    denoising_loss_by_level,
    forgetting,
    increase_error,
    relative_increase,
)


LEAST_ROWS = 2  # of one row there is no standard error
FISHER_DRAWS = 4
THIRDS = {"near_data": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "near_noise": (2 / 3, 1.0)}


@dataclass(frozen=True)
class Rows:
    """Images as the models see them, with a prompt for each."""

    latents: torch.Tensor  # of shape (N, C, h, w), scaled as the denoiser expects them
    prompts: list[str]
    side: int  # of the images in pixels
    controls: torch.Tensor | None = None  # control images of shape (N, 3, H, W), uint8

    def __len__(self) -> int:
        return len(self.prompts)


def encode_rows(
    backbone: Backbone,
    images: torch.Tensor,
    prompts: list[str],
    controls: torch.Tensor | None = None,
    batch_size: int = 16,
) -> Rows:
    """Rows of images, uint8, by the means of the VAE's posteriors, on the CPU; the encoders must be in memory."""
    means = [backbone.encode_images(batch.float() / 127.5 - 1)[0].cpu() for batch in images.split(batch_size)]
    return Rows(backbone.to_denoiser(torch.cat(means)), prompts, images.shape[-1], controls)


def conditions(
    backbone: Backbone, finetuned: Finetuned, rows: Rows, is_source: bool
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the fine-tuned and the pretrained model are conditioned on.

    Both get the rows' prompts, where they mean the same to both. Where they do not, because the two have different
    classes, source rows are shown to both under the null class, which both have, and target rows to the pretrained
    model. A ControlNet gets the control images of target rows, and a blank one with source rows, which are to be what
    they were without it.
    """
    nothing = [""] * len(rows)
    own = nothing if is_source and not finetuned.knows_classes else rows.prompts
    condition = backbone.sample_condition(own, rows.side)
    pretrained = condition if finetuned.knows_classes else backbone.sample_condition(nothing, rows.side)
    if finetuned.kind == "controlnet":
        control = torch.zeros(1, 3, rows.side, rows.side).expand(len(rows), -1, -1, -1)
        if rows.controls is not None and not is_source:
            control = rows.controls.float() / 255
        condition = condition | {"control": control}
    return condition, pretrained


def measure_losses(
    backbone: Backbone,
    finetuned: Finetuned,
    objective: DiffTuningObjective,
    rows: Rows,
    is_source: bool,
    num_levels: int = 20,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """The denoising losses of both models by noise level, on the same rows under the same noise; see [`loss_report`].

    The encoders must be in memory. Of fewer than two rows there is no standard error, and a [`DiffTuneError`] says so.
    """
    if len(rows) < LEAST_ROWS:
        raise DiffTuneError(f"Of {len(rows)} rows there is no standard error; at least {LEAST_ROWS} are needed.")
    own, pretrained = conditions(backbone, finetuned, rows, is_source)
    options = {"num_levels": num_levels, "batch_size": batch_size, "seed": seed}
    return loss_report(
        denoising_loss_by_level(finetuned.model, finetuned, objective, rows.latents, own, **options),  # type: ignore[arg-type]
        denoising_loss_by_level(finetuned.pretrained, backbone, objective, rows.latents, pretrained, **options),
    )


def loss_report(finetuned: LossByLevel, pretrained: LossByLevel) -> dict[str, Any]:
    """The losses as they go into a JSON file.

    Returns:
        `dict[str, Any]`: By level, from data to noise: `noise_level` (t / T), `timestep`, `finetuned` and `pretrained` loss,
        `change` (relative) and its `change_standard_error` from the paired rows. Means over the levels:
        `mean_change`, `mean_change_standard_error`, and `thirds` of the noise scale, with the same two (`None` without a
        level). And `num_rows`.
    """
    return {
        "num_rows": finetuned.rows.shape[1],
        **mean_change(finetuned, pretrained),
        "thirds": {name: part(finetuned, pretrained, *third) for name, third in THIRDS.items()},
        "noise_level": finetuned.heights.tolist(),
        "timestep": finetuned.timesteps.tolist(),
        "finetuned": finetuned.mean.tolist(),
        "pretrained": pretrained.mean.tolist(),
        "change": relative_increase(finetuned, pretrained).tolist(),
        "change_standard_error": increase_error(finetuned, pretrained).tolist(),
    }


def mean_change(finetuned: LossByLevel, pretrained: LossByLevel) -> dict[str, float]:
    mean, error = forgetting(finetuned, pretrained)
    return {"mean_change": mean, "mean_change_standard_error": error}


def part(finetuned: LossByLevel, pretrained: LossByLevel, low: float, high: float) -> dict[str, float] | None:
    """The mean change over the levels in a part of the noise scale."""
    inside = (finetuned.heights > low) & (finetuned.heights <= high)
    if not inside.any():
        return None
    return mean_change(
        *(LossByLevel(x.timesteps[inside], x.heights[inside], x.rows[inside]) for x in (finetuned, pretrained))
    )


def distance_report(
    backbone: Backbone,
    finetuned: Finetuned,
    objective: DiffTuningObjective,
    source: Rows,
    seed: int = 0,
) -> dict[str, Any]:
    """How far the weights went, by Fisher information on source rows; see [`measure_distance`]. Of an adapter this is the
    last thing to measure, because it is merged.

    Returns:
        `dict[str, Any]`: `total`, `blocks` (by name), `num_trained`, of an adapter its parameters and of a whole model those
        that changed, `per_trained_parameter`, to compare methods that train more or fewer (`rms`, the root mean square
        l2 / √n, and `ewc`, the mean ewc / n), and `num_rows` and `draws` of the Fisher information.
    """
    _, condition = conditions(backbone, finetuned, source, is_source=True)
    total, blocks = measure_distance(
        finetuned.pretrained,
        finetuned.weights(),
        backbone,
        objective,
        source.latents,
        condition,
        draws=FISHER_DRAWS,
        seed=seed,
    )
    trained = total["num_changed"] if finetuned.num_trained is None else finetuned.num_trained
    return {
        "total": total,
        "num_trained": trained,
        "per_trained_parameter": {"rms": total["l2"] / max(trained, 1) ** 0.5, "ewc": total["ewc"] / max(trained, 1)},
        "blocks": blocks,
        "num_rows": len(source),
        "draws": FISHER_DRAWS,
    }
