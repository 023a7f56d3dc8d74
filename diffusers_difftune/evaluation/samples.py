# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Images from a pipeline to measure: image i starts from noise i of the seed, whatever is sampled."""

from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..backbones import family_of_pipeline
from ..bank.solver import solver_settings
from ..errors import DiffTuneError, first_sentence
from ..io.random import counter_generator


SOLVER = "dpm++"


def sample_images(
    pipeline: Any,
    prompts: list[str],
    *,
    seed: int = 0,
    steps: int = 20,
    guidance_scale: float = 1.0,
    batch_size: int = 32,
    height: int | None = None,
    width: int | None = None,
    controls: torch.Tensor | None = None,
    title: str = "samples",
) -> torch.Tensor:
    """Samples an image for each prompt by DPM-Solver++ (Lu et al., 2022), as a knowledge bank is sampled.

    The i-th image starts from noise that depends on (seed, i) alone: not on the batch size, and not on the pipeline, so
    that two pipelines differ by what they make of the same noise.

    Args:
        pipeline (`DiffusionPipeline`): What `backbone.pipeline(...)` returns, or a pipeline of diffusers that takes the
            same arguments. Its progress bar is switched off; its scheduler is replaced while it samples.
        prompts (`list[str]`): N prompts; for a class-conditional pipeline class ids in decimal.
        seed (`int`, *optional*, defaults to 0): Seed of the noise.
        steps (`int`, *optional*, defaults to 20): Sampling steps.
        guidance_scale (`float`, *optional*, defaults to 1.0): Classifier-free guidance; 1.0 is none.
        batch_size (`int`, *optional*, defaults to 32): Images at once.
        height (`int`, *optional*): In pixels, a multiple of the VAE's factor. `None` is what the denoiser was trained at.
        width (`int`, *optional*): Likewise.
        controls (`torch.Tensor` of shape `(N, 3, H, W)`, *optional*): Control images of a ControlNet, uint8; one of them is for
            all prompts.
        title (`str`, *optional*, defaults to `"samples"`): What the progress bar says.

    Returns:
        `torch.Tensor` of shape `(N, 3, height, width)`: The images, uint8, on the CPU.

    Raises:
        DiffTuneError: There are no prompts, the pipeline cannot be sampled with these arguments, or it gives images that
            are not finite.
    """
    if not prompts:
        raise DiffTuneError("There is nothing to sample, because there are no prompts.")
    levels = pipeline.scheduler.config.num_train_timesteps
    if not 1 <= steps <= levels:
        raise DiffTuneError(
            f"The model can be sampled in 1 to {levels} steps, its number of noise levels, not in {steps}."
        )
    family = family_of_pipeline(pipeline)
    height, width = (side or family.native_side(pipeline) for side in (height, width))
    shape = family.noise_shape(pipeline, height, width)

    scheduler_class, settings = solver_settings(pipeline.scheduler, SOLVER, steps)
    own_scheduler, pipeline.scheduler = pipeline.scheduler, scheduler_class.from_config(settings)
    pipeline.set_progress_bar_config(disable=True)
    images = []
    try:
        for start in tqdm(range(0, len(prompts), batch_size), title, leave=False):
            batch = prompts[start : start + batch_size]
            noise = [first_noise(seed, start + i, shape) for i in range(len(batch))]
            start_from = torch.from_numpy(np.stack(noise)).to(pipeline.device, pipeline.dtype)
            control = {}
            if controls is not None:
                control["image"] = controls.expand(len(prompts), -1, -1, -1)[start : start + batch_size].float() / 255
            pixels = pipeline(
                **family.sample_arguments(pipeline, batch, height, width, guidance_scale, start_from),
                num_inference_steps=steps,
                output_type="pt",
                **control,
            ).images
            if not pixels.isfinite().all():
                raise DiffTuneError(f"The pipeline gives images that are not finite in {pipeline.dtype}; use float32.")
            images.append((pixels.clamp(0, 1) * 255).round().to("cpu", torch.uint8))
    except ValueError as error:  # how pipelines refuse arguments, such as a size they cannot make
        raise DiffTuneError(f"The pipeline does not sample at {width} × {height}: {first_sentence(error)}.") from error
    finally:
        pipeline.scheduler = own_scheduler
    return torch.cat(images)


def first_noise(seed: int, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """The noise that image `index` starts from, float32."""
    return counter_generator(seed, "evaluation", 0, index).standard_normal(shape, "float32")
