# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Drawing samples from a pipeline, each a function of the seed and its index."""

import numpy as np
import torch
from diffusers import DiffusionPipeline

from ..backbones import family_of_pipeline
from ..backbones.tokens import without_cut_warnings
from ..errors import DiffTuneError, first_sentence
from ..io.random import counter_generator
from .settings import BankSettings
from .shard import Shard
from .solver import solver_settings


class Sampler:
    """Draws batches of latents from a pipeline, whose progress bar is switched off. A sample must be of `latent_shape`."""

    def __init__(self, pipeline: DiffusionPipeline, settings: BankSettings, latent_shape: tuple[int, ...]) -> None:
        self.pipeline, self.family = pipeline, family_of_pipeline(pipeline)
        scheduler_class, self.scheduler_settings = solver_settings(pipeline.scheduler, settings.solver, settings.steps)
        self.scheduler = scheduler_class.from_config(self.scheduler_settings)
        self.settings = settings
        self.latent_shape = tuple(latent_shape)
        pipeline.set_progress_bar_config(disable=True)

    def sample(self, indices: range, prompts: list[str]) -> Shard:
        """Samples that do not depend on what was sampled before."""
        generators = [torch.Generator().manual_seed(noise_seed(self.settings.seed, index)) for index in indices]
        side, guidance = self.settings.resolution, self.settings.guidance_scale
        own_scheduler, self.pipeline.scheduler = self.pipeline.scheduler, self.scheduler
        try:
            with without_cut_warnings(self.pipeline):
                output = self.pipeline(
                    **self.family.sample_arguments(self.pipeline, prompts, side, side, guidance),
                    num_inference_steps=self.settings.steps,
                    generator=generators,
                    output_type="latent",  # as the pipeline has them, and never decoded
                    return_dict=False,
                )[0]
        except ValueError as error:  # how pipelines refuse arguments, such as a size they cannot make
            raise DiffTuneError(
                f"The pipeline does not sample at a resolution of {side}: {first_sentence(error)}."
            ) from error
        finally:
            self.pipeline.scheduler = own_scheduler
        latents = self.family.sampled_latents(self.pipeline, output, side, side)
        if latents.shape[1:] != self.latent_shape:
            raise DiffTuneError(
                f"The pipeline gives latents of {list(latents.shape[1:])} at a resolution of {side}, and training needs"
                f" {list(self.latent_shape)}."
            )
        latents = latents.float().cpu()
        if not latents.isfinite().all():
            raise DiffTuneError(
                f"The pipeline gives samples that are not finite in {self.pipeline.dtype}; try it in float32, without mixed precision."
            )
        return Shard(list(indices), prompts, np.ascontiguousarray(latents.numpy()))


def noise_seed(seed: int, index: int) -> int:
    """The seed of a sample's noise, a function of the bank's seed and the sample's index."""
    return int(counter_generator(seed, "bank", index).integers(2**63))
