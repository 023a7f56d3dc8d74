# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Images of more than 8 bits a sample, and of other unusual samples, as images of 8 bits.

What is black and what is white is what the format and the header of a file say, never what its values happen to be: the
same number is the same grey in every image. An image whose values do not fit what the file says is not read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image


WHITE_16 = 65535
# An image that says it has 16 bits and uses no more than a quarter of them holds 8, 10, 12 or 14 bits, or millimetres:
# it would be black, or nearly.
SMALLEST_WHITE = 1 / 4
# Tags of TIFF files. TIFF has others for the lowest and highest value, which by its specification are statistics only.
BITS, PHOTOMETRIC, SAMPLE_FORMAT, LOWEST_SAMPLE, HIGHEST_SAMPLE = 258, 262, 339, 340, 341
UNSIGNED, SIGNED = 1, 2
WHITE_IS_ZERO = 0
# Pillow scales grey of 2 and 4 bits to 8, but not the grey that is transparent in it.
PNG_GREYS = {"L;2": 3, "L;4": 15}


class Refused(ValueError):
    """An image that is not read, with the reason as the words that follow "The image … cannot be read: "."""


def reads_upper_bytes(image: Image.Image) -> bool:
    """Whether Pillow, when it decodes this image, will keep the upper 8 bits of each 16; to be asked before it does.

    Raises:
        Refused: It would mistake them for 8 bits.
    """
    if has_many_bits(image):
        return False
    if image.format == "TIFF":
        if first(tiff_tags(image).get(BITS)) != 16:
            return False
        if any(tile[0] == "raw" and ";16" not in str(tile[3][0]) for tile in image.tile):
            raise Refused(
                f"16-bit {image.mode} stored plane by plane without compression, which Pillow takes for 8-bit; save it with"
                " its samples pixel by pixel"
            )
        return True
    return any(has_16_bits(image.format, tile[0], tile[3]) for tile in image.tile)


def has_16_bits(file_format: str | None, decoder: str, args: Any) -> bool:
    """Whether the samples of a part of a file have 16 bits, from how Pillow is going to decode it."""
    parts = args if isinstance(args, tuple) else (args,)
    if file_format == "SGI":
        return decoder == "SGI16" or (decoder == "sgi_rle" and parts[-1] == 2)
    if file_format == "PPM":
        return len(parts) > 1 and isinstance(parts[1], int) and parts[1] > 255
    return file_format == "PNG" and ";16" in str(parts[0])


def has_many_bits(image: Image.Image) -> bool:
    """Whether Pillow keeps more than 8 bits of each sample."""
    return image.mode == "F" or image.mode.startswith("I")


def check_upper_bytes(image: Image.Image) -> None:
    """Raises [`Refused`] if an image of 16 bits, of which Pillow kept the upper 8, uses a small part of its range."""
    lows, highs = zip(*extrema(image))
    if max(highs) < 256 * SMALLEST_WHITE:
        raise Refused(
            f"16-bit {image.mode} with no value above {256 * max(highs) + 255}, where {WHITE_16} is white; it would be"
            " black or nearly so, so scale its values to the whole range or save it with 8 bits"
        )


def extrema(image: Image.Image) -> Sequence[tuple[int, int]]:
    found = image.getextrema()
    return found if isinstance(found[0], tuple) else (found,)


def scale_png_transparency(image: Image.Image, raw_mode: Any) -> None:
    """Brings the colour that is transparent in a PNG file to the scale that Pillow brought the pixels to."""
    key = image.info.get("transparency")
    if raw_mode in PNG_GREYS and isinstance(key, int) and key <= PNG_GREYS[raw_mode]:
        image.info["transparency"] = key * 255 // PNG_GREYS[raw_mode]
    elif raw_mode == "RGB;16B" and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)


def to_8_bits(image: Image.Image) -> Image.Image:
    """An image of more than 8 bits a sample as grey of 8 bits, with its transparency; any other image as it is.

    Unsigned integers of N bits go from 0, black, to 2^N − 1, white (32 bits as 16), and floating-point numbers from 0
    to 1, unless the tags SMinSampleValue and SMaxSampleValue of a TIFF file say otherwise.

    Raises:
        Refused: The values are outside of their range, use a quarter of it at most, or have none.
    """
    tags = tiff_tags(image)
    declared = first(tags.get(LOWEST_SAMPLE)), first(tags.get(HIGHEST_SAMPLE))
    signed = first(tags.get(SAMPLE_FORMAT)) == SIGNED
    bits = first(tags.get(BITS)) or (32 if image.mode == "F" else 16)
    if not has_many_bits(image):
        if signed and image.mode == "L":
            raise Refused(
                f"signed {bits}-bit integers (mode L), of which nothing says which is black; save it as unsigned"
            )
        return image

    values = np.asarray(image)
    if None not in declared and declared[0] < declared[1]:
        black, white, by_tags = *declared, True
    else:
        black, white, by_tags = 0, 1 if image.mode == "F" else 2 ** min(bits, 16) - 1, False
    check_range(image.mode, values, black, white, by_tags, signed and bits < 32, bits)

    if by_tags or image.mode == "F":
        scaled = (values.astype(np.float64) - black) * (255 / (white - black))
        grey = scaled.round().clip(0, 255).astype(np.uint8)
    else:
        grey = (values.astype(np.int64) >> (white.bit_length() - 8)).astype(np.uint8)
    if first(tags.get(PHOTOMETRIC)) == WHITE_IS_ZERO:
        grey = 255 - grey
    result = Image.fromarray(grey)
    key = image.info.get("transparency")
    if isinstance(key, int):
        result.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    result.info.update({name: value for name, value in image.info.items() if name != "transparency"})
    return result


def check_range(
    mode: str, values: np.ndarray, black: float, white: float, by_tags: bool, signed: bool, bits: int
) -> None:
    """Raises [`Refused`] if values are not from black to white, or leave most of that unused."""
    kind = f"{bits}-bit floating point (mode F)" if mode == "F" else f"{bits}-bit integers (mode {mode})"
    if mode == "F" and not np.isfinite(values).all():
        some = values[np.isfinite(values)]
        rest = f" among values from {some.min():g} to {some.max():g}" if len(some) else ""
        count = values.size - len(some)
        raise Refused(
            f"{kind} with {count} values that are no finite numbers{rest}; give every pixel a value from 0 to 1"
        )
    lowest, highest = values.min().item(), values.max().item()
    number = "{:g}".format if mode == "F" else str
    found = f"{kind} with values from {number(lowest)} to {number(highest)}"
    if signed and not by_tags:
        raise Refused(f"signed {found}, of which nothing says which is black and which is white; save it as unsigned")
    half_step = (white - black) / 510 if mode == "F" else 0  # rounds to black, or to white
    if lowest < black - half_step or highest > white + half_step:
        raise Refused(f"{found}, where {black:g} is black and {white:g} is white; scale them to that range")
    if not by_tags and 0 < highest <= white * SMALLEST_WHITE:
        raise Refused(
            f"{found}, where {white:g} is white; it would be black or nearly so, so scale its values to the whole range or"
            " save it with 8 bits"
        )


def tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF file; of another image none."""
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


def first(value: Any) -> Any:
    """The first of the values of a tag, which may be one or several."""
    return value[0] if isinstance(value, tuple) and value else value
