# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Stable Diffusion 1.x and 2.x: a UNet on VAE latents, conditioned on one CLIP text encoder."""

import hashlib
import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from .files import own_variant


class StableDiffusionBackbone:
    """Everything that is particular to [`StableDiffusionPipeline`].

    Args:
        folder (`Path`): The local folder of the pipeline, with its `model_index.json`.
        variant (`str`, *optional*): Variant of the weight files.
    """

    pipeline_class = StableDiffusionPipeline
    denoiser_class = UNet2DConditionModel
    controlnet_class = ControlNetModel
    denoiser_name = "unet"
    lora_target_modules = ("to_k", "to_q", "to_v", "to_out.0")
    weight_components = ("unet", "vae", "text_encoder")

    def __init__(self, folder: Path, variant: str | None = None) -> None:
        self.folder = Path(folder)
        self.variant = variant
        self.noise_scheduler = DDPMScheduler.from_pretrained(self.folder, subfolder="scheduler")
        self.tokenizer = CLIPTokenizer.from_pretrained(self.folder, subfolder="tokenizer")
        vae_config = AutoencoderKL.load_config(self.folder, subfolder="vae")
        self.latent_channels: int = vae_config["latent_channels"]
        self.vae_scale_factor: int = 2 ** (len(vae_config["block_out_channels"]) - 1)
        self.scaling_factor: float = vae_config.get("scaling_factor", 0.18215)
        self.tokenizer_key: str | None = None  # set when --tokenizer_name names another
        self.prediction_type: str | None = None  # set when --prediction_type overrides the scheduler's
        self.vae: AutoencoderKL | None = None
        self.text_encoder: CLIPTextModel | None = None

    @property
    def has_encoders(self) -> bool:
        """Whether the VAE and the text encoder are in memory."""
        return self.vae is not None

    def set_prediction_type(self, prediction_type: str) -> None:
        """Trains, validates and saves with this prediction type instead of the pretrained scheduler's."""
        self.prediction_type = prediction_type
        self.noise_scheduler.register_to_config(prediction_type=prediction_type)

    def set_tokenizer(self, tokenizer: CLIPTokenizer) -> None:
        """Uses another tokenizer than the pipeline's own."""
        self.tokenizer = tokenizer
        vocabulary = json.dumps([tokenizer.get_vocab(), tokenizer.model_max_length], sort_keys=True)
        self.tokenizer_key = hashlib.sha256(vocabulary.encode()).hexdigest()

    def size(self, resolution: int) -> dict[str, int]:
        """The arguments with which the pipeline makes square images of this resolution."""
        return {"height": resolution, "width": resolution}

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """The shape (C, h, w) of the latents of a square image."""
        side = resolution // self.vae_scale_factor
        return (self.latent_channels, side, side)

    def load_denoiser(
        self, folder: str | Path | None = None, dtype: torch.dtype = torch.float32, **kwargs
    ) -> UNet2DConditionModel:
        """Loads the UNet, from another folder or model id if one is given."""
        folder = folder or self.folder
        local = Path(folder, "unet")
        variant = own_variant(local, self.variant) if local.is_dir() else self.variant
        return UNet2DConditionModel.from_pretrained(folder, subfolder="unet", variant=variant, dtype=dtype, **kwargs)

    def empty_denoiser(self) -> UNet2DConditionModel:
        """The UNet without its weights, to look at its modules."""
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(self.folder, subfolder="unet"))

    def load_encoders(self, device: torch.device, dtype: torch.dtype) -> None:
        """Brings the VAE and the text encoder into memory; does nothing if they are there."""
        if self.has_encoders:
            return

        def load(model_class: type, name: str) -> torch.nn.Module:
            variant = own_variant(self.folder / name, self.variant)
            return model_class.from_pretrained(self.folder, subfolder=name, variant=variant, dtype=dtype)

        self.vae, self.text_encoder = load(AutoencoderKL, "vae"), load(CLIPTextModel, "text_encoder")
        for module in (self.vae, self.text_encoder):
            module.requires_grad_(False).eval().to(device)

    def release_encoders(self) -> None:
        """Drops the VAE and the text encoder."""
        self.vae = self.text_encoder = None

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

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """What the denoiser is conditioned on, one entry a prompt.

        Args:
            prompts (`list[str]`): N prompts, cut at the tokenizer's length.

        Returns:
            `dict[str, torch.Tensor]`: `encoder_hidden_states` of shape `(N, tokens, width)`, float32.
        """
        ids = self.tokenizer(
            prompts,
            max_length=self.tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return {"encoder_hidden_states": self.text_encoder(ids.to(self.text_encoder.device))[0].float()}

    def predict(
        self,
        denoiser: torch.nn.Module,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        condition: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """The denoiser's output for x_t, of the shape of `sample`."""
        return denoiser(sample, timesteps, condition["encoder_hidden_states"], return_dict=False)[0]

    def new_controlnet(self, denoiser: UNet2DConditionModel) -> ControlNetModel:
        """A ControlNet that starts as a copy of the UNet's first half; it changes nothing until it is trained."""
        # One channel width for the pixels, and one for each time the VAE halves them: its latents are the size to reach.
        widths = (16, 32, 96, 256, 256)[: self.vae_scale_factor.bit_length()]
        return ControlNetModel.from_unet(denoiser, conditioning_embedding_out_channels=widths)

    def predict_controlled(
        self,
        denoiser: torch.nn.Module,
        controlnet: torch.nn.Module,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        condition: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """The denoiser's output for x_t under a ControlNet.

        Args:
            denoiser (`torch.nn.Module`): The UNet, in any precision.
            controlnet (`torch.nn.Module`): The ControlNet.
            sample (`torch.Tensor` of shape `(B, C, h, w)`): x_t.
            timesteps (`torch.Tensor` of shape `(B,)`): t.
            condition (`dict[str, torch.Tensor]`): As for [`predict`], and `control`, the control images of shape
                `(B, 3, H, W)` in [0, 1].

        Returns:
            `torch.Tensor` of shape `(B, C, h, w)`.
        """
        prompts = condition["encoder_hidden_states"]
        down, middle = controlnet(sample, timesteps, prompts, condition["control"], return_dict=False)
        dtype = denoiser.dtype
        return denoiser(
            sample.to(dtype),
            timesteps,
            prompts.to(dtype),
            down_block_additional_residuals=[residual.to(dtype) for residual in down],
            mid_block_additional_residual=middle.to(dtype),
            return_dict=False,
        )[0]

    def pipeline(
        self,
        denoiser: torch.nn.Module | None,
        device: torch.device,
        dtype: torch.dtype,
        controlnet: torch.nn.Module | None = None,
        **kwargs,
    ):
        """The whole pipeline to sample from: untouched, with `denoiser` in place of the saved one, or with a ControlNet."""
        components = {} if denoiser is None else {"unet": denoiser}
        if self.vae is not None:
            components |= {"vae": self.vae, "text_encoder": self.text_encoder}
        pipeline_class: type = StableDiffusionPipeline
        if controlnet is not None:
            pipeline_class, components["controlnet"] = StableDiffusionControlNetPipeline, controlnet
        pipeline = pipeline_class.from_pretrained(
            self.folder, variant=self.variant, safety_checker=None, dtype=dtype, **components, **kwargs
        )
        pipeline.register_modules(tokenizer=self.tokenizer)
        if denoiser is not None and self.prediction_type is not None:
            pipeline.scheduler.register_to_config(prediction_type=self.prediction_type)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)
