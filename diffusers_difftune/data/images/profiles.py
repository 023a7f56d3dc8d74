# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Colour profiles: from the colours of a file to those of sRGB, which every pretrained model was trained on."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, features


# What counts as sRGB: a profile that changes no colour by more than rounding does. Names are no guide; there are
# profiles with sRGB in their names that are linear, and sRGB profiles of any name.
LARGEST_ROUNDING = 2
# What an image must be for a profile of each kind.
MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}


class BrokenProfile(ValueError):
    """A colour profile that cannot be used, with the reason."""


def can_convert() -> bool:
    """Whether this Pillow was built with LittleCMS, which converts colours."""
    return bool(features.check("littlecms2"))


def to_srgb(image: Image.Image) -> Image.Image:
    """An image in sRGB, by its colour profile; transparency stays. Without a profile, or with one that cannot be used, the
    image as it is."""
    try:
        transform = transform_of(image)
    except BrokenProfile:
        return image
    if transform is None:
        return image
    image = straight(image)
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    result = transform.apply(image.convert(transform.input_mode))
    if alpha is not None:
        result.putalpha(alpha)
    return result


def profile_note(image: Image.Image) -> tuple[str, str] | None:
    """What happens to an image because of its colour profile: `("converted", name)`, `("ignored", reason)`, or nothing."""
    try:
        if transform_of(image) is None:
            return None
        return "converted", profile_name(image.info["icc_profile"])
    except BrokenProfile as error:
        return "ignored", str(error)


def transform_of(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """What turns an image of a profile's kind into sRGB; `None` if it has no profile, or that of sRGB."""
    profile = image.info.get("icc_profile")
    kind = "GRAY" if image.mode in ("1", "L", "LA", "La") else "CMYK" if image.mode == "CMYK" else "RGB"
    return transform_from(profile, kind) if profile else None


@lru_cache(maxsize=64)
def transform_from(profile: bytes, kind: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of a profile, for images of a kind, to sRGB; `None` if it changes nothing.

    Raises:
        BrokenProfile: The profile cannot be used.
    """
    if not can_convert():
        raise BrokenProfile("this Pillow was built without LittleCMS")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        described = source.profile.xcolor_space.strip()
        if described != kind and not (kind == "GRAY" and described == "RGB"):  # grey images often keep the RGB profile
            raise BrokenProfile(f"it is for {described or 'unknown'} images, and the image is {kind}")
        mode = MODES[described]
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE,  # threads share it
        )
    except (OSError, ImageCms.PyCMSError) as error:
        raise BrokenProfile(f"it is damaged ({error})") from None
    return None if mode != "CMYK" and changes_nothing(transform) else transform


def changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether colours all over the cube, or all greys, stay as they are."""
    levels = np.arange(0, 256, 1 if transform.input_mode == "L" else 15, dtype=np.uint8)
    if transform.input_mode == "L":
        colors = Image.fromarray(levels[None])
    else:
        cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
        colors = Image.fromarray(cube.reshape(len(levels), -1, 3))
    before, after = (np.asarray(image, dtype=np.int16) for image in (colors.convert("RGB"), transform.apply(colors)))
    return bool(np.abs(before - after).max() <= LARGEST_ROUNDING)


def profile_name(profile: bytes) -> str:
    """What a profile calls itself."""
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (OSError, ImageCms.PyCMSError):
        name = ""
    return " ".join(name.split())[:60] or "without a name"


def lab_to_rgb(image: Image.Image) -> Image.Image:
    """A CIELAB image (white point D50, as TIFF has it) in sRGB; Pillow's own conversion takes a short cut and is off by up to 10 of 255."""
    result = lab_transform().apply(image)
    result.info = {name: value for name, value in image.info.items() if name != "icc_profile"}
    return result


@lru_cache(maxsize=1)
def lab_transform() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.createProfile("LAB"),
        ImageCms.createProfile("sRGB"),
        "LAB",
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.NOOPTIMIZE | ImageCms.Flags.NOCACHE,
    )


def straight(image: Image.Image) -> Image.Image:
    """The same picture in mode L, LA, RGB, RGBA or CMYK: no palette, and colours not multiplied by their opacity."""
    if image.mode in ("La", "RGBa"):
        image = image.convert(f"{image.mode[:-1]}A")
    if image.mode in ("LA", "RGBA", "CMYK"):
        return image
    if image.has_transparency_data:
        return image.convert("LA" if image.mode == "L" else "RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
