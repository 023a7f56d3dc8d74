# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""From samples of a knowledge bank to the images that control images are extracted from."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from PIL import Image

from ..backbones import Backbone


def sample_decoder(backbone: Backbone, device: torch.device) -> Callable[[torch.Tensor], list[Image.Image]]:
    """What turns latents of a knowledge bank into images: one by one, which fits wherever the model is sampled, and in
    float32 whatever the precision of the run, so that all runs extract from the same images."""

    @cache
    def load() -> None:  # once, and not if nothing is to be decoded
        backbone.release_encoders()
        backbone.load_encoders(device, torch.float32)

    def decode(latents: torch.Tensor) -> list[Image.Image]:
        load()
        return [image for sample in latents for image in to_images(backbone.decode(backbone.vae, sample[None]))]

    return decode


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Images in [0, 1] of shape (N, 3, H, W) as PIL images."""
    array = (pixels.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(np.ascontiguousarray(image)) for image in array.numpy()]
