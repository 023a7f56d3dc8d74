# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The check of images: each is decoded once before anything expensive happens."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import PIL
from PIL import Image
from tqdm.auto import tqdm

from ...io.atomic import write_bytes_atomic
from .column import ImageColumn
from .decode import READER_VERSION, UnreadableImage, orientation
from .formats import is_unread
from .profiles import can_convert, profile_note


logger = logging.getLogger(__name__)


class Finding(NamedTuple):
    """What the check of a row found.

    Attributes:
        bad (`str`, *optional*): Why its images cannot be used.
        profile (`tuple[str, str]`, *optional*): What its image's colour profile does; see [`profile_note`].
    """

    bad: str | None = None
    profile: tuple[str, str] | None = None


def check_images(
    images: ImageColumn, controls: ImageColumn | None, index_dir: Path, verify: bool = False
) -> tuple[dict[int, str], dict[int, tuple[str, str]]]:
    """The rows whose images cannot be used, with the reason, and the rows whose colour profile does something.

    An image that was once found good is not decoded again. One that was not is, every time: the cause may be gone.

    Args:
        images ([`ImageColumn`]): The images.
        controls ([`ImageColumn`], *optional*): The control image of each.
        index_dir (`Path`): Where it is remembered which images are good.
        verify (`bool`, *optional*, defaults to `False`): Decode all images again.

    Returns:
        `tuple`: Two dictionaries by row. An image is bad that cannot be decoded, or whose control image cannot be or has
        another shape.
    """
    key = images.key if controls is None else f"{images.key[:32]}{controls.key[:32]}"
    file = index_dir / "checked" / f"{key}.json"
    known = None if verify else read_check(file)
    rows, profiles = known or (list(range(len(images))), {})

    bad = {}
    with ThreadPoolExecutor() as threads:
        found = threads.map(partial(check_row, images, controls), rows)
        for row, finding in zip(rows, tqdm(found, "Checking images", len(rows), delay=2), strict=True):
            if finding.bad:
                bad[row] = finding.bad
            if finding.profile:
                profiles[row] = finding.profile
    if known is None or len(bad) < len(rows):
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"reader": reader(), "not_good": list(bad), "profiles": profiles}
        write_bytes_atomic(file, json.dumps(content).encode())
    return bad, profiles


def read_check(file: Path) -> tuple[list[int], dict[int, tuple[str, str]]] | None:
    """The rows that were not found good in an earlier check, and what profiles do in the others; `None` if there was none
    with this reader."""
    try:
        content = json.loads(file.read_text())
        if content["reader"] != reader():
            return None
        profiles = {int(row): (str(what), str(name)) for row, (what, name) in content["profiles"].items()}
        return [int(row) for row in content["not_good"]], profiles
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):  # not there, damaged, or of an earlier version
        return None


def reader() -> list:
    """What decides whether an image can be read, beside the image."""
    return [READER_VERSION, PIL.__version__, can_convert()]


def check_row(images: ImageColumn, controls: ImageColumn | None, row: int) -> Finding:
    """Decodes the images of a row.

    Raises:
        PassingFailure: For a reason that is not in the images, they could not be.
    """
    try:
        image = images[row]
    except UnreadableImage as error:
        return Finding(error.reason + way_out(images.stored(row)))
    profile = profile_note(image)
    if controls is None:
        return Finding(None, profile)
    try:
        return Finding(mismatch(image, controls[row]), profile)
    except UnreadableImage as error:
        return Finding(f"its conditioning image: {error.reason}{way_out(controls.stored(row))}", profile)


def way_out(stored: dict | None) -> str:
    """What to do with an image of a format that is not read, for the end of the reason why it is not."""
    path = stored["path"] if stored else None
    return f"; {Path(path).suffix.lower()} is not read, convert it to PNG or JPEG" if path and is_unread(path) else ""


def looked_for(images: ImageColumn, controls: ImageColumn | None, bad: dict[int, str]) -> str:
    """Where the first file that is not there was looked for, for the end of a sentence that lists such rows."""
    for row, reason in bad.items():
        column = controls if reason.startswith("its conditioning image") else images
        if "no such file" in reason and column is not None and (stored := column.stored(row)):
            return f"; {stored['path']}, for one, is not there"
    return ""


def tell_of_profiles(images: ImageColumn, profiles: dict[int, tuple[str, str]]) -> None:
    """Says how many images are converted to sRGB, and of how many the colour profile cannot be used."""
    for what, log, words in (
        ("converted", logger.info, "have a colour profile other than sRGB and are converted to sRGB"),
        ("ignored", logger.warning, "have a colour profile that cannot be used and is ignored"),
    ):
        notes = {row: name for row, (found, name) in profiles.items() if found == what}
        if notes:
            row = min(notes)
            log(f"{len(notes)} of {len(images)} images {words}: {images.name(row)} ({notes[row]}) for one.")


def mismatch(image: Image.Image, condition: Image.Image) -> str | None:
    """Says that a control image has another shape than the image it belongs to, if it has."""
    (width, height), (condition_width, condition_height) = upright_size(image), upright_size(condition)
    # Both are resized so that their shorter sides are equal; then their longer sides must be, to within a pixel.
    if abs(width * condition_height - height * condition_width) > max(
        width, height, condition_width, condition_height
    ):
        return f"it is {width} × {height} and its conditioning image {condition_width} × {condition_height}"
    return None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image once its EXIF orientation is applied."""
    return (image.height, image.width) if orientation(image) >= 5 else image.size
