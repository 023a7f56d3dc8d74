# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What every family is asked for."""

from pathlib import Path

import pytest

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.errors import DiffTuneError


@pytest.mark.parametrize("resolution, works", [(101, "100 or 102"), (1, "2")])
def test_resolution_must_be_divisible(resolution: int, works: str, tiny_pipeline: Path) -> None:
    with pytest.raises(DiffTuneError) as error:
        load_backbone(tiny_pipeline, resolution=resolution)
    assert str(error.value) == (
        f"resolution is {resolution}; this model's VAE needs a multiple of 2, such as {works}."
    )


def test_a_backbone_is_for_one_size_of_images(tiny_pipeline: Path) -> None:
    assert load_backbone(tiny_pipeline).resolution == 512
    assert load_backbone(tiny_pipeline).native_resolution == 16
    backbone = load_backbone(tiny_pipeline, resolution=32)
    assert backbone.resolution == 32 and backbone.latent_shape() == (4, 16, 16)
    assert backbone.latent_shape(16, 64) == (4, 8, 32)
