# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Images as PNG and tables as Parquet; equal ones have equal bytes."""

import io
from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from ..version import __version__


LIBRARIES = ("diffusers", "numpy", "opencv-python-headless", "pillow", "torch", "transformers")


def library_versions() -> dict[str, str]:
    """The versions of the libraries that extraction hangs on."""
    return {"diffusers-difftune": __version__, **{name: version(name) for name in LIBRARIES}}


def png_bytes(image: Image.Image) -> bytes:
    """An image as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def parquet_bytes(columns: dict[str, list]) -> bytes:
    """A table as a Parquet file that `datasets` opens with images as images.

    Args:
        columns (`dict[str, list]`): Of each column its values: numbers, strings, lists of strings, or files of images.

    Returns:
        `bytes`: The file. Nothing is compressed, because images are.
    """
    values, features = {}, {}
    for name, column in columns.items():
        values[name], features[name] = column, FEATURES[type(column[0])]
        if isinstance(column[0], bytes):
            values[name] = [{"bytes": content, "path": None} for content in column]
    sink = io.BytesIO()
    table = pa.table(values, schema=Features(features).arrow_schema)
    pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


FEATURES = {
    int: Value("int64"),
    str: Value("string"),
    list: List(Value("string")),
    bytes: ImageFeature(),
}
