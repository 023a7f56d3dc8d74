# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Colour profiles: colours as they were meant, in sRGB."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffusers_difftune.config import DataConfig
from diffusers_difftune.controls.build import opened
from diffusers_difftune.data.dataset import TargetData, load_target_data
from diffusers_difftune.data.images import profiles
from diffusers_difftune.data.images.decode import ImageTransform, control_crop, decode, load_rgb
from tests.data.image_files import (
    ADOBE_PRIMARIES,
    ADOBE_RGB,
    SRGB_PRIMARIES,
    cmyk_profile,
    curve,
    grey_profile,
    rgb_profile,
    saved,
    tiff,
)
from tests.tiny import save_tiny_images


GREEN = (60, 180, 75)
IN_ADOBE_RGB = (0, 181, 64)  # what GREEN of Adobe RGB is in sRGB, where its red is negative; by its matrix and gamma
SRGB_TONES = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.linspace(0, 1, 1024)]
LITTLE_CMS_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OWN_SRGB = rgb_profile(*SRGB_PRIMARIES, curve(*SRGB_TONES), "of a camera")
LINEAR_SRGB = rgb_profile(*SRGB_PRIMARIES, curve(1.0), "sRGB-linear")


def read(image: Image.Image, profile: bytes | None, kind: str = "PNG", **options: object) -> Image.Image:
    return load_rgb(decode({"bytes": saved(image, kind, icc_profile=profile, **options), "path": None}))


def near(found: tuple, expected: tuple | int, by: int = 1) -> bool:
    return bool(np.abs(np.subtract(found, expected)).max() <= by)


def noise(mode: str) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, channels), dtype=np.uint8).squeeze()
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {"quality": 100}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("AVIF", {"quality": 100})],
)
def test_adobe_rgb_becomes_srgb_in_every_format(kind: str, options: dict) -> None:
    found = read(Image.new("RGB", (16, 16), GREEN), ADOBE_RGB, kind, **options)
    assert near(found.getpixel((8, 8)), IN_ADOBE_RGB, 1 if kind in ("PNG", "WEBP", "TIFF") else 4)
    assert "icc_profile" not in found.info, "or the file that it goes into would be converted again"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize(
    "profile", [None, LITTLE_CMS_SRGB, OWN_SRGB], ids=["untagged", "sRGB", "sRGB under another name"]
)
def test_srgb_and_untagged_images_keep_every_bit(mode: str, profile: bytes | None) -> None:
    image = noise(mode)
    expected = image.convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), expected).convert("RGB")
    assert read(image, profile).tobytes() == expected.tobytes()


def test_a_profile_is_judged_by_what_it_does_and_not_by_its_name() -> None:
    assert near(read(Image.new("RGB", (2, 2), (55, 55, 55)), LINEAR_SRGB).getpixel((0, 0)), 128)


def test_transparency_stays() -> None:
    image = Image.new("RGBA", (2, 1), (*GREEN, 255))
    image.putpixel((1, 0), (*GREEN, 0))
    opaque, clear = read(image, ADOBE_RGB).getdata()
    assert near(opaque, IN_ADOBE_RGB) and clear == (255, 255, 255)
    palette = image.convert("RGB").quantize(2)
    assert near(read(palette, ADOBE_RGB).getpixel((0, 0)), IN_ADOBE_RGB)
    assert read(palette, ADOBE_RGB, transparency=0).getpixel((0, 0)) == (255, 255, 255)
    plain = Image.new("RGB", (1, 1), GREEN)
    assert read(plain, ADOBE_RGB, transparency=GREEN).getpixel((0, 0)) == (255, 255, 255)


def test_grey_profiles() -> None:
    image = Image.new("L", (2, 2), 128)
    middle = 255 * (1.055 * (128 / 255) ** (1.8 / 2.4) - 0.055)
    assert near(read(image, grey_profile(1.8)).getpixel((0, 0)), round(middle))
    image.putalpha(255)
    assert near(read(image, grey_profile(1.8)).getpixel((0, 0)), round(middle))
    assert near(
        read(Image.fromarray(np.full((2, 2), 128 * 257, np.uint16)), grey_profile(1.8)).getpixel((0, 0)), round(middle)
    )
    linear = decode({"bytes": tiff(np.array([[0.216, 1]], "f4")), "path": None})
    linear.info["icc_profile"] = grey_profile(1.0)
    assert near(load_rgb(linear).getpixel((0, 0)), 128)
    # a grey image that kept the profile of the coloured one that it was
    assert near(read(Image.new("L", (1, 1), 55), LINEAR_SRGB).getpixel((0, 0)), 128)
    assert [read(Image.new("1", (1, 1), value), grey_profile(1.8)).getpixel((0, 0))[0] for value in (0, 1)] == [0, 255]


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_profiles(kind: str) -> None:
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert near(read(image, None, kind).getpixel((8, 8)), (0, 255, 255), 2), "without one, as Pillow converts it"
    assert near(read(image, cmyk_profile(), kind).getpixel((8, 8)), 119, 3), "L* = 50"
    assert near(read(Image.new("CMYK", (16, 16)), cmyk_profile(), kind).getpixel((8, 8)), 255, 2)


BROKEN = {
    "bytes of no profile": (b"no profile" * 30, "it is damaged"),
    "a profile that was cut": (ADOBE_RGB[:300], "it is damaged"),
    "a profile of grey images": (grey_profile(2.2), "it is for GRAY images, and the image is RGB"),
    "a profile of a press": (cmyk_profile(), "it is for CMYK images, and the image is RGB"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_profile_is_ignored(case: str) -> None:
    profile, reason = BROKEN[case]
    image = noise("RGB")
    assert read(image, profile).tobytes() == image.tobytes()
    image.info["icc_profile"] = profile
    what, why = profiles.profile_note(image)
    assert what == "ignored" and why.startswith(reason)


def test_control_images_keep_their_numbers() -> None:
    image = Image.new("RGB", (16, 16), GREEN)
    control = decode({"bytes": saved(image, icc_profile=ADOBE_RGB), "path": None})
    assert control_crop(control, ImageTransform(16)).tobytes() == image.tobytes()


def save_images(folder: Path) -> Path:
    """Ten images, of which two are Adobe RGB, one is linear, one has a broken profile, and one is tagged as sRGB."""
    save_tiny_images(folder, 10)
    for row, profile in {1: ADOBE_RGB, 2: ADOBE_RGB, 4: LINEAR_SRGB, 6: b"broken" * 40, 8: OWN_SRGB}.items():
        Image.new("RGB", (16, 16), GREEN).save(folder / f"{row:02}.png", icc_profile=profile)
    return folder


def load(folder: Path, cache: Path) -> TargetData:
    return load_target_data(DataConfig(train_data_dir=str(folder), resolution=16), 0, cache)


def test_the_check_of_images_says_so_once_with_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_images(tmp_path / "data")
    for _ in range(2):  # the second time from what is remembered
        caplog.clear()
        with caplog.at_level(logging.INFO):
            load(folder, tmp_path)
        said = [record.getMessage() for record in caplog.records if "profile" in record.getMessage()]
        assert said[0] == (
            "3 of 10 images have a colour profile other than sRGB and are converted to sRGB: row 1 01.png (Adobe RGB (1998))"
            " for one."
        )
        assert said[1].startswith(
            "1 of 10 images have a colour profile that cannot be used and is ignored: row 6 06.png (it is damaged"
        )
        assert len(said) == 2


def test_without_littlecms_profiles_are_ignored_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_images(tmp_path / "data")
    load(folder, tmp_path)
    monkeypatch.setattr(profiles, "can_convert", lambda: False)
    monkeypatch.setattr("diffusers_difftune.data.images.check.can_convert", lambda: False)
    profiles.transform_from.cache_clear()
    target = load(folder, tmp_path)
    assert "5 of 10 images have a colour profile that cannot be used and is ignored: row 1 01.png" in caplog.text
    assert "this Pillow was built without LittleCMS" in caplog.text
    assert load_rgb(target.image(1)).getpixel((0, 0)) == GREEN
    profiles.transform_from.cache_clear()


def test_control_images_are_extracted_from_converted_images(tmp_path: Path) -> None:
    target = load(save_images(tmp_path / "data"), tmp_path)
    stored, shown = opened(target, 1, None)
    assert near(shown.getpixel((0, 0)), IN_ADOBE_RGB)
    again = decode({"bytes": stored, "path": None})
    assert again.tobytes() == shown.tobytes() and not again.info.get("icc_profile"), (
        "whoever opens it sees these colours"
    )
    stored, _ = opened(target, 8, None)
    assert stored == (tmp_path / "data" / "08.png").read_bytes(), "sRGB is kept as it is"


def test_primaries_of_the_profiles_add_up_to_white() -> None:
    for primaries in (ADOBE_PRIMARIES, SRGB_PRIMARIES):
        assert np.abs(np.sum(primaries, axis=0) - (0.9642, 1, 0.8249)).max() < 1e-3
