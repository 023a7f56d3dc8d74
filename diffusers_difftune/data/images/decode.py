# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""From an image as it was found to a square tensor, the way torchvision's transforms do it, with PIL and numpy."""

import errno
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from datasets.utils.file_utils import xopen
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from ...errors import DiffTuneError, first_sentence
from .formats import is_unread, known_formats
from .profiles import can_convert, lab_to_rgb, to_srgb
from .ranges import Refused, check_upper_bytes, reads_upper_bytes, scale_png_transparency, to_8_bits


# What is kept of decoded images goes by this number, too: it is raised whenever an image comes to be read as other pixels.
READER_VERSION = 1
PIL_FILTERS = {each.name.lower(): each for each in Image.Resampling}
PIL_FILTERS["nearest_exact"] = Image.Resampling.NEAREST  # as torchvision has it
NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
# A strip of 1 × 60,000 pixels is small, and with its shorter side at 512 it has 16 billion.
MOST_ELONGATED = 100
# What undoes each orientation that EXIF knows, but for 1, which is upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(DiffTuneError):
    """An image that cannot be decoded, with the `reason` in a few words, and what to do if its format is not read."""

    def __init__(self, reason: str, path: str | None = None) -> None:
        self.reason = reason.rstrip(". \n")
        if path and is_unread(path):
            self.reason += f"; {Path(path).suffix.lower()} is not read, convert it to PNG or JPEG"
        super().__init__(f"The image {path or 'of a row'} cannot be read: {self.reason}.")


class PassingFailure(DiffTuneError):
    """An image could not be read for a reason that is not in the image: memory, the drive, the network. It is no bad image,
    and `--skip_bad_images` does not leave it out; the next attempt may succeed."""

    def __init__(self, cause: str, path: str | None = None) -> None:
        super().__init__(
            f"The image {path or 'of a row'} could not be read: {cause.rstrip('. ')}; the cause is this machine, its drives or"
            " the network and not the image, so nothing is left out; start again once that is put right."
        )


def decode(stored: dict | None) -> Image.Image:
    """Decodes an image as `datasets` stores it: `{"bytes": ..., "path": ...}`, either of which may be `None`.

    Of an animation it is the first frame. An image of more than 8 bits a sample is scaled to 8.

    Raises:
        UnreadableImage: There is no image, or it is damaged, too large, of values that do not fit what it says of them, or
            so long and narrow that resizing it would make it too large.
        PassingFailure: There is too little memory, or the file system or the network failed.
    """
    content, path = (stored["bytes"], stored["path"]) if stored else (None, None)
    if content is None and path is None:
        raise UnreadableImage("no image")
    try:
        with io.BytesIO(content) if content is not None else opened(path) as file:
            return decode_file(file)
    except (UnreadableImage, PassingFailure):
        raise
    except Refused as error:
        reason = str(error)
    except Image.DecompressionBombError as error:
        reason = f"too large: {first_sentence(error)}"
    except Exception as error:  # decoders raise whatever they like at damaged files
        if cause := passing_cause(error):
            raise PassingFailure(cause, path) from None
        reason = f"damaged: {first_sentence(error)}"
        if missing := re.fullmatch(r"decoder (\w+) not available", str(error)):
            reason = f"this Pillow was built without the decoder {missing[1]}"
    raise UnreadableImage(reason, path)


def passing_cause(error: Exception) -> str | None:
    """What an error says that is not in an image: the memory ran out, which a decoder of Pillow's says in a sentence, or
    an error of the operating system. Pillow's own have no number, but for a damaged file that sends the decoder to before its
    beginning, which the system calls an invalid argument."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return "the memory ran out"
    if isinstance(error, OSError) and "out of memory" in str(error):
        return "the memory ran out"
    return None if number in (None, errno.EINVAL) else os.strerror(number)


def opened(path: str) -> IO[bytes]:
    """A file of this machine, or the whole content of one from elsewhere."""
    if "://" not in path:
        try:
            return open(path, "rb")
        except OSError as error:
            if error.errno in NO_SUCH_FILE:
                raise UnreadableImage(f"no such file {path}", path) from None
            raise
    try:
        with xopen(path, "rb") as file:
            return io.BytesIO(file.read())
    except FileNotFoundError:
        raise UnreadableImage(f"no such file {path}", path) from None
    except Exception as error:  # every protocol has errors of its own
        raise PassingFailure(first_sentence(error), path) from None


def decode_file(file: IO[bytes]) -> Image.Image:
    try:
        image = Image.open(file, formats=known_formats())
    except UnidentifiedImageError:
        raise Refused(why_unidentified(file)) from None
    width, height = image.size
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise Refused(f"{width} × {height} is more than {MOST_ELONGATED} times as long as wide")
    upper_bytes, raw_mode = reads_upper_bytes(image), image.tile[0][3] if image.tile else None
    image.load()
    orientation(image)  # which may be damaged, too
    if upper_bytes:
        check_upper_bytes(image)
    if image.format == "PNG":
        scale_png_transparency(image, raw_mode)
    image = to_8_bits(image)
    if image.mode == "LAB":
        if not can_convert():
            raise Refused("it is in CIELAB colours, for which Pillow needs LittleCMS, which this one lacks")
        image = lab_to_rgb(image)
    return image


def tiff_kind(file: IO[bytes]) -> str:
    """What the samples of a TIFF file are, as the end of a sentence, if its header says so."""
    try:
        file.seek(0)
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        bits, kinds = tags[258], tags.get(339, (1,))
        kind = {1: "unsigned integers", 2: "signed integers", 3: "floating point"}[kinds[0]]
    except Exception:  # it is damaged
        return ""
    return f" ({len(bits)} samples a pixel, {bits[0]}-bit {kind})"


def why_unidentified(file: IO[bytes]) -> str:
    """Why Pillow found no image in a file: it is none, or of a kind or damaged so that Pillow did not get beyond its
    header, or this Pillow lacks what the format needs."""
    file.seek(0)
    prefix = file.read(16)
    for name in known_formats():
        accepts = Image.OPEN[name][1]
        answer = accepts(prefix) if accepts and prefix else False
        if isinstance(answer, str):  # it is this format, says Pillow, and support for it was not built in
            return f"this Pillow was built without support of {name}"
        if answer and name == "TIFF":
            return f"damaged, or a TIFF file of a kind that Pillow does not read{tiff_kind(file)}"
    return "not an image"


def stored_size(stored: dict | None) -> tuple[int, int] | None:
    """The width and height of an image as `datasets` stores it, by its header; `None` if that cannot be read."""
    content, path = (stored["bytes"], stored["path"]) if stored else (None, None)
    try:
        with Image.open(str(path) if content is None else io.BytesIO(content), formats=known_formats()) as image:
            return image.size
    except Exception:  # whoever decodes it says what is wrong with it
        return None


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 is upright."""
    found = image.getexif().get(ExifTags.Base.Orientation)
    return found if found in UPRIGHT else 1


def load_rgb(image: Image.Image, control: bool = False) -> Image.Image:
    """An image of any mode as 8-bit RGB, upright, in sRGB, transparency on white.

    Of a control image, whose numbers are not colours, transparency and colour profile are ignored. An image that is not
    from [`decode`] raises [`Refused`] if it has more than 8 bits a sample and values that do not fit.
    """
    if (turned := orientation(image)) in UPRIGHT:
        image = image.transpose(UPRIGHT[turned])
    image = to_8_bits(image)
    if image.mode == "LAB":
        image = lab_to_rgb(image)
    elif not control:
        image = to_srgb(image)
    if image.mode == "La":  # which Pillow does not convert by itself
        image = image.convert("LA")
    if image.has_transparency_data and not control:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.info.pop("icc_profile", None)  # it holds no longer, and must not go into files
    return image


@dataclass(frozen=True)
class ImageTransform:
    """Resize, crop, flip and scaling to [−1, 1], with torchvision's sizes and roundings."""

    resolution: int  # the side of the square result, in pixels
    interpolation: str = "lanczos"  # a name in `PIL_FILTERS`

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) after resizing: the shorter side is `resolution`."""
        long_side = int(self.resolution * max(width, height) / min(width, height))
        return (self.resolution, long_side) if width <= height else (long_side, self.resolution)

    def resize(self, image: Image.Image) -> Image.Image:
        """The image with its shorter side at `resolution`."""
        size = self.resized_size(*image.size)
        return image if size == image.size else image.resize(size, PIL_FILTERS[self.interpolation])

    def crop_box(self, size: tuple[int, int], at: tuple[float, float] | None = None) -> tuple[int, int]:
        """Top and left, in pixels, of the square crop of a resized image of a width and height; two numbers in [0, 1) pick
        it, and it is the centre without them."""
        spare_top, spare_left = size[1] - self.resolution, size[0] - self.resolution
        if at is None:
            return round(spare_top / 2), round(spare_left / 2)
        return int(at[0] * (spare_top + 1)), int(at[1] * (spare_left + 1))

    def seen_crop(self, original: tuple[int, int], box: tuple[int, int], flip: bool) -> tuple[int, int]:
        """Top and left of a [`crop_box`] as it is trained on: from the other side, if it was flipped. `original` is the
        height and width of the image before it was resized."""
        top, left = box
        width, _ = self.resized_size(original[1], original[0])
        return top, width - self.resolution - left if flip else left

    def to_tensor(self, image: Image.Image, top: int, left: int, flip: bool) -> torch.Tensor:
        """The crop of a resized RGB image that starts at (top, left), as float32 of shape (3, R, R) in [−1, 1]."""
        return self.to_unit_tensor(image, top, left, flip).sub_(0.5).div_(0.5)

    def to_unit_tensor(self, image: Image.Image, top: int, left: int, flip: bool = False) -> torch.Tensor:
        """The same in [0, 1], as a ControlNet sees control images."""
        pixels = np.asarray(image.crop((left, top, left + self.resolution, top + self.resolution)))
        if flip:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float().div_(255)


def control_crop(image: Image.Image, transform: ImageTransform) -> Image.Image:
    """A control image in RGB, its shorter side at the resolution, cropped in the centre.

    Transparency is ignored, as diffusers' script and its pipelines do: light lines on a transparent ground, which most
    programs save as black, stay light on dark, where on white they would be gone. So is a colour profile: a control
    image's numbers are depths, directions or classes, and the pipelines take them as they are.
    """
    resized = transform.resize(load_rgb(image, control=True))
    top, left = transform.crop_box(resized.size)
    return resized.crop((left, top, left + transform.resolution, top + transform.resolution))


def control_image(image: Image.Image, transform: ImageTransform) -> torch.Tensor:
    """A control image as a ControlNet sees it: [`control_crop`] as float32 of shape (3, R, R) in [0, 1]."""
    return transform.to_unit_tensor(control_crop(image, transform), 0, 0)
