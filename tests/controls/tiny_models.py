# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny models of each kind, with random weights, saved as those on the Hub are."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, MarigoldNormalsPipeline, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    DPTConfig,
    DPTForDepthEstimation,
    GLPNConfig,
    GLPNForDepthEstimation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.glpn.image_processing_pil_glpn import GLPNImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from tests.tiny import byte_tokenizer


PYRAMID = {
    "hidden_sizes": [4, 8, 8, 8],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 1, 1],
    "decoder_hidden_size": 8,
}


def save_dpt(folder: Path) -> Path:
    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=4,
        initializer_range=0.3,  # else the image is lost on the way
    )
    torch.manual_seed(0)
    model = DPTForDepthEstimation(config)
    torch.nn.init.constant_(model.head.head[-2].bias, 100.0)  # else the ReLU after it leaves nothing
    model.save_pretrained(folder)
    DPTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_glpn(folder: Path) -> Path:
    torch.manual_seed(0)
    GLPNForDepthEstimation(GLPNConfig(**PYRAMID)).save_pretrained(folder)
    GLPNImageProcessorPil().save_pretrained(folder)
    return folder


def save_segformer(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = SegformerForSemanticSegmentation(SegformerConfig(**PYRAMID, num_labels=12))
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=5.0)  # else one class has every pixel
    model.save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_marigold(folder: Path) -> Path:
    torch.manual_seed(0)
    text = CLIPTextConfig(
        hidden_size=8,
        intermediate_size=8,
        num_attention_heads=2,
        num_hidden_layers=1,
        max_position_embeddings=32,
        vocab_size=514,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    MarigoldNormalsPipeline(
        unet=UNet2DConditionModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            in_channels=8,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=2,
        ),
        vae=AutoencoderKL(
            block_out_channels=[4, 8],
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            latent_channels=4,
            norm_num_groups=2,
        ),
        scheduler=DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False),
        text_encoder=CLIPTextModel(text),
        tokenizer=byte_tokenizer(),
        prediction_type="normals",
        default_denoising_steps=2,
        default_processing_resolution=32,
    ).save_pretrained(folder)
    return folder
