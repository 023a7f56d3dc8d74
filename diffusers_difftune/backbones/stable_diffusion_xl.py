# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion XL: a UNet on VAE latents, conditioned on two CLIP text encoders, and on the size and crop of the image."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .base import Backbone
from .stable_diffusion import check_unet
from .tokens import token_ids


TEXTS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
NUM_TIME_IDS = 6  # two of the original size, two of the crop, two of the target size


class PreciseVAE(AutoencoderKL):
    """A VAE that computes in its own precision, whatever that of its inputs and of the code around it: SDXL's own overflows in
    half precision."""

    def encode(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return super().encode(x.to(self.dtype), *args, **kwargs)

    def decode(self, z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(z.device.type, enabled=False):
            return super().decode(z.to(self.dtype), *args, **kwargs)


class StableDiffusionXLBackbone(Backbone):
    """Everything that is particular to [`StableDiffusionXLPipeline`].

    The empty prompt is what the pipeline has in its unconditional branch: zeros, if its `force_zeros_for_empty_prompt` says so, and
    else the encoding of "". So a dropped caption trains the branch that classifier-free guidance asks.
    """

    pipeline_class = StableDiffusionXLPipeline
    pipeline_arguments = {"add_watermarker": False}
    denoiser_class = UNet2DConditionModel
    denoiser_name = "unet"
    encoder_classes = {
        "vae": PreciseVAE,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    tokenizer_classes = {"tokenizer": CLIPTokenizer, "tokenizer_2": CLIPTokenizer}
    default_resolution = 1024

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        index = json.loads((self.folder / "model_index.json").read_text())
        self.zeros_for_empty: bool = index.get("force_zeros_for_empty_prompt", True)
        self.precise_vae: bool = self.vae_config.get("force_upcast", True)

    def check_fits(self, empty: dict[str, Any]) -> None:
        """As [`Backbone.check_fits`]; the UNet takes two texts, and six sizes with the second one's pooled embedding."""
        super().check_fits(empty)
        unet, texts = empty["unet"].config, [empty[name].config for _, name in TEXTS]
        self.require_equal(
            empty, "unet", "addition_embed_type", "text_time", "SDXL's; its refiner is no model of its own"
        )
        width = sum(text.hidden_size for text in texts)
        check_unet(self, empty, width, "the width of its two text encoders together", "texts, sizes")
        added = NUM_TIME_IDS * (unet.addition_time_embed_dim or 0) + texts[1].projection_dim
        why = f"{NUM_TIME_IDS} sizes of addition_time_embed_dim and the projection_dim of its text_encoder_2"
        self.require_equal(empty, "unet", "projection_class_embeddings_input_dim", added, why)

    def encoder_dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """float32 for a VAE whose config says that it overflows otherwise (`force_upcast`); see [`PreciseVAE`]."""
        return torch.float32 if name == "vae" and self.precise_vae else dtype

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """`encoder_hidden_states` of shape `(N, tokens, width)`, the second to last states of both text encoders side by side, and
        `text_embeds` of shape `(N, projection)`, the pooled embedding of the second; float32."""
        hidden, pooled = [], None
        for tokenizer_name, name in TEXTS:
            text_encoder = self.encoders[name]
            ids = token_ids(self.tokenizers[tokenizer_name], prompts).to(text_encoder.device)
            output = text_encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2].float())
            pooled = output[0].float()
        states = torch.cat(hidden, dim=-1)
        empty = [row for row, prompt in enumerate(prompts) if not prompt]
        if self.zeros_for_empty:
            states[empty], pooled[empty] = 0, 0
        return {"encoder_hidden_states": states, "text_embeds": pooled}

    @staticmethod
    def row_condition(
        original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """The six sizes that SDXL is told of an image."""
        return {"time_ids": torch.tensor([*original, *crop, *target], dtype=torch.float32)}

    def predict(
        self,
        denoiser: Any,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        condition: dict[str, torch.Tensor],
        controlnet: Any = None,
    ) -> torch.Tensor:
        """The UNet's output for x_t."""
        added = {name: condition[name] for name in ("text_embeds", "time_ids")}
        return denoiser(
            sample, timesteps, condition["encoder_hidden_states"], added_cond_kwargs=added, return_dict=False
        )[0]

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
        """As [`Backbone.sample_arguments`]; the pipeline itself would encode an empty prompt where it has zeros for none."""
        arguments = super().sample_arguments(pipeline, prompts, height, width, guidance_scale, noise)
        if all(prompts) or not pipeline.config.force_zeros_for_empty_prompt:
            return arguments
        states, _, pooled, _ = pipeline.encode_prompt(
            prompts, device=pipeline.device, do_classifier_free_guidance=False
        )
        empty = [row for row, prompt in enumerate(prompts) if not prompt]
        states[empty], pooled[empty] = 0, 0
        return arguments | {"prompt": None, "prompt_embeds": states, "pooled_prompt_embeds": pooled}
