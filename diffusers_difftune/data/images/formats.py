# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The formats of images that are read, by Pillow's names and by the suffixes of files."""

from pathlib import Path

from PIL import Image


# The one list of formats; it does not depend on what this Pillow was built with. Pillow opens more than these; PostScript,
# for one, it hands to Ghostscript, which runs what is in the file.
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
# Pictures of formats that no reader here knows.
UNREAD_SUFFIXES = frozenset(
    (".heic", ".heif", ".hif", ".jxl", ".psd", ".psb", ".svg", ".eps", ".exr", ".hdr", ".qoi", ".xcf", ".pdf", ".dng")
    + (".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".jxr", ".bpg", ".flif", ".ai", ".kra")
)


def is_image_file(path: str | Path) -> bool:
    """Whether a file's name ends as that of an image which is read, in upper or lower case."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def is_unread(path: str | Path) -> bool:
    """Whether a file's name ends as that of a picture of a format which is not read."""
    return Path(path).suffix.lower() in UNREAD_SUFFIXES


def may_be_image(path: str | Path) -> bool:
    """Whether a file's name ends as that of a picture of any format, read here or not, or does not say what it is."""
    suffix = Path(path).suffix.lower()
    return not suffix or suffix in UNREAD_SUFFIXES or suffix in Image.registered_extensions()


def known_formats() -> list[str]:
    """Those of `FORMATS` that this PIL was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]
