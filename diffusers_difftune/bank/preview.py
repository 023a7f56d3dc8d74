# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what is stored."""

import io

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import make_image_grid
from PIL import Image

from ..backbones import family_of_pipeline


COLUMNS = 4
SIDE = 128  # pixels of an image in the grid


@torch.no_grad()
def preview_png(pipeline: DiffusionPipeline, latents: list[torch.Tensor]) -> bytes:
    """Decodes a few canonical latents with the pipeline's VAE into a grid, as a PNG file; equal latents give equal bytes."""
    family = family_of_pipeline(pipeline)
    images: list[Image.Image] = []
    for sample in latents:  # one by one, so that this never needs more memory than sampling
        pixels = VaeImageProcessor.pt_to_numpy(family.decode(pipeline.vae, sample[None]))
        images += VaeImageProcessor.numpy_to_pil(pixels)
    return grid_png(images)


def grid_png(images: list[Image.Image]) -> bytes:
    """A grid of images of any sizes, four in a row, as a PNG file."""
    images = [image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in images]
    columns = min(COLUMNS, len(images))
    images += [Image.new("RGB", (SIDE, SIDE), "white")] * (-len(images) % columns)
    file = io.BytesIO()
    make_image_grid(images, len(images) // columns, columns).save(file, format="PNG")
    return file.getvalue()
