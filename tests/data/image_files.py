# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Image files and colour profiles written byte by byte, of kinds that Pillow reads and does not write."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(samples: np.ndarray, bits: int, transparent: Sequence[int] = ()) -> bytes:
    """A PNG file of samples of shape (H, W), or (H, W, channels), with the colour that is transparent in it."""
    height, width, *channels = samples.shape
    kind = {(): 0, (2,): 4, (3,): 2, (4,): 6}[tuple(channels)]
    rows = b"".join(b"\0" + packed(row, bits, ">") for row in samples)
    key = struct.pack(f">{len(transparent)}H", *transparent)
    return png_of(width, height, bits, kind, rows, key)


def png_of(width: int, height: int, bits: int, kind: int, rows: bytes, transparent: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    key = chunk(b"tRNS", transparent) if transparent else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def tiff(
    samples: np.ndarray,
    bits: int | None = None,
    order: str = "<",
    white_is_zero: bool = False,
    by_planes: bool = False,
    photometric: int | None = None,
) -> bytes:
    """An uncompressed TIFF file of one strip, of samples of shape (H, W) or (H, W, channels) and of any type."""
    height, width, *channels = samples.shape
    count = channels[0] if channels else 1
    bits = bits or 8 * samples.itemsize
    if by_planes:
        content = b"".join(packed(plane.reshape(-1), bits, order) for plane in np.moveaxis(samples, -1, 0))
    else:
        content = b"".join(packed(row.reshape(-1), bits, order) for row in samples)
    photometric = photometric if photometric is not None else 2 if count >= 3 else 0 if white_is_zero else 1
    tags = {
        256: [width],
        257: [height],
        258: [bits] * count,
        259: [1],
        262: [photometric],
        273: [8] if not by_planes else [8 + len(content) // count * plane for plane in range(count)],
        277: [count],
        278: [height],
        279: [len(content)] if not by_planes else [len(content) // count] * count,
        284: [2 if by_planes else 1],
        339: [{"u": 1, "i": 2, "f": 3}[samples.dtype.kind]] * count,
    }
    start = 8 + len(content)
    beyond, entries = start + 2 + 12 * len(tags) + 4, []
    extra = b""
    for tag, values in tags.items():
        value = struct.pack(f"{order}{len(values)}I", *values)
        if len(value) > 4:
            value, extra = struct.pack(f"{order}I", beyond + len(extra)), extra + value
        entries.append(struct.pack(f"{order}HHI", tag, 4, len(values)) + value)
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    return magic + content + struct.pack(f"{order}H", len(tags)) + b"".join(entries) + bytes(4) + extra


def packed(samples: np.ndarray, bits: int, order: str) -> bytes:
    """Samples in a row, the first one in the highest bits where several share a byte."""
    if bits in (1, 2, 4, 12):
        digits = "".join(f"{value:0{bits}b}" for value in samples.reshape(-1).tolist())
        digits += "0" * (-len(digits) % 8)
        return int(digits, 2).to_bytes(len(digits) // 8, "big")
    return samples.astype(samples.dtype.newbyteorder(order)).tobytes()


def profile(space: str, tags: dict[str, bytes], connection: str = "XYZ ", name: str = "Test") -> bytes:
    """An ICC profile of version 2."""
    text = name.encode() + b"\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(8 + 3 + 67)
    tags = {"desc": described, "cprt": b"text" + bytes(4) + b"none\0", "wtpt": xyz(0.9642, 1, 0.8249), **tags}
    table, content, at = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        value += bytes(-len(value) % 4)
        table += tag.encode() + struct.pack(">II", at + len(content), len(value))
        content += value
    head = struct.pack(
        ">I4sI4s4s4s", at + len(content), bytes(4), 0x02400000, b"mntr", space.encode(), connection.encode()
    )
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + xyz(0.9642, 1, 0.8249)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def curve(*values: float) -> bytes:
    """A tone curve: one number is a gamma, several are its values."""
    numbers = [round(values[0] * 256)] if len(values) == 1 else [round(value * 65535) for value in values]
    return b"curv" + bytes(4) + struct.pack(f">I{len(numbers)}H", len(numbers), *numbers)


def rgb_profile(red: tuple, green: tuple, blue: tuple, tone: bytes, name: str = "Test") -> bytes:
    primaries = {"rXYZ": xyz(*red), "gXYZ": xyz(*green), "bXYZ": xyz(*blue)}
    return profile("RGB ", {**primaries, "rTRC": tone, "gTRC": tone, "bTRC": tone}, name=name)


ADOBE_PRIMARIES = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB_PRIMARIES = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
ADOBE_RGB = rgb_profile(*ADOBE_PRIMARIES, curve(563 / 256), "Adobe RGB (1998)")


def grey_profile(gamma: float) -> bytes:
    return profile("GRAY", {"kTRC": curve(gamma)}, name="Grey")


def cmyk_profile() -> bytes:
    """A press whose cyan ink is a middle grey, L* = 50, and whose other inks are black."""
    ramp = bytes(range(256))
    grid = bytearray()
    for ink in range(16):  # cyan is the slowest
        lightness = 255 if ink == 0 else 128 if ink == 8 else 0
        grid += bytes([lightness, 128, 128])
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + 4 * ramp + bytes(grid) + 3 * ramp
    return profile("CMYK", {"A2B0": table}, connection="Lab ", name="Press")
