# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The functions in docs/evaluation.md work as they stand."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.tiny import save_tiny_pipeline


DOCUMENT = Path(__file__).parents[2] / "docs" / "evaluation.md"


@pytest.fixture(scope="module")
def code():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        exec(block, names)
    return names


def test_forgetting_of_a_pipeline_and_of_a_checkpoint(code, tiny_pipeline, tmp_path):
    images, prompts = torch.rand(3, 3, 16, 16) * 2 - 1, ["a", "b", "c"]
    assert code["forgetting_of"](tiny_pipeline, tiny_pipeline, images, prompts) == (0, 0)
    other = save_tiny_pipeline(tmp_path / "other", seed=1)
    value, error = code["forgetting_of"](tiny_pipeline, other, images, prompts)
    assert value != 0 and error > 0
    UNet2DConditionModel.from_pretrained(other / "unet").save_pretrained(tmp_path / "checkpoint-1" / "unet")
    assert code["forgetting_of"](tiny_pipeline, tmp_path / "checkpoint-1", images, prompts) == (value, error)


def test_quality_beside_its_floor(code):
    generator = torch.Generator().manual_seed(0)
    real, other, generated = (torch.rand(40, 3, 4, 4, generator=generator) + shift for shift in (0, 0, 1))
    quality = code["quality_of"](
        torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten()), real, other, generated
    )
    assert quality["fid"] == pytest.approx(3, rel=0.1)  # a shift of 1 in each of three channels
    assert quality["fid_floor"] < 0.01 and quality["num_floor"] == 40
