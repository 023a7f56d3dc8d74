# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1.x and 2.x: a UNet on VAE latents, conditioned on one CLIP text encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from transformers import CLIPTextModel, CLIPTokenizer

from .base import Backbone
from .controlnet import ControlNetFamily
from .tokens import token_ids


# Settings of a UNet that make it ask for more than latents, timesteps and texts, with the values beside None that do not.
MORE_INPUTS: dict[str, tuple[str, ...]] = {
    "class_embed_type": (),
    "num_class_embeds": (),
    "encoder_hid_dim_type": ("text_proj",),
    "time_cond_proj_dim": (),  # of a distilled model, which is given the guidance scale
}


class StableDiffusionControlNet(ControlNetFamily):
    """The ControlNet of Stable Diffusion: a copy of the UNet's first half, whose answers are added to its residuals."""

    model_class = ControlNetModel
    pipeline_class = StableDiffusionControlNetPipeline
    sampler_class = UniPCMultistepScheduler
    new_layers = ("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block")
    inputs = ("down_block_additional_residuals", "mid_block_additional_residual")
    shared_config = (
        *("in_channels", "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim"),
        *("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim", "encoder_hid_dim_type"),
    )

    def __init__(self, vae_scale_factor: int) -> None:
        self.vae_scale_factor = vae_scale_factor

    def new(self, denoiser: Any) -> ControlNetModel:
        """A ControlNet that starts as a copy of the UNet's first half; it changes nothing until it is trained."""
        # One channel width for the pixels, and one for each time the VAE halves them: its latents are the size to reach.
        widths = (16, 32, 96, 256, 256)[: self.vae_scale_factor.bit_length()]
        return ControlNetModel.from_unet(denoiser, conditioning_embedding_out_channels=widths)

    def mismatch(self, config: Mapping[str, Any], denoiser: Any) -> str | None:
        """As [`ControlNetFamily.mismatch`]; control images must come to be of the latents' size, too."""
        if (reason := super().mismatch(config, denoiser)) is not None:
            return reason
        factor = 2 ** (len(config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)) - 1)
        if factor != self.vae_scale_factor:
            return (
                f"belongs to another model: it makes control images {factor} times smaller, and the VAE makes images"
                f" {self.vae_scale_factor} times smaller"
            )
        if config.get("conditioning_channels", 3) != 3:
            return f"takes control images of {config['conditioning_channels']} channels; these are of 3"
        return None


class StableDiffusionBackbone(Backbone):
    """Everything that is particular to [`StableDiffusionPipeline`]."""

    pipeline_class = StableDiffusionPipeline
    pipeline_arguments = {"safety_checker": None}
    denoiser_class = UNet2DConditionModel
    denoiser_name = "unet"
    encoder_classes = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    tokenizer_classes = {"tokenizer": CLIPTokenizer}

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self.controlnet = StableDiffusionControlNet(self.vae_scale_factor)

    def check_fits(self, empty: dict[str, Any]) -> None:
        """As [`Backbone.check_fits`]; captions are read without a mask, and are all that the UNet is given."""
        super().check_fits(empty)
        text = empty["text_encoder"].config
        check_unet(self, empty, text.hidden_size, "the width of its text_encoder", "a text")
        self.require_equal(empty, "unet", "addition_embed_type", None, alone("a text"), "text")
        mask = getattr(text, "use_attention_mask", None)
        self.require(
            "text_encoder", "use_attention_mask", mask, not mask, "none, because captions are read without a mask"
        )

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """`encoder_hidden_states` of shape `(N, tokens, width)`, float32."""
        text_encoder = self.encoders["text_encoder"]
        ids = token_ids(self.tokenizers["tokenizer"], prompts).to(text_encoder.device)
        return {"encoder_hidden_states": text_encoder(ids)[0].float()}

    def predict(
        self,
        denoiser: Any,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        condition: dict[str, torch.Tensor],
        controlnet: Any = None,
    ) -> torch.Tensor:
        """The UNet's output for x_t, under a ControlNet if one is given."""
        prompts = condition["encoder_hidden_states"]
        if controlnet is None:
            return denoiser(sample, timesteps, prompts, return_dict=False)[0]
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


def check_unet(backbone: Backbone, empty: dict[str, Any], width: int, of: str, given: str) -> None:
    """Refuses a UNet for other latents, for texts of another width than `width`, that `of` the text encoders, or for more."""
    unet, latents = empty["unet"].config, "as many as the latents of its vae"
    edits = f"{latents} (9 are of inpainting, 8 of editing)"
    backbone.require_equal(empty, "unet", "in_channels", backbone.latent_channels, edits)
    backbone.require_equal(empty, "unet", "out_channels", backbone.latent_channels, latents)
    reads = "encoder_hid_dim" if unet.encoder_hid_dim is not None else "cross_attention_dim"
    found = unet[reads]
    widths = set(found) if isinstance(found, (list, tuple)) else {found}
    backbone.require("unet", reads, found, widths == {width}, f"{width}, {of}")
    for name, also in MORE_INPUTS.items():
        backbone.require_equal(empty, "unet", name, None, alone(given), *also)


def alone(given: str) -> str:
    return f"because it is given {given} and nothing else"
