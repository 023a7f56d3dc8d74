# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The swap curve: how near to real images the samples are when the pretrained denoiser makes a part of the steps."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ..io.atomic import write_bytes_atomic
from .finetuned import Finetuned
from .kid_difference import kid_difference
from .metrics import distances, extract_features
from .real_images import RealImages
from .samples import sample_images
from .swap import ENDS, swapped, swapped_steps


SHOWN = 8  # samples of each point that are kept as pictures


@dataclass
class SwapSampler:
    """Samples the fine-tuned model, which is loaded, with steps swapped, and keeps the features of what it sampled, so that a
    command that was killed goes on."""

    finetuned: Finetuned
    extractor: torch.nn.Module
    kept: Path  # a folder for features; whatever decides them must be in its name
    device: torch.device  # where features are computed
    precision: torch.dtype  # what is sampled in, under autocast
    sampling: dict[str, Any]  # the arguments of [`sample_images`]

    @property
    def steps(self) -> int:
        return self.sampling["steps"]

    def point(self, end: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of all samples with so many steps at one end swapped, float64 of shape `(N, D)`, and the first samples
        themselves, uint8 of shape `(n, 3, H, W)`."""
        whole = {0: "finetuned", self.steps: "pretrained"}.get(count)  # the same from either end
        file = self.kept / f"{whole or f'{end}-{count}'}.safetensors"
        try:
            found = load_file(file)
        except (OSError, SafetensorError):
            autocast = torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)
            title = f"{count} of {self.steps} steps swapped, {end} end"
            pipeline = self.finetuned.pipeline
            with swapped(pipeline, self.finetuned.stand_in(), 100 * count / self.steps, end), autocast:
                images = sample_images(pipeline, **self.sampling, title=title)
            features = extract_features(self.extractor, images, self.sampling["batch_size"], self.device)
            found = {"features": features, "images": images[:SHOWN].contiguous()}
            self.kept.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(file, save(found))
        return found["features"], found["images"]


def swap_curve(
    sampler: SwapSampler, percents: Iterable[float], target: RealImages, source: RealImages | None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Measures the samples for every part of the process that is swapped, in per cent, from 0 to 100.

    Returns:
        `tuple[dict, dict]`: For a JSON file, `steps`, `target_floor`, `source_floor`, and `points`: each with its `end`,
        `percent`, `swapped_steps`, the [`distances`] `target` and `source` (to held-out target images, and to source images),
        `kid_difference` and `kid_difference_standard_error` (to the target, against the fine-tuned model); see
        [`kid_difference`]. And the first samples of every point of the data end, by a label.
    """
    unchanged, _ = sampler.point("data", 0)
    points, pictures = [], {}
    for end in ENDS:
        for percent in percents:
            count = swapped_steps(percent, sampler.steps)
            features, images = sampler.point(end, count)
            difference, error = kid_difference(target.features, features, unchanged)
            points.append(
                {
                    "end": end,
                    "percent": percent,
                    "swapped_steps": count,
                    "target": distances(target.features, features, target.seed),
                    "source": None if source is None else distances(source.features, features, source.seed),
                    "kid_difference": difference,
                    "kid_difference_standard_error": error,
                }
            )
            if end == "data":
                pictures[f"last {percent:g} % pretrained"] = images
    curve = {
        "steps": sampler.steps,
        "target_floor": target.floor,
        "source_floor": None if source is None else source.floor,
        "points": points,
    }
    return curve, pictures
