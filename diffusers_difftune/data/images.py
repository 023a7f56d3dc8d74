# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""From an image as it was found to a square tensor, the way torchvision's transforms do it, with PIL and numpy."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets.utils.file_utils import xopen
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import DiffTuneError, first_sentence


# torchvision hands PIL its NEAREST filter for nearest_exact too
PIL_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
    "nearest_exact": Image.Resampling.NEAREST,
}

# The formats that are read, by Pillow's names, with the suffixes that their files go by: the one list of both, which does
# not depend on what this Pillow was built with. Pillow opens more than these; PostScript, for one, it hands to
# Ghostscript, which runs what is in the file.
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "ICO": (".ico",),
    "MPO": (".mpo",),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "DDS": (".dds",),
    "PCX": (".pcx",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "AVIF": (".avif", ".avifs"),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
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
    """An image that cannot be decoded, with the `reason` in a few words."""

    def __init__(self, reason: str, path: str | None = None) -> None:
        self.reason = reason.rstrip(". \n")
        super().__init__(f"The image {path or 'of a row'} cannot be read: {self.reason}.")


def decode(stored: dict | None) -> Image.Image:
    """Decodes an image as `datasets` stores it: `{"bytes": ..., "path": ...}`, either of which may be `None`.

    Of an animation it is the first frame.

    Raises:
        UnreadableImage: There is no image, or it is damaged, too large, or so long and narrow that resizing it would
            make it so.
    """
    content, path = (stored["bytes"], stored["path"]) if stored else (None, None)
    if content is None and path is None:
        raise UnreadableImage("no image")
    try:
        if content is None and "://" in path:  # a stream from elsewhere
            with xopen(path, "rb") as file:
                content = file.read()
        image = Image.open(path if content is None else io.BytesIO(content), formats=known_formats())
        width, height = image.size
        if max(width, height) > MOST_ELONGATED * min(width, height):
            raise UnreadableImage(f"{width} × {height} is more than {MOST_ELONGATED} times as long as wide", path)
        image.load()
        orientation(image)  # which may be damaged, too
    except FileNotFoundError:
        raise UnreadableImage("no such file", path) from None
    except UnidentifiedImageError:
        raise UnreadableImage("not an image", path) from None
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"too large: {first_sentence(error)}", path) from None
    except UnreadableImage:
        raise
    except Exception as error:  # decoders raise whatever they like at damaged files
        raise UnreadableImage(f"damaged: {first_sentence(error)}", path) from None
    return image


def is_image_file(path: str | Path) -> bool:
    """Whether a file's name ends as that of an image which is read, in upper or lower case."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def known_formats() -> list[str]:
    """Those of `FORMATS` that this PIL was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 is upright."""
    found = image.getexif().get(ExifTags.Base.Orientation)
    return found if found in UPRIGHT else 1


def load_rgb(image: Image.Image, drop_alpha: bool = False) -> Image.Image:
    """An image of any mode as 8-bit RGB, upright, transparency on white.

    Args:
        image (`PIL.Image.Image`):
            Of any mode: palette, grey, 16 bit, CMYK, with or without transparency or EXIF orientation.
        drop_alpha (`bool`, *optional*, defaults to `False`): Ignore transparency: every pixel keeps its own colour.

    Returns:
        `PIL.Image.Image`: The image in mode RGB.
    """
    if (turned := orientation(image)) in UPRIGHT:
        image = image.transpose(UPRIGHT[turned])
    if image.mode.startswith("I"):  # 16 bit; PIL's own conversion cuts at 255 instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data and not drop_alpha:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@dataclass(frozen=True)
class ImageTransform:
    """Resize, crop, flip and scaling to [−1, 1], with torchvision's sizes and roundings.

    Args:
        resolution (`int`): The side of the square result, in pixels.
        interpolation (`str`, *optional*, defaults to `"lanczos"`): A name in `PIL_FILTERS`.
    """

    resolution: int
    interpolation: str = "lanczos"

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) after resizing: the shorter side is `resolution`."""
        long_side = int(self.resolution * max(width, height) / min(width, height))
        return (self.resolution, long_side) if width <= height else (long_side, self.resolution)

    def resize(self, image: Image.Image) -> Image.Image:
        """The image with its shorter side at `resolution`."""
        size = self.resized_size(*image.size)
        return image if size == image.size else image.resize(size, PIL_FILTERS[self.interpolation])

    def crop_box(self, size: tuple[int, int], at: tuple[float, float] | None = None) -> tuple[int, int]:
        """Where the square crop of a resized image starts.

        Args:
            size (`tuple[int, int]`): Width and height of the resized image.
            at (`tuple[float, float]`, *optional*): Two numbers in [0, 1) that pick the crop; `None` is the centre.

        Returns:
            `tuple[int, int]`: Top and left, in pixels.
        """
        spare_top, spare_left = size[1] - self.resolution, size[0] - self.resolution
        if at is None:
            return round(spare_top / 2), round(spare_left / 2)
        return int(at[0] * (spare_top + 1)), int(at[1] * (spare_left + 1))

    def to_tensor(self, image: Image.Image, top: int, left: int, flip: bool) -> torch.Tensor:
        """The crop of a resized RGB image that starts at (top, left), as float32 of shape (3, R, R) in [−1, 1]."""
        return self.to_unit_tensor(image, top, left, flip).sub_(0.5).div_(0.5)

    def to_unit_tensor(self, image: Image.Image, top: int, left: int, flip: bool = False) -> torch.Tensor:
        """The same in [0, 1], as a ControlNet sees control images."""
        pixels = np.asarray(image.crop((left, top, left + self.resolution, top + self.resolution)))
        if flip:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float().div_(255)
