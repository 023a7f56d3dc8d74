# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Value ranges: images of more than 8 bits, and of other samples than grey and RGB, are what they say or are refused."""

import re
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffusers_difftune
from diffusers_difftune.config import ControlNetConfig, DataConfig
from diffusers_difftune.controls.build import opened
from diffusers_difftune.data.dataset import load_target_data
from diffusers_difftune.data.images.decode import ImageTransform, UnreadableImage, control_image, decode, load_rgb
from diffusers_difftune.data.images.formats import FORMATS
from diffusers_difftune.data.stream import StreamedTarget
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.real_images import read_images
from diffusers_difftune.training.controlnet import open_control_image
from tests.data.image_files import png, saved, tiff
from tests.tiny import save_tiny_conditions, save_tiny_images


RAMP = np.arange(4).reshape(2, 2)  # 0 to 3
GREYS = [0, 85, 170, 255]


def read(content: bytes, control: bool = False) -> Image.Image:
    return load_rgb(decode({"bytes": content, "path": None}), control=control)


def greys(content: bytes) -> list[int]:
    image = read(content)
    assert image.mode == "RGB"
    reds, greens, blues = (list(channel.getdata()) for channel in image.split())
    assert reds == greens == blues
    return reds


def ramp(kind: str, highest: float) -> np.ndarray:
    return (RAMP / 3 * highest).astype(kind)


def tagged(samples: np.ndarray, lowest: float, highest: float) -> bytes:
    """A TIFF file with SMinSampleValue and SMaxSampleValue."""
    return saved(Image.fromarray(samples), "TIFF", tiffinfo={340: lowest, 341: highest})


READ = {
    "8 bits": saved(Image.fromarray(ramp("u1", 255))),
    "16-bit PNG": png(ramp("u2", 65535), 16),
    "16-bit TIFF": tiff(ramp("u2", 65535)),
    "16-bit TIFF, big-endian": tiff(ramp("u2", 65535), order=">"),
    "16-bit TIFF, white is zero": tiff(65535 - ramp("u2", 65535), white_is_zero=True),
    "12-bit TIFF": tiff(ramp("u2", 4095), bits=12),
    "16-bit PGM": b"P5 2 2 65535\n" + ramp("u2", 65535).astype(">u2").tobytes(),
    "10-bit PGM": b"P5 2 2 1023\n" + ramp("u2", 1023).astype(">u2").tobytes(),
    "32-bit integers of 16 bits": tiff(ramp("i4", 65535)),
    "floating point": tiff(ramp("f4", 1)),
    "floating point, big-endian": tiff(ramp("f4", 1), order=">"),
    "floating point, white is zero": tiff(1 - ramp("f4", 1), white_is_zero=True),
    "floating point with rounding": tiff(ramp("f4", 1) * np.float32(1.002) - np.float32(0.001)),
    "floating point, PFM": b"Pf 2 2 -1.0\n" + ramp("<f4", 1)[::-1].tobytes(),
    "16 bits, tags say 12": tagged(ramp("u2", 4095), 0, 4095),
    "32-bit integers, tags say so": tagged(ramp("i4", 90000) - 30000, -30000, 60000),
    "floating point, tags say 0 to 255": tagged(ramp("f4", 255), 0, 255),
    "16-bit RGB": png(np.stack([ramp("u2", 65535)] * 3, -1), 16),
    "16-bit RGB TIFF": tiff(np.stack([ramp("u2", 65535)] * 3, -1)),
}


@pytest.mark.parametrize("case", READ)
def test_what_says_its_range_is_read(case: str) -> None:
    assert greys(READ[case]) == GREYS


NEARLY_BLACK = "; it would be black or nearly so, so scale its values to the whole range or save it with 8 bits"
LOW_RGB = np.stack([ramp("u2", 255)] * 3, -1)
REFUSED = {
    "16-bit PNG up to 255": (
        png(ramp("u2", 255), 16),
        f"16-bit integers (mode I;16) with values from 0 to 255, where 65535 is white{NEARLY_BLACK}",
    ),
    "millimetres": (png(ramp("u2", 5000), 16), "16-bit integers (mode I;16) with values from 0 to 5000, *"),
    "14 bits": (png(ramp("u2", 16383), 16), "16-bit integers (mode I;16) with values from 0 to 16383, *"),
    "16-bit TIFF, big-endian": (tiff(ramp("u2", 4095), order=">"), "16-bit integers (mode I;16B) * 0 to 4095, *"),
    "8 bits in 12": (tiff(ramp("u2", 255), bits=12), "12-bit integers (mode I;16) * 0 to 255, where 4095 is white*"),
    "signed 16 bits": (tiff(ramp("i2", 32767)), "signed 16-bit integers (mode I) with values from 0 to 32767, *"),
    "signed 8 bits": (tiff(ramp("i1", 127)), "signed 8-bit integers (mode L), *"),
    "32-bit integers up to 255": (tiff(ramp("i4", 255)), "32-bit integers (mode I) with values from 0 to 255, *"),
    "32-bit integers": (
        tiff(ramp("i4", 2**31 - 1)),
        "32-bit integers (mode I) with values from 0 to 21474*, where 0 is*",
    ),
    "integers below zero": (tiff(ramp("i4", 65535) - 9), "32-bit integers (mode I) with values from -9 to 65526, *"),
    "floating point up to 10": (
        tiff(ramp("f4", 10)),
        "32-bit floating point (mode F) with values from 0 to 10, where 0*",
    ),
    "floating point up to 255": (tiff(ramp("f4", 255)), "32-bit floating point (mode F) with values from 0 to 255, *"),
    "floating point below zero": (tiff(ramp("f4", 2) - 1), "32-bit floating point (mode F) * from -1 to 1, *"),
    "floating point, dark": (tiff(ramp("f4", 0.1)), f"32-bit floating point * from 0 to 0.1, *{NEARLY_BLACK}"),
    "not a number": (
        tiff(np.array([[0.5, np.nan]], "f4")),
        "32-bit floating point (mode F) with 1 values that are no finite numbers among values from 0.5 to 0.5; *",
    ),
    "infinite": (
        tiff(np.array([[0.5, -np.inf]], "f4")),
        "32-bit floating point (mode F) with 1 values that are no finite *",
    ),
    "nothing but NaN": (
        tiff(np.full((2, 2), np.nan, "f4")),
        "32-bit floating point (mode F) with 4 values that are no *",
    ),
    "beyond the tags": (
        tagged(ramp("f4", 9), 0, 5),
        "32-bit floating point (mode F) * 0 to 9, where 0 is black and 5 is*",
    ),
    "16-bit RGB up to 255": (
        png(LOW_RGB, 16),
        f"16-bit RGB with no value above 255, where 65535 is white{NEARLY_BLACK}",
    ),
    "16-bit RGB TIFF up to 255": (tiff(LOW_RGB), "16-bit RGB with no value above 255, *"),
    "16-bit RGB up to 5000": (png(LOW_RGB * 19, 16), "16-bit RGB with no value above 4863, *"),
    "16-bit RGBA up to 255": (png(np.stack([ramp("u2", 255)] * 4, -1), 16), "16-bit RGBA with no value above 255, *"),
    "16-bit PPM up to 255": (
        b"P6 2 2 65535\n" + LOW_RGB.astype(">u2").tobytes(),
        "16-bit RGB with no value above 511, *",
    ),
    "16-bit planes": (tiff(LOW_RGB * 257, by_planes=True), "16-bit RGB stored plane by plane without compression, *"),
    "floating-point RGB": (
        tiff(np.zeros((2, 2, 3), "f4")),
        "damaged, or a TIFF file of a kind that Pillow does not read (3 samples a pixel, 32-bit floating point)",
    ),
    "double precision": (tiff(np.zeros((2, 2))), "damaged, or a TIFF * (1 samples a pixel, 64-bit floating point)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_its_range_is_refused(case: str) -> None:
    content, reason = REFUSED[case]
    with pytest.raises(UnreadableImage) as error:
        decode({"bytes": content, "path": "a/cat.tif"})
    assert fnmatch(error.value.reason, reason), error.value.reason
    assert str(error.value).startswith("The image a/cat.tif cannot be read: ")


def test_full_range_integers_keep_their_upper_8_bits() -> None:
    """As images of 16 bits were always read."""
    values = np.random.default_rng(0).integers(0, 65536, (64, 64), dtype=np.uint16)
    expected = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    colors = np.random.default_rng(1).integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    assert np.array_equal(read(png(values, 16)), expected)
    assert np.array_equal(read(tiff(values)), expected)
    assert np.array_equal(load_rgb(Image.fromarray(values)), expected)
    assert np.array_equal(read(png(colors, 16)), (colors >> 8).astype(np.uint8))


def test_black_is_black_in_any_range() -> None:
    assert greys(png(ramp("u2", 0), 16)) == greys(tiff(ramp("f4", 0))) == [0] * 4
    ink = np.stack([ramp("u2", 0), 65535 - ramp("u2", 65535)], -1)  # black lines on a transparent ground
    assert greys(png(ink, 16)) == GREYS


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_is_white(bits: int) -> None:
    white = 2**bits - 1
    values = np.array([[0, white]], np.uint16 if bits == 16 else np.uint8)
    assert greys(png(values, bits, [0])) == [255, 255]
    assert list(read(png(values, bits, [0]), control=True).getdata()) == [(0, 0, 0), (255, 255, 255)]
    if bits > 1:
        values[0, 0] = white // 3
        assert greys(png(values, bits, [white // 3])) == [255, 255]
        assert greys(png(values, bits, [white // 3 + 1]))[0] == 85


def test_the_transparent_colour_of_a_png_is_white() -> None:
    colors = np.array([[[5000, 6000, 7000], [65535, 0, 65535]]], np.uint16)
    assert list(read(png(colors, 16, (5000, 6000, 7000))).getdata()) == [(255, 255, 255), (255, 0, 255)]
    assert list(read(png((colors >> 8).astype(np.uint8), 8, (19, 23, 27))).getdata()) == [
        (255, 255, 255),
        (255, 0, 255),
    ]


def test_orientation_outlives_the_scaling() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(Image.fromarray(np.array([[0, 65535]], np.uint16)), exif=exif)
    assert read(content).size == (1, 2) and greys(content) == [0, 255]


LAB_GREY = Image.merge("LAB", [Image.new("L", (2, 2), value) for value in (136, 128, 128)])  # L* = 53.3, sRGB 127
MODES = {
    "LAB": (LAB_GREY, (127, 127, 127)),
    "HSV": (Image.new("RGB", (2, 2), (255, 0, 0)).convert("HSV"), (255, 0, 0)),
    "YCbCr": (Image.new("RGB", (2, 2), (0, 0, 255)).convert("YCbCr"), (0, 0, 254)),
    "CMYK": (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0)),
    "1": (Image.new("1", (2, 2), 1), (255, 255, 255)),
    "F": (Image.new("F", (2, 2), 1.0), (255, 255, 255)),
    "I;16B": (Image.frombytes("I;16B", (1, 1), b"\xff\x00"), (255, 255, 255)),
    "I;16L": (Image.frombytes("I;16L", (1, 1), b"\x00\xff"), (255, 255, 255)),
    "P with alpha": (Image.new("RGBA", (2, 2), (255, 0, 0, 0)).quantize(4), (255, 255, 255)),
    "LA": (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
    "La": (Image.new("LA", (2, 2), (0, 127)).convert("La"), (128, 128, 128)),
    "RGBa": (Image.new("RGBA", (2, 2), (0, 0, 0, 127)).convert("RGBa"), (128, 128, 128)),
    "PA": (Image.new("PA", (2, 2)), (255, 255, 255)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode: str) -> None:
    image, expected = MODES[mode]
    found = load_rgb(image)
    assert found.mode == "RGB"
    assert np.abs(np.subtract(found.getpixel((0, 0)), expected)).max() <= 1


def test_cmyk_jpeg_of_photoshop_is_not_inverted() -> None:
    """Pillow writes the marker that says so, as Photoshop does, and inverted inks with it."""
    content = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert b"Adobe" in content
    assert np.abs(np.subtract(read(content).getpixel((8, 8)), (255, 0, 0))).max() <= 3


@pytest.mark.parametrize(
    ("lab", "rgb"),
    [((65.1, -51, 42), (59, 180, 76)), ((54.1, 81, 70), (255, 0, 0)), ((32.2, 79, -100), (106, 0, 242))],
)
def test_a_lab_file(lab: tuple[float, int, int], rgb: tuple[int, int, int]) -> None:
    """The colours are those of the formulas of CIELAB, with the white of D50, and of sRGB."""
    lightness, a, b = lab
    stored = np.array([round(lightness * 2.55), a % 256, b % 256], np.uint8)
    found = read(tiff(np.broadcast_to(stored, (2, 2, 3)), photometric=8)).getpixel((0, 0))
    assert np.abs(np.subtract(found, rgb)).max() <= 1


def float_images(folder: Path, names: list[str], highest: float) -> Path:
    for name in names:
        values = np.linspace(0, highest, 256, dtype=np.float32).reshape(16, 16)
        (folder / name).with_suffix(".tif").write_bytes(tiff(values))
        (folder / name).unlink()
        lines = (folder / "metadata.jsonl").read_text().replace(name, Path(name).with_suffix(".tif").name)
        (folder / "metadata.jsonl").write_text(lines)
    return folder


def test_all_rows_are_listed_and_can_be_left_out(tmp_path: Path) -> None:
    folder = float_images(save_tiny_images(tmp_path / "data", 4), ["01.png", "03.png"], 7.5)
    config = DataConfig(train_data_dir=str(folder), resolution=16)
    with pytest.raises(DiffTuneError) as error:
        load_target_data(config, 0, tmp_path)
    assert re.search(r"2 of 4 .*row 1 01.tif \(32-bit .* from 0 to 7.5, .*\), row 3 03.tif \(", str(error.value))
    config.skip_bad_images = True
    target = load_target_data(config, 0, tmp_path)
    assert len(target) == 2
    assert [phrase[:62] for phrase in target.report.left_out] == [
        "2 images that cannot be read (--skip_bad_images), row 1 01.tif"
    ]
    assert target.select([0]).report is target.report


@pytest.mark.parametrize("streaming", [False, True])
def test_depth_that_is_not_normalised_is_refused_before_weights_are_loaded(tmp_path: Path, streaming: bool) -> None:
    folder = float_images(save_tiny_conditions(tmp_path / "data", 3), ["condition-00.png"], 7.5)
    config = ControlNetConfig(train_data_dir=str(folder), resolution=16, streaming=streaming)
    with pytest.raises(
        DiffTuneError, match=r"32-bit floating point \(mode F\) with values from 0 to 7.5, where 0 is black"
    ):
        (StreamedTarget if streaming else load_target_data)(config, 0, tmp_path)
    with pytest.raises(DiffTuneError, match="--validation_image .* with values from 0 to 7.5"):
        open_control_image(str(folder / "condition-00.tif"))


def test_training_validation_and_evaluation_read_the_same_numbers(tmp_path: Path) -> None:
    """A depth map in floating point, as a target image, a control image and a validation image."""
    folder = float_images(save_tiny_conditions(tmp_path / "data", 2), ["00.png", "condition-00.png"], 1)
    target = load_target_data(ControlNetConfig(train_data_dir=str(folder), resolution=16), 0, tmp_path)
    transform = ImageTransform(16)
    expected = torch.from_numpy(np.linspace(0, 255, 256, dtype=np.float32).round().reshape(16, 16)).expand(3, 16, 16)
    assert torch.equal(control_image(target.conditions[0], transform) * 255, expected)
    assert torch.equal(control_image(open_control_image(str(folder / "condition-00.tif")), transform) * 255, expected)
    assert torch.equal(read_images(target, [0], 16)[0].float(), expected)
    stored, shown = opened(target, 0, None)
    assert np.array_equal(shown, read(stored)) and np.array_equal(np.asarray(shown), expected.permute(1, 2, 0))


def test_the_page_on_data_names_the_formats_and_turns_distances_into_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    formats = page.split("## Image formats")[1].split("as far as")[0].upper().replace("JPEG 2000", "JPEG2000")
    assert all(re.search(rf"\b{name}\b", formats) for name in FORMATS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "distance.png").write_bytes(png(np.array([[0, 1000], [2000, 4000]], np.uint16), 16))
    exec(page.split("```python")[1].split("```")[0], {})
    assert greys((tmp_path / "depth.png").read_bytes()) == [0, 255, 85, 0]


def test_images_of_data_are_opened_in_one_place() -> None:
    """A second reader would have rules of its own."""
    package = Path(diffusers_difftune.__file__).parent
    readers = [
        file.relative_to(package).as_posix() for file in package.rglob("*.py") if "Image.open(" in file.read_text()
    ]
    assert sorted(readers) == ["controls/bank.py", "controls/build.py", "data/images/decode.py"], (
        "the first two read PNG files that this library wrote"
    )
