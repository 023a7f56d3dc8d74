# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1.x and 2.x: a UNet on VAE latents, conditioned on one CLIP text encoder."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from .compatibility import Fit, at_most, equal, unset
from .latent import LatentBackbone
from .tokens import longer_than, told_by_us


# Settings of a UNet that make it ask for more than latents, timesteps and a text, with the values that do not.
MORE_INPUTS: dict[str, tuple] = {
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "addition_embed_type": (None, "text"),
    "encoder_hid_dim_type": (None, "text_proj"),
    "time_cond_proj_dim": (None,),  # of a distilled model, which is given the guidance scale
}


class StableDiffusionBackbone(LatentBackbone):
    """Everything that is particular to [`StableDiffusionPipeline`].

    Args:
        folder (`Path`): The local folder of the pipeline, with its `model_index.json`.
        variant (`str`, *optional*): Variant of the weight files.
    """

    pipeline_class = StableDiffusionPipeline
    denoiser_class = UNet2DConditionModel
    controlnet_class = ControlNetModel
    denoiser_name = "unet"
    encoder_classes = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    weight_components = ("unet", "vae", "text_encoder")
    part_classes = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    }
    lora_target_modules = ("to_k", "to_q", "to_v", "to_out.0")

    def __init__(self, folder: Path, variant: str | None = None) -> None:
        super().__init__(folder, variant)
        self.tokenizer = told_by_us(CLIPTokenizer.from_pretrained(self.folder, subfolder="tokenizer"))

    def fits(self, empty: dict[str, torch.nn.Module]) -> list[Fit]:
        """What the configs of the parts must agree on; see [`LatentBackbone.fits`]."""
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
            at_most(
                "tokenizer",
                "model_max_length",
                self.tokenizer.model_max_length,
                *limit(text, "max_position_embeddings"),
            ),
            at_most("tokenizer", "its vocabulary", len(self.tokenizer), *limit(text, "vocab_size")),
        ]

    @property
    def text_encoder(self) -> CLIPTextModel:
        """The text encoder, which must be in memory."""
        return self.encoders["text_encoder"]

    def set_tokenizer(self, tokenizer: CLIPTokenizer) -> None:
        """Uses another tokenizer than the pipeline's own, for all that reads prompts: encodings, samples, the bank."""
        key = reading_key(tokenizer)
        self.tokenizer_key = None if key == reading_key(self.tokenizer) else key
        self.tokenizer = told_by_us(tokenizer)

    @property
    def token_limit(self) -> int:
        """The tokens of a prompt that are read, those of its beginning and end among them."""
        return self.tokenizer.model_max_length

    def cut_prompts(self, prompts: list[str]) -> dict[str, int]:
        """The prompts that are cut, each with its number of tokens; see [`longer_than`]."""
        return longer_than(self.token_limit, prompts, self.tokenizer)

    def source_prompts(self, prompts: list[str]) -> list[str]:
        """The prompts to sample a knowledge bank with, as given."""
        return prompts

    def renamed_prompts(self) -> frozenset[str]:
        """Prompts mean what they meant."""
        return frozenset()

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
        components = dict(self.encoders) if denoiser is None else {"unet": denoiser, **self.encoders}
        pipeline_class: type = StableDiffusionPipeline
        if controlnet is not None:
            pipeline_class, components["controlnet"] = StableDiffusionControlNetPipeline, controlnet
        pipeline = pipeline_class.from_pretrained(
            self.folder,
            variant=self.variant,
            safety_checker=None,
            dtype=dtype,
            use_safetensors=True,
            **components,
            **kwargs,
        )
        pipeline.register_modules(tokenizer=self.tokenizer)
        if denoiser is not None and self.prediction_type is not None:
            pipeline.scheduler.register_to_config(prediction_type=self.prediction_type)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)


def reading_key(tokenizer: CLIPTokenizer) -> str:
    """What tells one tokenizer from another that reads prompts otherwise."""
    reader = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else tokenizer.get_vocab()
    for name in ("truncation", "padding"):  # are those of its last call
        reader.pop(name, None)
    facts = [reader, tokenizer.model_max_length, tokenizer.pad_token_id]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def limit(config: Any, name: str) -> tuple[int, str]:
    """How far a text encoder reads, and what to call that."""
    return getattr(config, name), f"the text_encoder's {name}"
