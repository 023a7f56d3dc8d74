# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Images as PNG and tables as Parquet; equal ones have equal bytes."""

import io
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import pyarrow as pa
from datasets import Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from ..io.shards import parquet_bytes
from ..version import __version__


LIBRARIES = ("diffusers", "numpy", "opencv-python-headless", "pillow", "torch", "transformers")


def library_versions() -> dict[str, str]:
    """The versions of the libraries that extraction hangs on."""
    versions = {"diffusers-difftune": __version__}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # OpenCV, where no extractor needs it
            versions[name] = version(name)
    return versions


def png_bytes(image: Image.Image) -> bytes:
    """An image as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def table_bytes(columns: dict[str, list]) -> bytes:
    """A table of numbers, strings, lists of strings, or files of images as a Parquet file that `datasets` opens with images as
    images."""
    kinds = {int: Value("int64"), str: Value("string"), list: List(Value("string")), bytes: ImageFeature()}
    values, features = {}, {}
    for name, column in columns.items():
        values[name], features[name] = column, kinds[type(column[0])]
        if isinstance(column[0], bytes):
            values[name] = [{"bytes": content, "path": None} for content in column]
    return parquet_bytes(pa.table(values, schema=Features(features).arrow_schema))
