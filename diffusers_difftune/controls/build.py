# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Data for ControlNet training from any target data: images, captions, and control images extracted from them."""

from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
from accelerate import Accelerator
from PIL import ExifTags, Image

from ..bank.preview import grid_png
from ..data.dataset import TargetData
from ..data.images.decode import ImageTransform, load_rgb
from ..data.images.profiles import profile_note
from ..errors import DiffTuneError
from ..io.shards import build_shards
from .extractor import Extractor
from .manifest import ConditionManifest
from .write import library_versions, png_bytes, table_bytes


def build_conditions(
    target: TargetData,
    folder: str | Path,
    extractor: Extractor,
    *,
    resolution: int | None = None,
    batch_size: int = 16,
    shard_size: int = 256,
    accelerator: Accelerator | None = None,
    progress: bool = True,
) -> ConditionManifest:
    """Builds a data set that `--train_data_dir` of the ControlNet script takes as it is.

    It is a folder of Parquet files in `data/` with the columns `image`, `text` and `conditioning_image`, which
    `datasets` opens, too; `preview.png` shows some of them. An image that is plain RGB keeps its file; one that is not becomes a
    PNG file of what training would see of it: upright, 8 bits a channel, in sRGB, transparency on white. A caption is a string,
    or a list of strings if any row has several.

    A resolution resizes and crops images to squares first, as ControlNet training does, so that lines and edges have the width that
    they will have in training. A folder that was begun is gone on with; see [`build_shards`].

    Raises:
        DiffTuneError: A number is out of range, or the folder holds something else, such as control images of other
            settings.
    """
    for name, value in (("resolution", resolution), ("batch_size", batch_size), ("shard_size", shard_size)):
        if value is not None and value < 1:
            raise DiffTuneError(f"--{name} is {value}; it must be at least 1.")
    manifest = ConditionManifest(
        extractor=extractor.settings,
        source={
            "the hash of the images and captions": target.content_key,
            "--resolution": resolution,
            "--batch_size": batch_size,
        },
        num_rows=len(target),
        shard_size=shard_size,
        libraries=library_versions(),
    )
    transform = None if resolution is None else ImageTransform(resolution, "bilinear")
    path = Path(folder)
    several = any(len(target.captions(row)) > 1 for row in range(len(target)))

    def make_shard(rows: range) -> bytes:
        images, controls = [], []
        for start in range(rows.start, rows.stop, batch_size):
            batch = [opened(target, row, transform) for row in rows[start - rows.start :][:batch_size]]
            images += [file for file, _ in batch]
            controls += [png_bytes(control) for control in extractor([image for _, image in batch])]
        captions = [target.captions(row) if several else target.captions(row)[0] for row in rows]
        return table_bytes({"image": images, "text": captions, "conditioning_image": controls})

    def finish(begun: ConditionManifest) -> dict[str, bytes]:
        """A picture of the first images, each with its control image beside it."""
        rows = pq.read_table(path / begun.place / begun.shard_name(0)).slice(0, 8).to_pylist()
        files = [row[column]["bytes"] for row in rows for column in ("image", "conditioning_image")]
        return {"preview.png": grid_png([load_rgb(Image.open(BytesIO(file))) for file in files])}

    return build_shards(path, manifest, make_shard, accelerator=accelerator, progress=progress, finish=finish)


def opened(target: TargetData, row: int, transform: ImageTransform | None) -> tuple[bytes, Image.Image]:
    """The image of a row as a file to store, and in RGB to extract from."""
    image = target.image(row)
    if transform is not None:
        resized = transform.resize(load_rgb(image))
        top, left = transform.crop_box(resized.size)
        image = resized.crop((left, top, left + transform.resolution, top + transform.resolution))
        return png_bytes(image), image
    plain = image.mode == "RGB" and not image.has_transparency_data and profile_note(image) is None
    as_stored = image.format is not None  # it would be lost if decoding had converted the image
    if plain and as_stored and image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        stored = target.images.stored(row) or {}
        if stored.get("bytes") is not None:
            return stored["bytes"], load_rgb(image)
        if "://" not in stored["path"]:
            return Path(stored["path"]).read_bytes(), load_rgb(image)
    image = load_rgb(image)
    return png_bytes(image), image
