# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny Stable Diffusion, SDXL and DiT pipelines and tiny image folders, made from nothing: no download, a fraction of a second."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode


COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 70, 220),
    "yellow": (240, 210, 40),
    "purple": (140, 50, 170),
    "pink": (240, 130, 180),
}
SHAPES = ("square", "bar", "cross")
LABELS = ("oak", "ash", "elm")  # of images 0, 1, 2, 3 …, in turn; by the alphabet they are classes 2, 0 and 1
DIT_CLASSES = {5: "cat, house cat", 7: "dog", 207: "golden retriever"}  # of the tiny DiT, beyond the rows of the three


def byte_tokenizer(length: int = 32, **kwargs: str) -> CLIPTokenizer:
    """A CLIP tokenizer that knows the 256 bytes and no merges."""
    letters = list(bytes_to_unicode().values())
    words = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length, **kwargs)


def tiny_vae() -> AutoencoderKL:
    """A 2× VAE with 4 latent channels."""
    return AutoencoderKL(
        block_out_channels=[4, 8],
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=16,
    )


def tiny_pipeline(prediction_type: str = "epsilon", seed: int = 0) -> StableDiffusionPipeline:
    """A whole [`StableDiffusionPipeline`] of about 60,000 weights: 2× VAE with 4 latent channels, a (4, 8) UNet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = byte_tokenizer()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=32,
                intermediate_size=37,
                num_attention_heads=4,
                num_hidden_layers=2,
                max_position_embeddings=32,
                vocab_size=514,
                bos_token_id=512,
                eos_token_id=513,
                pad_token_id=513,
            )
        )
        vae = tiny_vae()
        unet = UNet2DConditionModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=2,
        )
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_tiny_pipeline(folder: str | Path, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Saves [`tiny_pipeline`] to `folder` and returns the folder; the same arguments give the same weights.

    Args:
        folder (`str` or `Path`): Where to save, made if it is not there.
        prediction_type (`str`, *optional*, defaults to `"epsilon"`): What the scheduler's config says.
        seed (`int`, *optional*, defaults to 0): Seed of the weights.
    """
    tiny_pipeline(prediction_type, seed).save_pretrained(folder, safe_serialization=True)
    return Path(folder)


def tiny_xl_pipeline(seed: int = 0, zeros_for_empty: bool = True) -> StableDiffusionXLPipeline:
    """A whole [`StableDiffusionXLPipeline`] of about 80,000 weights: two text encoders, the second of another width and padding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        texts = [
            CLIPTextConfig(
                hidden_size=width,
                intermediate_size=37,
                projection_dim=24,
                num_attention_heads=4,
                num_hidden_layers=3,
                max_position_embeddings=32,
                vocab_size=514,
                bos_token_id=512,
                eos_token_id=513,
                pad_token_id=pad,
                hidden_act=act,
            )
            for width, pad, act in ((32, 513, "quick_gelu"), (16, 0, "gelu"))
        ]
        unet = UNet2DConditionModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=6 * 8 + 24,
            cross_attention_dim=48,
            norm_num_groups=2,
        )
        vae = tiny_vae()
        vae.register_to_config(scaling_factor=0.13025, force_upcast=True)
        text_encoder, text_encoder_2 = CLIPTextModel(texts[0]), CLIPTextModelWithProjection(texts[1])
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    return StableDiffusionXLPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        text_encoder_2=text_encoder_2.eval(),
        tokenizer=byte_tokenizer(),
        tokenizer_2=byte_tokenizer(pad_token="!"),
        unet=unet.eval(),
        scheduler=scheduler,
        force_zeros_for_empty_prompt=zeros_for_empty,
        add_watermarker=False,
    )


def save_tiny_xl_pipeline(folder: str | Path, seed: int = 0, zeros_for_empty: bool = True) -> Path:
    """Saves [`tiny_xl_pipeline`] to `folder` and returns the folder."""
    tiny_xl_pipeline(seed, zeros_for_empty).save_pretrained(folder)
    return Path(folder)


def tiny_dit_pipeline(learned_variance: bool = False, seed: int = 0) -> DiTPipeline:
    """A whole [`DiTPipeline`] of about 50,000 weights for images of 16 × 16: two blocks, 1,000 classes and the null class."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = tiny_vae()
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=8 if learned_variance else 4,
            num_embeds_ada_norm=1000,
        )
        for block in transformer.transformer_blocks:  # as far apart as those of a trained model
            torch.nn.init.normal_(block.norm1.emb.class_embedder.embedding_table.weight)
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    return DiTPipeline(vae=vae.eval(), transformer=transformer.eval(), scheduler=scheduler)


def save_tiny_dit_pipeline(folder: str | Path, learned_variance: bool = False, seed: int = 0) -> Path:
    """Saves [`tiny_dit_pipeline`] to `folder`, with the names in `DIT_CLASSES`, and returns the folder.

    Args:
        folder (`str` or `Path`): Where to save, made if it is not there.
        learned_variance (`bool`, *optional*, defaults to `False`): It answers with twice the channels.
        seed (`int`, *optional*, defaults to 0): Seed of the weights.
    """
    tiny_dit_pipeline(learned_variance, seed).save_pretrained(folder)
    index = Path(folder, "model_index.json")  # which save_pretrained writes without the names of the classes
    names = {str(key): name for key, name in DIT_CLASSES.items()}
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": names}))
    return Path(folder)


def tiny_image(index: int, size: tuple[int, int] = (16, 16)) -> tuple[Image.Image, str]:
    """A drawing of a coloured shape on a gradient, different for every index, and its caption."""
    names = list(COLORS)
    color, shape = names[index % len(names)], SHAPES[index // len(names) % len(SHAPES)]
    width, height = size
    down, across = np.mgrid[0:height, 0:width] / (max(size) - 1)
    pixels = np.stack([200 + 40 * across, 200 + 40 * down, np.full_like(down, 180 + index % 60)], -1)
    inside = {
        "square": (abs(down - 0.5) < 0.3) & (abs(across - 0.5) < 0.3),
        "bar": abs(down - 0.5) < 0.2,
        "cross": (abs(down - 0.5) < 0.15) | (abs(across - 0.5) < 0.15),
    }[shape]
    pixels[inside] = COLORS[color]
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8), "RGB"), f"a {color} {shape}, number {index}"


def save_tiny_images(
    folder: str | Path,
    count: int = 6,
    size: int | tuple[int, int] = 16,
    captions: Sequence[str | list[str] | None] | None = None,
) -> Path:
    """Saves an image folder as `datasets` reads it: `00.png`, `01.png` … and a `metadata.jsonl` with `text`.

    Args:
        folder (`str` or `Path`): Where to save, made if it is not there.
        count (`int`, *optional*, defaults to 6): The number of images.
        size (`int` or `tuple[int, int]`, *optional*, defaults to 16): Side, or width and height, in pixels.
        captions (`Sequence`, *optional*): A caption (string, list of strings or `None`) for each image, in place of
            the drawn thing's name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        image, caption = tiny_image(index, (size, size) if isinstance(size, int) else size)
        image.save(folder / f"{index:02}.png")
        text = caption if captions is None else captions[index]
        lines.append(json.dumps({"file_name": f"{index:02}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def tiny_label(index: int) -> str:
    """The class of [`tiny_image`]."""
    return LABELS[index % len(LABELS)]


def save_tiny_classes(folder: str | Path, count: int = 6, size: int | tuple[int, int] = 16) -> Path:
    """Saves an image folder for each class: `oak/00.png`, `ash/01.png`, `elm/02.png`, `oak/03.png` …"""
    for index in range(count):
        image, _ = tiny_image(index, (size, size) if isinstance(size, int) else size)
        file = Path(folder, tiny_label(index), f"{index:02}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    return Path(folder)


def tiny_condition(index: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """A control image that says which [`tiny_image`] it belongs to: a grey of its own, and a white square."""
    pixels = np.full((size[1], size[0], 3), 10 + 20 * (index % 12), np.uint8)
    pixels[: size[1] // 4, : size[0] // 4] = 255
    return Image.fromarray(pixels)


def save_tiny_conditions(folder: str | Path, count: int = 6, size: int | tuple[int, int] = 16) -> Path:
    """[`save_tiny_images`], with a class for each in `label`, and a control image, `condition-00.png` …, in
    `conditioning_image`."""
    folder = save_tiny_images(folder, count, size)
    lines = []
    for line in (folder / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        index = int(row["file_name"][:2])
        tiny_condition(index, (size, size) if isinstance(size, int) else size).save(
            folder / f"condition-{index:02}.png"
        )
        more = {"label": tiny_label(index), "conditioning_image": f"condition-{index:02}.png"}
        lines.append(json.dumps(row | more))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder
