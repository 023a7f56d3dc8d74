# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What tests of building control images share."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.training.control_images import to_images


def decoder(pipeline: Path) -> Callable[[torch.Tensor], list[Image.Image]]:
    """Decodes latents by a pipeline's VAE."""
    backbone = load_backbone(pipeline)
    backbone.load_encoders(torch.device("cpu"), torch.float32)
    return lambda latents: to_images(backbone.decode(backbone.vae, latents))
