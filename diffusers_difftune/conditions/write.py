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
