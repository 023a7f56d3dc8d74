# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Control images of every mode and size, as they reach a ControlNet."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from diffusers_difftune.config import ControlNetConfig
from diffusers_difftune.data.dataset import load_target_data
from diffusers_difftune.data.images.check import mismatch
from diffusers_difftune.data.images.decode import ImageTransform, control_image
from diffusers_difftune.data.plan import Slot
from diffusers_difftune.data.stream import StreamedTarget
from diffusers_difftune.errors import DiffTuneError
from tests.tiny import save_tiny_conditions, tiny_condition


TRANSFORM = ImageTransform(16, "bilinear")


def lines() -> np.ndarray:
    """White lines on black."""
    pixels = np.zeros((16, 16), np.uint8)
    pixels[4] = pixels[:, 9] = 255
    return pixels


def in_mode(mode: str) -> Image.Image:
    """The lines in a mode; where it has transparency, the ground is transparent, as drawing programs save it."""
    image = Image.fromarray(lines())
    if mode == "I;16":
        return Image.fromarray(lines().astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):
        image = image.convert("L" if mode == "LA" else "RGB")
        image.putalpha(Image.fromarray(lines()))
        return image
    if mode == "P, transparent":
        image = image.convert("P")
        image.info["transparency"] = 0
        return image
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "P, transparent", "RGB", "RGBA", "CMYK", "I;16"])
def test_lines_stay_lines_in_every_mode(mode: str) -> None:
    expected = torch.from_numpy(lines()).float().div(255).expand(3, 16, 16)
    assert torch.equal(control_image(in_mode(mode), TRANSFORM), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_the_pipeline_sees_them_the_same(mode: str) -> None:
    pipeline = object.__new__(StableDiffusionControlNetPipeline)
    pipeline.control_image_processor = VaeImageProcessor(2, do_convert_rgb=True, do_normalize=False)
    theirs = pipeline.prepare_image(in_mode(mode), 16, 16, 1, 1, torch.device("cpu"), torch.float32)
    assert torch.equal(control_image(in_mode(mode), TRANSFORM), theirs[0])


@pytest.mark.parametrize(
    ("image", "condition", "told"),
    [
        ((16, 16), (64, 64), None),
        ((512, 341), (768, 512), None),  # 1.5015 and 1.5
        ((16, 16), (16, 15), None),  # a pixel
        ((512, 512), (512, 500), "it is 512 × 512 and its conditioning image 512 × 500"),
        ((16, 24), (24, 16), "it is 16 × 24 and its conditioning image 24 × 16"),
    ],
)
def test_another_size_is_taken_and_another_shape_is_not(image: tuple, condition: tuple, told: str | None) -> None:
    assert mismatch(Image.new("RGB", image), Image.new("L", condition)) == told


def test_shapes_are_compared_upright() -> None:
    turned = Image.new("RGB", (24, 16))
    turned.getexif()[0x0112] = 6
    assert mismatch(turned, Image.new("RGB", (16, 24))) is None
    assert mismatch(turned, Image.new("RGB", (24, 16)))


def config(folder: Path, **flags) -> ControlNetConfig:
    return ControlNetConfig(train_data_dir=str(folder), resolution=16, **flags)


def one_wide_condition(folder: Path) -> Path:
    save_tiny_conditions(folder, 4)
    tiny_condition(2, (32, 16)).save(folder / "condition-02.png")
    return folder


def test_rows_of_another_shape_can_be_left_out(tmp_path: Path) -> None:
    folder = one_wide_condition(tmp_path / "data")
    with pytest.raises(DiffTuneError, match=r"1 of 4 images cannot be used: row 2 02.png \(it is 16 × 16"):
        load_target_data(config(folder), 0, tmp_path)
    target = load_target_data(config(folder, skip_bad_images=True), 0, tmp_path)
    assert [target.captions(row)[0][-1] for row in range(len(target))] == ["0", "1", "3"]
    for row, index in enumerate((0, 1, 3)):
        expected = control_image(tiny_condition(index), TRANSFORM)
        assert torch.equal(control_image(target.conditions[row], TRANSFORM), expected), "still its own"


def test_rows_of_another_shape_in_a_stream(tmp_path: Path) -> None:
    folder = one_wide_condition(tmp_path / "data")
    stream = StreamedTarget(config(folder, streaming=True), 0, tmp_path)

    def read(stream: StreamedTarget, count: int) -> list[int]:
        found = []
        for ordinal in range(count):
            example = stream.example(Slot(is_source=False, row=0, epoch=0, ordinal=ordinal))
            index = int(example.captions[0][-1])
            expected = control_image(tiny_condition(index), TRANSFORM)
            assert torch.equal(control_image(example.condition(), TRANSFORM), expected)
            found.append(index)
        return found

    with pytest.raises(DiffTuneError, match=r"The image of row \d of the stream cannot be used \(it is 16 × 16"):
        read(stream, 4)
    stream = StreamedTarget(config(folder, streaming=True, skip_bad_images=True), 0, tmp_path)
    assert sorted(read(stream, 6)) == [0, 0, 1, 1, 3, 3]


def test_an_edited_control_image_is_another_data_set(tmp_path: Path) -> None:
    folder = save_tiny_conditions(tmp_path / "data", 3)
    before = load_target_data(config(folder), 0, tmp_path)
    assert load_target_data(config(folder), 0, tmp_path).content_key == before.content_key
    tiny_condition(7).save(folder / "condition-01.png")
    after = load_target_data(config(folder), 0, tmp_path)
    assert after.content_key != before.content_key
    assert after.images.key == before.images.key, "encodings are still good"
