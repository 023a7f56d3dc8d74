# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The images of a data set, decoded when they are asked for and known by the hashes of their bytes."""

import hashlib
import io
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from PIL import Image

from ...io.atomic import write_bytes_atomic
from ...io.hashing import file_sha256
from .decode import NO_SUCH_FILE, PassingFailure, decode


HASHES_OF_ROWS = "row_hashes"  # in this library's cache: those of images inside Parquet and Arrow files


class ImageColumn:
    """One image for each row in use of a data set, decoded when it is asked for.

    Hashes of files are remembered in `index_dir`; with `verify`, every file is hashed again.
    """

    def __init__(self, dataset: Dataset, column: str, rows: np.ndarray, index_dir: Path, verify: bool = False) -> None:
        self._images = dataset.select_columns([column])
        self._column = column
        self._rows = rows
        self._index_dir = index_dir
        self._verify = verify

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Image.Image:
        """The image of a row, of whatever mode and size it is."""
        return decode(self.stored(row))

    def stored(self, row: int) -> dict | None:
        """The image of a row as `datasets` stores it: `{"bytes": ..., "path": ...}`, or `None` where there is none."""
        return self._images[int(self._rows[row])][self._column]

    def name(self, row: int) -> str:
        """How messages call a row: its number in the data, from 0, and its image's file if it has one."""
        stored = self.stored(row)
        file = f" {Path(stored['path']).name}" if stored and stored["path"] else ""
        return f"row {self._rows[row]}{file}"

    def select(self, rows: list[int]) -> "ImageColumn":
        """Some of the rows."""
        return ImageColumn(self._images, self._column, self._rows[rows], self._index_dir, self._verify)

    @cached_property
    def key(self) -> str:
        """SHA-256 over the bytes of the images, in order."""
        return hashlib.sha256("".join(self.hashes).encode()).hexdigest()

    @cached_property
    def hashes(self) -> list[str]:
        """SHA-256 of the bytes of each image.

        A file that was hashed before is not read again, nor are images inside files whose images were hashed before.
        """
        files = [file["filename"] for file in self._images.cache_files]
        inside = pc.struct_field(self._images.data.column(self._column), "bytes")
        if not files or inside.null_count or self._images._indices is not None:  # some are files of their own
            batches = self._images.select(self._rows).iter(1000)
            return [self._hash(**(image or {})) for batch in batches for image in batch[self._column]]
        of_files = "".join(file_sha256(file, self._index_dir, self._verify) for file in files)
        name = hashlib.sha256(f"{of_files} {self._column}".encode()).hexdigest()
        remembered = self._index_dir / HASHES_OF_ROWS / f"{name}.npy"
        try:
            every_row = np.load(remembered, mmap_mode="r").reshape(len(self._images), 32)
        except (OSError, ValueError, EOFError):  # not there, or damaged
            digests = b"".join(hashlib.sha256(value.as_buffer()).digest() for value in inside)
            every_row = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)
            content = io.BytesIO()
            np.save(content, every_row)
            remembered.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(remembered, content.getvalue())
        return [every_row[row].tobytes().hex() for row in self._rows]

    def _hash(self, bytes: bytes | None = None, path: str | None = None) -> str:
        if bytes is not None:
            return hashlib.sha256(bytes).hexdigest()
        try:
            return "no image" if path is None else file_sha256(path, self._index_dir, self._verify)
        except OSError as error:
            if error.errno not in NO_SUCH_FILE:
                raise PassingFailure(str(error.strerror or error), path) from None
            return "unreadable"  # the check of the images says so
