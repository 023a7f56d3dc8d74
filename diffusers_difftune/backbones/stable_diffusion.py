# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1.x and 2.x: a UNet on VAE latents, conditioned on one CLIP text encoder."""

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

from .base import Backbone, Settings
from .compatibility import Fit, equal, unset
from .controlnet import ControlNetFamily
from .tokens import check_reads, reading_key, tokenizer_fits, told_by_us


# Settings of a UNet that make it ask for more than latents, timesteps and a text, with the values that do not.
MORE_INPUTS: dict[str, tuple] = {
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "addition_embed_type": (None, "text"),
    "encoder_hid_dim_type": (None, "text_proj"),
    "time_cond_proj_dim": (None,),  # of a distilled model, which is given the guidance scale
}


class StableDiffusionControlNet(ControlNetFamily):
    """The ControlNet of Stable Diffusion: a copy of the UNet's first half, whose answers are added to its residuals.

    Args:
        vae_scale_factor (`int`): How many times smaller the VAE makes images.
    """

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

    def mismatch(self, config: Any, denoiser: Any) -> str | None:
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
    """Everything that is particular to [`StableDiffusionPipeline`].

    Args:
        folder (`Path`): The local folder of the pipeline, with its `model_index.json`.
        settings ([`Settings`]): What the run asks of it.

    Raises:
        DiffTuneError: The text encoder cannot read what the tokenizer of the settings writes.
    """

    pipeline_class = StableDiffusionPipeline
    pipeline_arguments = {"safety_checker": None}
    denoiser_class = UNet2DConditionModel
    denoiser_name = "unet"
    encoder_classes = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    part_classes = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    }

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self.tokenizer = told_by_us(CLIPTokenizer.from_pretrained(self.folder, subfolder="tokenizer"))
        if settings.tokenizer is not None:
            check_reads(settings.tokenizer, self.folder / "text_encoder")
            key = reading_key(settings.tokenizer)
            self.tokenizer_key = None if key == reading_key(self.tokenizer) else key
            self.tokenizer = told_by_us(settings.tokenizer)
        self.tokenizers = {"tokenizer": self.tokenizer}
        self.controlnet = StableDiffusionControlNet(self.vae_scale_factor)

    def fits(self, empty: dict[str, torch.nn.Module]) -> list[Fit]:
        """What the configs of the parts must agree on; see [`Backbone.fits`]."""
        unet, text = empty["unet"].config, empty["text_encoder"].config
        latents = "as many as the latents of its vae"
        reads = "encoder_hid_dim" if unet.encoder_hid_dim is not None else "cross_attention_dim"
        found = unet[reads]
        widths = set(found) if isinstance(found, (list, tuple)) else {found}
        mask = getattr(text, "use_attention_mask", None)
        return [
            *super().fits(empty),
            equal("unet", "in_channels", unet, self.latent_channels, f"{latents} (9 are of inpainting, 8 of editing)"),
            equal("unet", "out_channels", unet, self.latent_channels, latents),
            *unset("unet", unet, MORE_INPUTS, "because it is given a text and nothing else"),
            Fit(
                "unet",
                reads,
                found,
                widths == {text.hidden_size},
                f"{text.hidden_size}, the width of its text_encoder",
            ),
            Fit(
                "text_encoder", "use_attention_mask", mask, not mask, "none, because captions are read without a mask"
            ),
            *tokenizer_fits(self.tokenizer, text),
        ]

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
        text_encoder = self.encoders["text_encoder"]
        return {"encoder_hidden_states": text_encoder(ids.to(text_encoder.device))[0].float()}

    def predict(
        self,
        denoiser: Any,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        condition: dict[str, torch.Tensor],
        controlnet: Any = None,
    ) -> torch.Tensor:
        """The UNet's output for x_t, under a ControlNet if one is given; see [`Backbone.predict`]."""
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
