# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The target data: images and captions, checked before anything expensive happens."""

import hashlib
import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from filelock import FileLock
from PIL import Image

from .. import errors
from ..config import DataConfig
from ..config.checks import check_values
from ..errors import DiffTuneError
from .cache.place import difftune_cache_dir
from .images.check import check_images, looked_for, tell_of_profiles
from .images.column import ImageColumn
from .plan import Slot
from .reading.labels import check_classes, read_labels
from .reading.opening import open_source
from .report import DataReport
from .source import TO_TRAIN, Columns, Source, as_captions


# How many rows an error message lists.
MOST_LISTED = 100


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

    @cached_property
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
    config: DataConfig,
    seed: int,
    cache_dir: str | Path | None = None,
    wanted: str = TO_TRAIN,
    flag: str | None = None,
) -> TargetData:
    """Opens the target data and checks every row of it; needs no weights.

    Images are decoded once to see that they can be; which of them can is remembered by their content, and the others are
    looked at again every time. Every process of a run calls this; one at a time looks at the data, and those after it find
    what the first one learned.

    Args:
        config ([`DataConfig`]): The flags.
        seed (`int`): Draws the rows of `--max_train_samples`, as diffusers' scripts do.
        cache_dir (`str` or `Path`, *optional*): As `--cache_dir`.
        wanted (`str`, *optional*, defaults to `TO_TRAIN`): Which split is read, as in [`Source`].
        flag (`str`, *optional*): What the user named the data with, for messages. Default: the flag of the config that did.

    Returns:
        [`TargetData`]: The rows. What is not read is in their `report`, and not told here.

    Raises:
        DiffTuneError: A flag is out of range, the data cannot be opened, or rows lack a caption or a readable image.
    """
    check_values(config)
    source, index_dir = Source.of(config, cache_dir, wanted=wanted, flag=flag), difftune_cache_dir(cache_dir)
    name = f"{config.dataset_name} {config.dataset_config_name} {config.train_data_dir}"
    try:
        index_dir.mkdir(parents=True, exist_ok=True)
        turn = FileLock(index_dir / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock").acquire()
    except OSError as error:
        raise DiffTuneError(f"{index_dir} cannot be written to: {error.strerror}.", "--cache_dir") from None
    with turn, errors.flag(source.flag):
        dataset, report = open_source(source)
        rows = drawn_rows(len(dataset), config.max_train_samples, seed, report)
        if not len(rows):
            raise DiffTuneError("There are no rows.")
        with errors.flag(source.columns.text_flag):
            captions, class_names = read_texts(dataset, rows, source.columns, learns=wanted == TO_TRAIN)

        def column(name: str) -> ImageColumn:
            return ImageColumn(dataset, name, rows, index_dir, config.verify_cache)

        conditions = None if source.columns.control is None else column(source.columns.control)
        target = TargetData(column(source.columns.image), captions, index_dir, conditions, class_names, report)
        target = without_bad_images(target, config.skip_bad_images, config.verify_cache)
        with errors.flag(source.columns.text_flag):
            refuse_blank(target, source.columns)
        return target


def drawn_rows(count: int, most: int | None, seed: int, report: DataReport) -> np.ndarray:
    """The rows in use: all, or as many as `--max_train_samples` says."""
    rows = np.arange(count)
    if most is None:
        return rows
    if most > count:
        raise DiffTuneError(
            f"--max_train_samples is {most}, but the target data has {count} rows; without the flag all rows are used."
        )
    if most < count:
        report.left_out.append(f"{count - most} of {count} rows by --max_train_samples")
    shuffled = Dataset.from_dict({"row": rows}).shuffle(seed=seed)
    return np.array(shuffled[:most]["row"], dtype=np.int64)


def read_texts(
    dataset: Dataset, rows: np.ndarray, columns: Columns, learns: bool
) -> tuple[list[list[str]], list[str] | None]:
    """The captions of some rows; or, where there are labels, the ids of their classes and the names of these.

    Raises:
        DiffTuneError: Captions or labels are of a wrong type, or a model cannot learn the classes.
    """
    texts = dataset.select_columns([columns.text])
    if not columns.has_labels:
        return [as_captions(value, columns.text) for value in texts.select(rows)[:][columns.text]], None
    labels, class_names = read_labels(texts, rows, columns.text)
    if learns:
        check_classes(class_names, len(rows), len(dataset), columns.text)
    return [[] if label is None else [str(label)] for label in labels], class_names


def without_bad_images(target: TargetData, skip: bool, verify: bool) -> TargetData:
    """The rows whose images can be used.

    Args:
        target ([`TargetData`]): All rows.
        skip (`bool`): Leave the others out.
        verify (`bool`): Decode images again that were found good before.

    Raises:
        DiffTuneError: Images cannot be used, and none are to be left out, or no rows are left.
    """
    images, conditions, report = target.images, target.conditions, target.report
    bad, profiles = check_images(images, conditions, target.index_dir, verify)
    unusable = "read" if conditions is None else "used"
    reasons = [f"{target.name(row)} ({reason})" for row, reason in bad.items()]
    if bad and not skip:
        raise DiffTuneError(
            f"{len(bad)} of {len(target)} images cannot be {unusable}: {listed(reasons)}; repair or remove them, or leave"
            f" them out with --skip_bad_images{looked_for(images, conditions, bad)}."
        )
    tell_of_profiles(images, {row: note for row, note in profiles.items() if row not in bad})
    if not bad:
        return target
    similar = f"; {errors.clause(report.similar)}" if report.similar else ""
    noun = "image" if len(bad) == 1 else "images"
    report.left_out.append(
        f"{len(bad)} {noun} that cannot be {unusable} (--skip_bad_images), {reasons[0]} for one{similar}"
    )
    if len(bad) == len(target):
        raise DiffTuneError("--skip_bad_images leaves no rows: not one image of the target data can be read.")
    return target.select([row for row in range(len(target)) if row not in bad])


def refuse_blank(target: TargetData, columns: Columns) -> None:
    """Raises a [`DiffTuneError`] if rows have no caption or label."""
    blank = [row for row in range(len(target)) if not has_captions(target.captions(row))]
    if blank:
        raise DiffTuneError(
            f"{len(blank)} of {len(target)} rows have an empty {'label' if columns.has_labels else 'caption'} or none in the"
            f" column {columns.text}: {listed([target.name(row) for row in blank])}; every row needs one."
        )


def has_captions(captions: list[str]) -> bool:
    """Whether there are captions and none of them is empty."""
    return bool(captions) and all(caption and not caption.isspace() for caption in captions)


def listed(names: list[str]) -> str:
    """The names, with commas; of very many the first ones."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more
