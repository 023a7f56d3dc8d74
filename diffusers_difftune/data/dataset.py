# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The target data: images and captions, checked before anything expensive happens."""

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from filelock import FileLock
from PIL import Image

from ..config.checks import check_values
from ..errors import DiffTuneError
from ..io.atomic import write_bytes_atomic
from ..io.hashing import file_sha256
from .images.check import check_images, looked_for, tell_of_profiles
from .images.decode import NO_SUCH_FILE, PassingFailure, decode
from .plan import Slot
from .reading.labels import check_classes, read_labels
from .reading.sources import as_captions, difftune_cache_dir, named_text_column, open_source
from .reading.splits import TO_TRAIN
from .report import DataReport


if TYPE_CHECKING:
    from ..config import DataConfig


logger = logging.getLogger(__name__)

# How many rows an error message lists.
MOST_LISTED = 100
HASHES_OF_ROWS = "row_hashes"  # in this library's cache: those of images inside Parquet and Arrow files


class ImageColumn:
    """One image for each row of a data set, decoded when it is asked for.

    Args:
        dataset (`datasets.Dataset`): Has the column, undecoded.
        column (`str`): The column with the images.
        rows (`np.ndarray`): The rows of `dataset` in use.
        index_dir (`Path`): Where file hashes are remembered.
        verify (`bool`, *optional*, defaults to `False`): Hash every file again.
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
        """SHA-256 over the bytes of the images, in order; a file that was hashed before is not read again."""
        digest = hashlib.sha256()
        if (of_files := self._hash_of_files()) is not None:
            digest.update(of_files.encode())
            digest.update(self._column.encode() + np.asarray(self._rows, dtype="<i8").tobytes())
        else:
            digest.update("".join(self.hashes).encode())
        return digest.hexdigest()

    @cached_property
    def hashes(self) -> list[str]:
        """SHA-256 of the bytes of each image.

        A file that was hashed before is not read again, nor are images inside files whose images were hashed before.
        """
        of_files = self._hash_of_files()
        if of_files is None:
            batches = self._images.select(self._rows).iter(1000)
            return [self._hash(**(image or {})) for batch in batches for image in batch[self._column]]
        name = hashlib.sha256(f"{of_files} {self._column}".encode()).hexdigest()
        remembered = self._index_dir / HASHES_OF_ROWS / f"{name}.npy"
        try:
            every_row = np.load(remembered, mmap_mode="r")
            every_row = every_row.reshape(len(self._images), 32)
            os.utime(remembered)
        except (OSError, ValueError, EOFError):  # not there, or damaged
            column = pc.struct_field(self._images.data.column(self._column), "bytes")
            digests = b"".join(hashlib.sha256(value.as_buffer()).digest() for value in column)
            every_row = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)
            content = io.BytesIO()
            np.save(content, every_row)
            remembered.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(remembered, content.getvalue())
        return [every_row[row].tobytes().hex() for row in self._rows]

    def _hash_of_files(self) -> str | None:
        """The hashes of the Arrow files that all images are inside of; `None` if some are files of their own."""
        files = [file["filename"] for file in self._images.cache_files]
        bytes_column = pc.struct_field(self._images.data.column(self._column), "bytes")
        if not files or bytes_column.null_count or self._images._indices is not None:
            return None
        return "".join(file_sha256(file, self._index_dir, self._verify) for file in files)

    def stored(self, row: int) -> dict | None:
        """The image of a row as `datasets` stores it: `{"bytes": ..., "path": ...}`, or `None` where there is none."""
        return self._images[int(self._rows[row])][self._column]

    def _hash(self, bytes: bytes | None = None, path: str | None = None) -> str:
        if bytes is not None:
            return hashlib.sha256(bytes).hexdigest()
        try:
            return "no image" if path is None else file_sha256(path, self._index_dir, self._verify)
        except OSError as error:
            if error.errno not in NO_SUCH_FILE:
                raise PassingFailure(str(error.strerror or error), path) from None
            return "unreadable"  # the check of the images says so


class Example(NamedTuple):
    """A target row: functions that decode its images, and its captions.

    Attributes:
        image (`Callable`): Returns the image, of whatever mode and size it is.
        captions (`list[str]`): At least one.
        condition (`Callable`, *optional*): Returns the control image, where the data have some.
    """

    image: Callable[[], Image.Image]
    captions: list[str]
    condition: Callable[[], Image.Image] | None = None


class TargetData:
    """The rows to fine-tune on; [`load_target_data`] makes it.

    Args:
        images ([`ImageColumn`]): The images.
        captions (`list[list[str]]`): The captions of each row.
        index_dir (`Path`): Where file hashes, and what was learned about images, are remembered.
        conditions ([`ImageColumn`], *optional*): The control image of each row, for ControlNet training.
        class_names (`list[str]`, *optional*): The classes, if captions are the ids of these.
        report ([`DataReport`], *optional*): Where the rows come from, and what is left out.
    """

    def __init__(
        self,
        images: ImageColumn,
        captions: list[list[str]],
        index_dir: Path,
        conditions: ImageColumn | None = None,
        class_names: list[str] | None = None,
        report: DataReport | None = None,
    ) -> None:
        self.images = images
        self.report = report or DataReport()
        self.conditions = conditions
        self.class_names = class_names
        self._captions = captions
        self.index_dir = index_dir

    def __len__(self) -> int:
        return len(self._captions)

    def captions(self, row: int) -> list[str]:
        """The captions of a row, at least one."""
        return self._captions[row]

    def image(self, row: int) -> Image.Image:
        """The image of a row, decoded, of whatever mode and size it is."""
        return self.images[row]

    def name(self, row: int) -> str:
        """How messages call a row: its number in the data, from 0, and its image's file if it has one."""
        return self.images.name(row)

    def example(self, slot: Slot) -> Example:
        """The row in a slot of the batch plan."""
        condition = None if self.conditions is None else partial(self.conditions.__getitem__, slot.row)
        return Example(partial(self.image, slot.row), self._captions[slot.row], condition)

    def distinct_captions(self) -> list[str]:
        """All captions, each once, in the order of their first appearance."""
        return self._distinct_captions

    @cached_property
    def _distinct_captions(self) -> list[str]:  # asked for several times when a run begins
        return list(dict.fromkeys(caption for captions in self._captions for caption in captions))

    def select(self, rows: list[int]) -> "TargetData":
        """Some of the rows."""
        captions = [self._captions[row] for row in rows]
        conditions = None if self.conditions is None else self.conditions.select(rows)
        return TargetData(
            self.images.select(rows), captions, self.index_dir, conditions, self.class_names, self.report
        )

    @property
    def images_key(self) -> str:
        """SHA-256 over the bytes of the images, in order."""
        return self.images.key

    @cached_property
    def content_key(self) -> str:
        """SHA-256 over the bytes of the images, the captions, the control images and the names of classes, in order."""
        parts = [self.images_key, self._captions, *([] if self.conditions is None else [self.conditions.key])]
        parts += [] if self.class_names is None else [self.class_names]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load_target_data(
    config: "DataConfig", seed: int, cache_dir: str | Path | None = None, wanted: str = TO_TRAIN
) -> TargetData:
    """Opens the target data and checks every row of it; needs no weights.

    Images are decoded once to see that they can be; which of them can is remembered by their content, and the others are
    looked at again every time. Every process of a run calls this; one at a time looks at the data, and those after it find
    what the first one learned.

    Args:
        config ([`DataConfig`]): The flags.
        seed (`int`): Draws the rows of `--max_train_samples`, as diffusers' scripts do.
        cache_dir (`str` or `Path`, *optional*): As `--cache_dir`.
        wanted (`str`, *optional*, defaults to `TO_TRAIN`): Which split is read, as in [`open_source`].

    Returns:
        [`TargetData`]: The rows.

    Raises:
        DiffTuneError: A flag is out of range, the data cannot be opened, or rows lack a caption or a readable image.
    """
    check_values(config)
    index_dir = difftune_cache_dir(cache_dir)
    source = f"{config.dataset_name} {config.dataset_config_name} {config.train_data_dir}"
    try:
        index_dir.mkdir(parents=True, exist_ok=True)
        turn = FileLock(index_dir / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.lock").acquire()
    except OSError as error:
        raise DiffTuneError(f"--cache_dir: {index_dir} cannot be written to: {error.strerror}.") from None
    with turn:
        return read_target_data(config, seed, cache_dir, index_dir, wanted)


def read_target_data(
    config: "DataConfig", seed: int, cache_dir: str | Path | None, index_dir: Path, wanted: str
) -> TargetData:
    """[`load_target_data`] once it is this process's turn."""
    dataset, report = open_source(config, cache_dir, wanted=wanted)
    report.tell(logger)
    rows = np.arange(len(dataset))
    if config.max_train_samples is not None:
        if config.max_train_samples > len(dataset):
            raise DiffTuneError(
                f"--max_train_samples is {config.max_train_samples}, but the target data has {len(dataset)} rows; "
                "without the flag all rows are used."
            )
        shuffled = Dataset.from_dict({"row": rows}).shuffle(seed=seed)
        rows = np.array(shuffled[: config.max_train_samples]["row"], dtype=np.int64)
        if spare := len(dataset) - len(rows):
            report.left_out.append(f"{spare} of {len(dataset)} rows by --max_train_samples")
    if not len(rows):
        raise DiffTuneError("The target data has no rows; --dataset_name or --train_data_dir must name some.")

    text_flag, text_column = named_text_column(config)
    class_names = None
    if text_flag == "label_column":
        labels, class_names = read_labels(dataset.select_columns([text_column]), rows, text_column)
        if wanted == TO_TRAIN:
            check_classes(class_names, len(rows), len(dataset), text_column)
        captions = [[] if label is None else [str(label)] for label in labels]
    else:
        values = dataset.select_columns([text_column]).select(rows)[:][text_column]
        captions = [as_captions(value, text_column) for value in values]

    def column(name: str) -> ImageColumn:
        return ImageColumn(dataset, name, rows, index_dir, config.verify_cache)

    control_column = config.conditioning_image_column
    conditions = None if control_column is None else column(control_column)
    target = TargetData(column(config.image_column), captions, index_dir, conditions, class_names, report)

    bad, profiles = check_images(target, config.verify_cache)
    unusable = "read" if conditions is None else "used"
    reasons = [f"{target.name(row)} ({reason})" for row, reason in bad.items()]
    if bad and not config.skip_bad_images:
        raise DiffTuneError(
            f"{len(bad)} of {len(target)} images of the target data cannot be {unusable}: {listed(reasons)}; "
            f"repair or remove them, or leave them out with --skip_bad_images{looked_for(target, bad)}."
        )
    tell_of_profiles(target, {row: note for row, note in profiles.items() if row not in bad})
    if bad:
        logger.warning(
            f"{len(bad)} of {len(target)} images cannot be {unusable} and are left out (--skip_bad_images)."
        )
        noun = "image" if len(bad) == 1 else "images"
        phrase = f"{len(bad)} {noun} that cannot be {unusable} (--skip_bad_images), {reasons[0]} for one"
        target.report.left_out.append(phrase)
        target = target.select([row for row in range(len(target)) if row not in bad])
        if not len(target):
            raise DiffTuneError("--skip_bad_images leaves no rows: not one image of the target data can be read.")

    blank = [row for row in range(len(target)) if not has_captions(target.captions(row))]
    if blank:
        raise DiffTuneError(
            f"--{text_flag}: {len(blank)} of {len(target)} rows have an empty {text_flag.split('_')[0]} or none in the column "
            f"{text_column}: {listed([target.name(row) for row in blank])}; every row needs one."
        )
    return target


def has_captions(captions: list[str]) -> bool:
    """Whether there are captions and none of them is empty."""
    return bool(captions) and all(caption and not caption.isspace() for caption in captions)


def listed(names: list[str]) -> str:
    """The names, with commas; of very many the first ones."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more
