# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny feature extractors with random weights, saved as those on the Hub are."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SwinConfig,
    SwinModel,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.tiny import byte_tokenizer


SIDE = 16
WHOLE = {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False}
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP model with its tokenizer and image processor."""
    text = TOWER | {"vocab_size": 514, "max_position_embeddings": 24}
    text |= {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    vision = TOWER | {"image_size": SIDE, "patch_size": 4}
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    with torch.no_grad():  # else all texts, and all images, are nearly the same to it
        model.text_model.embeddings.token_embedding.weight.mul_(30)
        model.vision_model.embeddings.patch_embedding.weight.mul_(30)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(**WHOLE).save_pretrained(folder)
    byte_tokenizer(24).save_pretrained(folder)
    return folder


def save_dinov2(folder: Path) -> Path:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=SIDE, patch_size=4, initializer_range=0.5
    )
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(**WHOLE).save_pretrained(folder)
    return folder


def save_resnet(folder: Path) -> Path:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    BitImageProcessorPil(**WHOLE).save_pretrained(folder)
    return folder


def save_swin(folder: Path) -> Path:
    torch.manual_seed(0)
    config = SwinConfig(image_size=SIDE, patch_size=2, embed_dim=4, depths=[1, 1], num_heads=[1, 1], window_size=2)
    SwinModel(config).save_pretrained(folder)
    BitImageProcessorPil(**WHOLE).save_pretrained(folder)
    return folder


def save_projection_of_efficientnet(file: Path, dimensions: int = 3) -> Path:
    """Three numbers in place of 1,280, so that a few images suffice for a FID."""
    generator = torch.Generator().manual_seed(0)
    components = torch.linalg.qr(torch.randn(1280, dimensions, generator=generator)).Q.contiguous()
    save_file({"mean": torch.zeros(1280), "components": components}, file, {"network": "efficientnet"})
    return file
