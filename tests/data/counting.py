# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Counting what a backbone encodes."""

from diffusers_difftune.backbones import Backbone


def count_encoded(backbone: Backbone) -> Backbone:
    """The backbone, with counts of the images and prompts that it encodes from now on, in `images` and `prompts`.

    Copies within a batch, which only fill it up, are not counted.
    """
    encode_images, encode_prompts = backbone.encode_images, backbone.encode_prompts
    backbone.images = backbone.prompts = 0

    def count_images(pixel_values):
        backbone.images += len({pixels.numpy().tobytes() for pixels in pixel_values})
        return encode_images(pixel_values)

    def count_prompts(prompts):
        backbone.prompts += len(set(prompts))
        return encode_prompts(prompts)

    backbone.encode_images, backbone.encode_prompts = count_images, count_prompts
    return backbone
