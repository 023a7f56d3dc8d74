# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What model families on the latents of a VAE share."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from ..errors import DiffTuneError
from .compatibility import Fit, equal
from .pipeline_files import own_variant, set_scheduler_prediction_type
from .scheduler import DIFFUSION, load_scheduler


class LatentBackbone:
    """The part of a [`Backbone`] that reads a pipeline's configs, and uses its VAE.

    Args:
        folder (`Path`): The local folder of the pipeline, with its `model_index.json`.
        variant (`str`, *optional*): Variant of the weight files.
    """

    denoiser_class: type
    denoiser_name: str
    part_classes: dict[str, tuple[str, ...]]  # what a model_index.json may name, beside the scheduler
    encoder_classes: dict[str, type] = {"vae": AutoencoderKL}
    always_trained: tuple[str, ...] = ()  # patterns of parameters that train along with every adapter
    conditioned_on = "prompts"
    learned_variance = False
    token_limit: int | None = None  # of prompts that are text
    resolution: int | None = None  # of the only images that the model makes; None is any

    def __init__(self, folder: Path, variant: str | None = None) -> None:
        self.folder = Path(folder)
        self.variant = variant
        self.noise_scheduler, self.sampler = load_scheduler(self.folder)
        vae_config = AutoencoderKL.load_config(self.folder, subfolder="vae")
        self.latent_channels: int = vae_config["latent_channels"]
        self.vae_scale_factor: int = 2 ** (len(vae_config["block_out_channels"]) - 1)
        self.scaling_factor: float = vae_config.get("scaling_factor", 0.18215)
        self.tokenizer_key: str | None = None  # set when --tokenizer_name names one that reads otherwise
        self.prediction_type: str | None = None  # set when --prediction_type overrides the scheduler's
        self.encoders: dict[str, Any] = {}

    @property
    def has_encoders(self) -> bool:
        """Whether the VAE and, if there are some, the text encoders are in memory."""
        return bool(self.encoders)

    @property
    def vae(self) -> AutoencoderKL:
        """The VAE, which must be in memory."""
        return self.encoders["vae"]

    def set_prediction_type(self, prediction_type: str) -> None:
        """Trains, validates and saves with this prediction type instead of the pretrained scheduler's.

        Raises:
            DiffTuneError: The pipeline's scheduler, which validates and is saved, does not sample from such models.
        """
        known = DIFFUSION[self.sampler]
        if prediction_type not in known:
            raise DiffTuneError(
                f"--prediction_type is {prediction_type}, and the pipeline's {self.sampler} samples from models of"
                f" {', '.join(known)} only; give one of these, or a pipeline with a DDIMScheduler."
            )
        self.prediction_type = prediction_type
        self.noise_scheduler.register_to_config(prediction_type=prediction_type)

    def save_settings(self, folder: Path) -> None:
        """Writes what was set here, and not in the pretrained pipeline, into a pipeline that was trained from it."""
        if self.prediction_type is not None:
            set_scheduler_prediction_type(folder, self.prediction_type)

    def cut_prompts(self, prompts: list[str]) -> dict[str, int]:
        """The prompts that are cut, each with its number of tokens; none where prompts are not text."""
        return {}

    def size(self, resolution: int) -> dict[str, int]:
        """The arguments with which the pipeline makes square images of this resolution."""
        return {"height": resolution, "width": resolution}

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """The shape (C, h, w) of the latents of a square image."""
        side = resolution // self.vae_scale_factor
        return (self.latent_channels, side, side)

    def load_denoiser(
        self, folder: str | Path | None = None, dtype: torch.dtype = torch.float32, **kwargs
    ) -> torch.nn.Module:
        """Loads the denoiser, from another folder or model id if one is given."""
        folder = folder or self.folder
        local = Path(folder, self.denoiser_name)
        variant = own_variant(local, self.variant) if local.is_dir() else self.variant
        return self.denoiser_class.from_pretrained(
            folder, subfolder=self.denoiser_name, variant=variant, dtype=dtype, use_safetensors=True, **kwargs
        )

    def empty(self, component: str) -> torch.nn.Module:
        """A model of the pipeline without its weights, to look at its modules."""
        model_class: Any = self.encoder_classes.get(component, self.denoiser_class)
        with torch.device("meta"):
            if hasattr(model_class, "config_class"):  # of transformers
                return model_class(model_class.config_class.from_pretrained(self.folder / component))
            return model_class.from_config(model_class.load_config(self.folder, subfolder=component))

    def fits(self, empty: dict[str, torch.nn.Module]) -> list[Fit]:
        """What the configs of the parts must agree on.

        Args:
            empty (`dict[str, torch.nn.Module]`): Each of `weight_components`, without weights.
        """
        vae: Any = empty["vae"]
        images = "the colours of an image"
        return [equal("vae", name, vae.config, 3, images) for name in ("in_channels", "out_channels")]

    def empty_denoiser(self) -> torch.nn.Module:
        """The denoiser without its weights."""
        return self.empty(self.denoiser_name)

    def load_encoders(self, device: torch.device, dtype: torch.dtype) -> None:
        """Brings the VAE and the text encoders into memory; does nothing if they are there."""
        if self.has_encoders:
            return
        for name, model_class in self.encoder_classes.items():
            variant = own_variant(self.folder / name, self.variant)
            module = model_class.from_pretrained(
                self.folder, subfolder=name, variant=variant, dtype=dtype, use_safetensors=True
            )
            self.encoders[name] = module.requires_grad_(False).eval().to(device)

    def release_encoders(self) -> None:
        """Drops the VAE and the text encoders."""
        self.encoders = {}

    @torch.no_grad()
    def encode_images(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latent posterior, before scaling.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): Images in [−1, 1].

        Returns:
            Two `torch.Tensor` of shape `(B, C, H / f, W / f)`, float32.
        """
        posterior = self.vae.encode(pixel_values.to(self.vae.device, self.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()

    def scale_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """From the VAE's latents to the denoiser's."""
        return latents * self.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """The images that latents stand for; the encoders must be in memory.

        Args:
            latents (`torch.Tensor` of shape `(B, C, h, w)`): Scaled as the denoiser expects them.

        Returns:
            `torch.Tensor` of shape `(B, 3, h · f, w · f)`, float32, in [0, 1], on the VAE's device.
        """
        latents = latents.to(self.vae.device, self.vae.dtype) / self.scaling_factor
        return (self.vae.decode(latents).sample.float() / 2 + 0.5).clamp(0, 1)
