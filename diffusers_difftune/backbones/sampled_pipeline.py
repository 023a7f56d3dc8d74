# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How a pipeline of a family is called for samples. Whoever has a pipeline and no folder asks these of its family."""

from typing import Any

import torch


class SampledPipeline:
    """The part of a [`Backbone`] that needs a pipeline alone. The defaults are those of Stable Diffusion.

    Attributes:
        pipeline_class (`type`): The pipeline of diffusers; its name in `model_index.json` is what the family is found by.
        denoiser_name (`str`): The component that is trained.
        pipeline_arguments (`dict`): What the pipeline is made with beside its components.
    """

    pipeline_class: type
    denoiser_name: str
    pipeline_arguments: dict[str, Any] = {}

    @classmethod
    def sampled_class(cls) -> type:
        """The class that samples: the family's own, or one of ours that derives from it."""
        return cls.pipeline_class

    @classmethod
    def sample_arguments(
        cls,
        pipeline: Any,
        prompts: list[str],
        height: int,
        width: int,
        guidance_scale: float | None = None,
        noise: torch.Tensor | None = None,
    ) -> dict[str, Any]:
        """The arguments with which a pipeline of the family makes images.

        Args:
            pipeline (`DiffusionPipeline`): The pipeline.
            prompts (`list[str]`): A prompt for each image; the empty one asks for the pipeline's unconditional branch.
            height, width (`int`): The size in pixels.
            guidance_scale (`float`, *optional*): Classifier-free guidance; 1.0 is none, `None` the pipeline's default.
            noise (`torch.Tensor` of shape `(B, C, h, w)`, *optional*): The noise to start from, canonical.
        """
        arguments: dict[str, Any] = {"prompt": list(prompts), "height": height, "width": width}
        if guidance_scale is not None:
            arguments["guidance_scale"] = guidance_scale
        if noise is not None:
            arguments["latents"] = noise
        return arguments

    @classmethod
    def sampled_latents(cls, pipeline: Any, output: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The canonical latents of what a pipeline returns with `output_type="latent"`."""
        return output

    @classmethod
    def noise_shape(cls, pipeline: Any, height: int, width: int) -> tuple[int, ...]:
        """The shape (C, h, w) of the canonical latents of an image of this size."""
        channels, factor = getattr(pipeline, cls.denoiser_name).config.in_channels, vae_factor(pipeline)
        return (channels, height // factor, width // factor)

    @classmethod
    def native_side(cls, pipeline: Any) -> int:
        """The side, in pixels, of the images that a pipeline's denoiser was made for."""
        return getattr(pipeline, cls.denoiser_name).config.sample_size * vae_factor(pipeline)

    @classmethod
    def denoiser_timesteps(cls, timesteps: torch.Tensor) -> torch.Tensor:
        """What a pipeline hands its denoiser for the timesteps of its scheduler."""
        return timesteps

    @classmethod
    @torch.no_grad()
    def decode(cls, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """The images that canonical latents of shape (B, C, h, w) stand for: (B, 3, H, W), float32, in [0, 1], on the device of
        the pipeline's VAE."""
        latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
        return (vae.decode(latents).sample.float() / 2 + 0.5).clamp(0, 1)


def vae_factor(pipeline: Any) -> int:
    """How many times smaller than images a pipeline's VAE makes latents."""
    return 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
