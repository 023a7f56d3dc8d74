# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How good the samples of a pipeline are: the same prompts, noise and numbers whatever pipeline is measured."""

from typing import Any, NamedTuple

import torch

from ..errors import DiffTuneError
from .clip_score import ClipScore
from .metrics import extract_features
from .real_images import RealImages
from .samples import sample_images


class Measured(NamedTuple):
    """What was found of one pipeline: the figures of [`RealImages.compare`], with `clip_score` and `clip_score_real` if these
    are measured, the samples, uint8 of shape `(N, 3, H, W)`, and their features of shape `(N, D)`."""

    figures: dict[str, float | int | None]
    images: torch.Tensor
    features: torch.Tensor


class Measurement:
    """Samples pipelines and compares the samples with real images.

    Args:
        extractor (`torch.nn.Module`): What [`make_features`] returns.
        images (`torch.Tensor` of shape `(N, 3, H, W)`): Real images that no pipeline was trained on, uint8; samples are
            made in their size.
        other_images (`torch.Tensor` of shape `(M, 3, H, W)`, *optional*): Other real images of the same kind, for the
            floor. `None` compares one half of `images` with the other.
        clip_score ([`ClipScore`], *optional*): Compares samples with their prompts, too.
        captions (`list[str]`, *optional*): What `images` show, for their CLIP score.
        steps (`int`, *optional*, defaults to 20): Sampling steps.
        guidance_scale (`float`, *optional*, defaults to 3.0): Classifier-free guidance.
        seed (`int`, *optional*, defaults to 0): Seed of the noise, and of the random halves of KID and floor.
        batch_size (`int`, *optional*, defaults to 16): Images at once.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where features are computed; between
            measurements the extractor is on the CPU.

    Raises:
        DiffTuneError: There are too few images.
    """

    def __init__(
        self,
        extractor: torch.nn.Module,
        images: torch.Tensor,
        other_images: torch.Tensor | None = None,
        clip_score: ClipScore | None = None,
        captions: list[str] | None = None,
        steps: int = 20,
        guidance_scale: float = 3.0,
        seed: int = 0,
        batch_size: int = 16,
        device: str | torch.device = "cpu",
    ) -> None:
        self.extractor, self.clip_score = extractor, clip_score
        self.steps, self.guidance_scale, self.seed = steps, guidance_scale, seed
        self.batch_size, self.device = batch_size, device
        self.count, (self.height, self.width) = len(images), images.shape[-2:]
        sets = [images] if other_images is None else [images, other_images]
        self.real = RealImages(*self.features(*sets), seed=seed)
        self.real_clip_score = None
        if clip_score is not None and captions is not None:
            self.real_clip_score = clip_score(images, captions, batch_size)

    def features(self, *sets: torch.Tensor) -> list[torch.Tensor]:
        """Features of sets of images, float64, on the CPU, to which the extractor goes after the last set."""
        found = [extract_features(self.extractor, images, self.batch_size, self.device) for images in sets]
        self.extractor.cpu()
        return found

    def measure(self, pipeline: Any, prompts: list[str], title: str = "samples") -> Measured:
        """Samples a pipeline and measures the samples.

        Args:
            pipeline (`DiffusionPipeline`): See [`sample_images`].
            prompts (`list[str]`): What to sample, as many prompts as there are real images; class ids in decimal for a
                class-conditional pipeline.
            title (`str`, *optional*, defaults to `"samples"`): What the progress bar says.

        Returns:
            [`Measured`]: The figures and the samples.

        Raises:
            DiffTuneError: There are not as many prompts as real images, or the pipeline cannot be sampled.
        """
        if len(prompts) != self.count:
            raise DiffTuneError(
                f"{len(prompts)} samples would be compared with {self.count} real images, not as many."
            )
        images = sample_images(
            pipeline,
            prompts,
            seed=self.seed,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            batch_size=self.batch_size,
            height=self.height,
            width=self.width,
            title=title,
        )
        (features,) = self.features(images)
        figures = self.real.compare(features)
        if self.clip_score is not None:
            figures["clip_score"] = self.clip_score(images, prompts, self.batch_size)
            figures["clip_score_real"] = self.real_clip_score
        return Measured(figures, images, features)
