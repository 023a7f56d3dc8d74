# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The check of images: each is decoded once before anything expensive happens."""

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import PIL
from PIL import Image
from tqdm.auto import tqdm

from ...io.atomic import write_bytes_atomic
from .column import ImageColumn
from .decode import READER_VERSION, UnreadableImage, orientation
from .profiles import can_convert, profile_note


logger = logging.getLogger(__name__)


def check_images(
    images: ImageColumn, controls: ImageColumn | None, index_dir: Path, verify: bool = False
) -> tuple[dict[int, str], dict[int, tuple[str, str]]]:
    """The rows whose images cannot be used, with the reason, and the other rows whose image has a [`profile_note`].

    An image is bad that cannot be decoded, or whose control image cannot be or has another shape. Which ones are good is
    remembered in `index_dir`, and they are not decoded again without `verify`. The others are, every time: the cause may be gone.
    Raises a [`PassingFailure`] if an image could not be decoded for a reason that is not in it.
    """
    key = images.key if controls is None else f"{images.key[:32]}{controls.key[:32]}"
    file = index_dir / "checked" / f"{key}.json"
    known = None if verify else read_check(file)
    rows, profiles = known or (list(range(len(images))), {})

    bad = {}
    with ThreadPoolExecutor() as threads:
        found = threads.map(partial(check_row, images, controls), rows)
        for row, (reason, profile) in zip(rows, tqdm(found, "Checking images", len(rows), delay=2), strict=True):
            if reason:
                bad[row] = reason
            elif profile:
                profiles[row] = profile
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
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # not there, or damaged
        return None


def reader() -> list:
    """What decides whether an image can be read, beside the image."""
    return [READER_VERSION, PIL.__version__, can_convert()]


def check_row(
    images: ImageColumn, controls: ImageColumn | None, row: int
) -> tuple[str | None, tuple[str, str] | None]:
    """Decodes the images of a row: why they cannot be used, or the [`profile_note`] of the image."""
    try:
        control = None if controls is None else partial(controls.__getitem__, row)
        return None, profile_note(load_images(partial(images.__getitem__, row), control)[0])
    except UnreadableImage as error:
        return error.reason, None


def load_images(image: Callable[[], Image.Image], control: Callable[[], Image.Image] | None) -> list[Image.Image]:
    """The image of a row, and its control image where there is one, from functions that decode them.

    Raises:
        UnreadableImage: One of them cannot be decoded, or they have different shapes.
    """
    loaded = [image()]
    if control is not None:
        try:
            loaded.append(control())
        except UnreadableImage as error:
            raise UnreadableImage(f"its conditioning image: {error.reason}") from None
        if reason := mismatch(*loaded):
            raise UnreadableImage(reason)
    return loaded


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
    longest = max(width, height, condition_width, condition_height)
    # Both are resized so that their shorter sides are equal; then their longer sides must be, to within a pixel.
    if abs(width * condition_height - height * condition_width) > longest:
        return f"it is {width} × {height} and its conditioning image {condition_width} × {condition_height}"
    return None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image once its EXIF orientation is applied."""
    return (image.height, image.width) if orientation(image) >= 5 else image.size
