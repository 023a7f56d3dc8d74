# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The target data: images and captions, checked before anything expensive happens."""

import hashlib
import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from datasets import Dataset
from filelock import FileLock
from PIL import Image

from .. import errors
from ..config import DataConfig
from ..config.checks import check_values
from ..errors import DiffTuneError
from .cache.place import difftune_cache_dir
from .images.check import check_images, tell_of_profiles
from .images.column import ImageColumn
from .plan import Slot
from .reading.labels import check_classes, read_labels
from .reading.opening import open_source
from .report import DataReport, listed
from .source import TO_TRAIN, Source, as_captions


class Example(NamedTuple):
    """A target row: functions that decode its image, of whatever mode and size it is, and the control image, where the data
    have some; and its captions, at least one."""

    image: Callable[[], Image.Image]
    captions: list[str]
    condition: Callable[[], Image.Image] | None = None


class TargetData:
    """The rows to fine-tune on; [`load_target_data`] makes it.

    Captions are the ids of classes where there are names of these. Hashes of files, and what was learned about images, are
    remembered in `index_dir`.
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
        return list(dict.fromkeys(caption for captions in self._captions for caption in captions))

    def select(self, rows: list[int]) -> "TargetData":
        """Some of the rows."""
        captions = [self._captions[row] for row in rows]
        conditions = None if self.conditions is None else self.conditions.select(rows)
        return TargetData(
            self.images.select(rows), captions, self.index_dir, conditions, self.class_names, self.report
        )

    @cached_property
    def content_key(self) -> str:
        """SHA-256 over the bytes of the images, the captions, the control images and the names of classes, in order."""
        parts = [self.images.key, self._captions, *([] if self.conditions is None else [self.conditions.key])]
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
    what the first one learned. What is not read is in the `report` of the data, and not told here.

    Args:
        config ([`DataConfig`]): The flags.
        seed (`int`): Draws the rows of `--max_train_samples`, as diffusers' scripts do.
        cache_dir (`str` or `Path`, *optional*): As `--cache_dir`.
        wanted (`str`, *optional*, defaults to `TO_TRAIN`): Which split is read, as in [`Source`].
        flag (`str`, *optional*): The flag that named the data, if it is none of the config's.

    Raises:
        DiffTuneError: A flag is out of range, the data cannot be opened, or rows lack a caption or a readable image.
    """
    check_values(config)
    source, index_dir = Source(config, cache_dir, wanted, named_by=flag), difftune_cache_dir(cache_dir)
    name = f"{config.dataset_name} {config.dataset_config_name} {config.train_data_dir}"
    try:
        index_dir.mkdir(parents=True, exist_ok=True)
        turn = FileLock(index_dir / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock").acquire()
    except OSError as error:
        raise DiffTuneError(f"{index_dir} cannot be written to: {error.strerror}.", "--cache_dir") from None
    with turn, errors.flag(source.flag):
        report = DataReport()
        dataset = cast(Dataset, open_source(source, report))
        rows = drawn_rows(len(dataset), config.max_train_samples, seed, report)
        if not len(rows):
            raise DiffTuneError("There are no rows.")
        with errors.flag(source.text_flag):
            captions, class_names = read_texts(dataset, rows, source)
        images, *conditions = (
            ImageColumn(dataset, column, rows, index_dir, config.verify_cache)
            for column in source.image_columns.values()
        )
        target = TargetData(images, captions, index_dir, next(iter(conditions), None), class_names, report)
        target = without_bad_images(target, config.skip_bad_images, config.verify_cache)
        with errors.flag(source.text_flag):
            refuse_blank(target, source)
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


def read_texts(dataset: Dataset, rows: np.ndarray, source: Source) -> tuple[list[list[str]], list[str] | None]:
    """The captions of some rows; or, where there are labels, the ids of their classes and the names of these.

    Raises:
        DiffTuneError: Captions or labels are of a wrong type, or a model cannot learn the classes.
    """
    column = source.text_column
    texts = dataset.select_columns([column])
    if not source.has_labels:
        return [as_captions(value, column) for value in texts.select(rows)[:][column]], None
    labels, class_names = read_labels(texts, rows, column)
    if source.wanted == TO_TRAIN:
        check_classes(class_names, len(rows), len(dataset), column)
    return [[] if label is None else [str(label)] for label in labels], class_names


def without_bad_images(target: TargetData, skip: bool, verify: bool) -> TargetData:
    """The rows whose images can be used; raises a [`DiffTuneError`] if that are not all and none are to be left out, or if
    there are none."""
    images, conditions, report = target.images, target.conditions, target.report
    bad, profiles = check_images(images, conditions, target.index_dir, verify)
    unusable = "read" if conditions is None else "used"
    reasons = [f"{target.name(row)} ({reason})" for row, reason in bad.items()]
    if bad and not skip:
        raise DiffTuneError(
            f"{len(bad)} of {len(target)} images cannot be {unusable}: {listed(reasons)}; repair or remove them, or leave"
            " them out with --skip_bad_images."
        )
    tell_of_profiles(images, profiles)
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


def refuse_blank(target: TargetData, source: Source) -> None:
    """Raises a [`DiffTuneError`] if rows have no caption or label."""
    blank = [target.name(row) for row in range(len(target)) if not has_captions(target.captions(row))]
    if blank:
        raise DiffTuneError(
            f"{len(blank)} of {len(target)} rows have an empty {'label' if source.has_labels else 'caption'} or none in the"
            f" column {source.text_column}: {listed(blank)}; every row needs one."
        )


def has_captions(captions: list[str]) -> bool:
    """Whether there are captions and none of them is empty."""
    return bool(captions) and all(caption and not caption.isspace() for caption in captions)
