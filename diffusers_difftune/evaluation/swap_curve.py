# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The swap curve: how near to real images the samples are when the pretrained denoiser makes a part of the steps."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ..io.atomic import write_bytes_atomic
from .finetuned import Finetuned
from .kid_difference import kid_difference
from .metrics import extract_features
from .real_images import RealImages
from .samples import sample_images
from .swap import ENDS, swapped, swapped_steps


SHOWN = 8  # samples of each point that are kept as pictures


class SwapSampler:
    """Samples the fine-tuned model with steps swapped, and keeps the features of what it sampled.

    Args:
        finetuned ([`Finetuned`]): The fine-tuned model, loaded.
        prompts (`list[str]`): N prompts; sample i starts from noise i of the seed, whatever is swapped.
        extractor (`torch.nn.Module`): What [`make_features`] returns.
        kept (`Path`): A folder for features, so that a command that was killed goes on. Whatever decides them must be in
            its name.
        controls (`torch.Tensor` of shape `(N, 3, H, W)`, *optional*): The control images of a ControlNet, uint8.
        steps (`int`, *optional*, defaults to 20): Sampling steps.
        batch_size (`int`, *optional*, defaults to 16): Images at once.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where features are computed.
        precision (`torch.dtype`, *optional*, defaults to `torch.float32`): Sample under autocast in this type.
        sampling: More for [`sample_images`]: guidance, seed and size.
    """

    def __init__(
        self,
        finetuned: Finetuned,
        prompts: list[str],
        extractor: torch.nn.Module,
        kept: Path,
        controls: torch.Tensor | None = None,
        *,
        steps: int = 20,
        batch_size: int = 16,
        device: str | torch.device = "cpu",
        precision: torch.dtype = torch.float32,
        **sampling: Any,
    ) -> None:
        self.finetuned, self.prompts, self.controls = finetuned, prompts, controls
        self.extractor, self.kept = extractor, kept
        self.steps, self.batch_size, self.device, self.precision = steps, batch_size, torch.device(device), precision
        self.sampling = sampling

    def point(self, end: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of all samples with so many steps at one end swapped, and the first samples themselves.

        Args:
            end (`str`): `"data"` or `"noise"`.
            count (`int`): Steps that are the pretrained model's.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Features of shape `(N, D)`, float64; images of shape `(n, 3, H, W)`, uint8.
        """
        whole = {0: "finetuned", self.steps: "pretrained"}.get(count)  # the same from either end
        file = self.kept / f"{whole or f'{end}-{count}'}.safetensors"
        try:
            found = load_file(file)
        except (OSError, SafetensorError):
            with swapped(self.finetuned.pipeline, self.finetuned.stand_in(), 100 * count / self.steps, end):
                images = self.sample(f"{count} of {self.steps} steps swapped, {end} end")
            features = extract_features(self.extractor, images, self.batch_size, self.device)
            found = {"features": features, "images": images[:SHOWN].contiguous()}
            self.kept.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(file, save(found))
        return found["features"], found["images"]

    def sample(self, title: str) -> torch.Tensor:
        """An image for each prompt."""
        options = self.sampling | {"steps": self.steps, "batch_size": self.batch_size, "title": title}
        with self.autocast():
            if self.controls is None:
                return sample_images(self.finetuned.pipeline, self.prompts, **options)
            parts = []
            for rows in torch.arange(len(self.prompts)).split(self.batch_size):
                prompts = [self.prompts[row] for row in rows]
                parts.append(
                    sample_images(
                        self.finetuned.pipeline,
                        prompts,
                        first=int(rows[0]),
                        image=self.controls[rows].float() / 255,
                        **options,
                    )
                )
            return torch.cat(parts)

    def autocast(self) -> AbstractContextManager:
        """Half precision, if it was asked for."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)


def swap_curve(
    sampler: SwapSampler,
    percents: Iterable[float],
    target: RealImages,
    source: RealImages | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Measures the samples for every part of the process that is swapped.

    Args:
        sampler ([`SwapSampler`]): What samples.
        percents (`Iterable[float]`): The x of the curve, in [0, 100]; 0 and 100 are measured anyway.
        target ([`RealImages`]): Held-out target images.
        source ([`RealImages`], *optional*): Source images.

    Returns:
        `tuple[dict, dict]`: For a JSON file, `steps`, `target_floor`, `source_floor`, and `points`: each with its `end`,
        `percent`, `swapped_steps`, the figures `target` and `source` (see [`~diffusers_difftune.evaluation.real_images.distances`]),
        `kid_difference` and `kid_difference_standard_error` (to the target, against the fine-tuned model); see
        [`kid_difference`]. And the first samples of every point of the data end, by a label.
    """
    wanted = sorted({0.0, 100.0, *map(float, percents)})
    unchanged, _ = sampler.point("data", 0)
    points, pictures = [], {}
    for end in ENDS:
        for percent in wanted:
            count = swapped_steps(percent, sampler.steps)
            features, images = sampler.point(end, count)
            difference, error = kid_difference(target.features, features, unchanged)
            points.append(
                {
                    "end": end,
                    "percent": percent,
                    "swapped_steps": count,
                    "target": figures(target, features),
                    "source": None if source is None else figures(source, features),
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


def figures(real: RealImages, features: torch.Tensor) -> dict[str, Any]:
    """How near samples are to real images; the floor is the same for all, and kept once."""
    return {name: value for name, value in real.compare(features).items() if not name.endswith("_floor")}
