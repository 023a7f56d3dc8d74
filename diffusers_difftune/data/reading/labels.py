# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Labels of a class-conditional model: the class of each row, as the id that stands for its prompt."""

import logging
from collections import Counter
from contextlib import suppress

import numpy as np
from datasets import ClassLabel, Dataset
from datasets.data_files import SPLIT_KEYWORDS

from ...errors import DiffTuneError
from ..images.formats import is_image_file, may_be_image
from ..report import DataReport, FileRows
from ..source import Source
from .folders import Folder, by_suffix, is_document
from .splits import TRAIN, splits_named


logger = logging.getLogger(__name__)

MOST_CLASSES = 1000  # rows of a DiT's class tables before the null class
# What a folder among class folders is called that has what others than training read.
HELD_OUT_NAMES = frozenset(word for split, words in SPLIT_KEYWORDS.items() if str(split) != TRAIN for word in words)


def read_labels(dataset: Dataset, rows: np.ndarray, column: str) -> tuple[list[int | None], list[str]]:
    """The class of each of some rows, `None` where the data have none, and the names of the classes. These are those of the
    whole data set, also of rows that are not used.

    Classes of a `ClassLabel` column keep their numbers; other labels are numbered in their order, names by the alphabet
    and numbers by size. A [`DiffTuneError`] is raised if the column holds no labels.
    """
    values = dataset[:][column]
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        names = feature.names
        ids = [None if value is None or value < 0 else value for value in values]
    else:
        kinds = {type(value) for value in values} - {type(None)}
        if kinds not in ({str}, {int}):
            found = " and ".join(sorted(kind.__name__ for kind in kinds)) or "nothing"
            raise DiffTuneError(f"The column {column} holds {found}; a label is a name or a whole number.")
        blank = {value for value in values if value is None or (isinstance(value, str) and not value.strip())}
        distinct = sorted(set(values) - blank)
        with suppress(ValueError):  # not all are numbers
            distinct.sort(key=int)
        numbers = {value: number for number, value in enumerate(distinct)}
        names, ids = [str(value) for value in distinct], [numbers.get(value) for value in values]
    return [ids[row] for row in rows], names


def check_classes(names: list[str], num_rows: int, num_all: int, column: str) -> None:
    """Raises a [`DiffTuneError`] if nothing can be learned with these classes from so many of all rows; warns of names that
    the trained pipeline will not tell apart."""
    if len(names) > MOST_CLASSES:
        raise DiffTuneError(
            f"The column {column} has {len(names)} classes; a class table has room for {MOST_CLASSES}."
        )
    if len(names) > num_rows:
        advice = "give the column that has the labels" if num_rows == num_all else "raise --max_train_samples"
        raise DiffTuneError(f"The column {column} has {len(names)} classes for {num_rows} rows; {advice}.")
    if len(names) < 2:
        only = f" only, {names[0]}" if names else "es"
        raise DiffTuneError(f"The column {column} has {len(names)} class{only}; a class-conditional model needs two.")
    name, count = Counter(name.strip() for name in names).most_common(1)[0]  # DiTPipeline strips them, too
    if count > 1:
        raise DiffTuneError(f"{count} classes of the column {column} are called {name}.")
    parts = Counter(part for name in names for part in {part.strip() for part in name.split(",")})
    if shared := [part for part, count in parts.items() if count > 1]:
        logger.warning(
            f"--label_column: {parts[shared[0]]} classes of the column {column} have the name {shared[0]}, since a comma stands"
            " between two names of one class; DiTPipeline.get_label_ids finds the last of them by it, the others by number"
            " alone."
        )


def open_class_folders(folder: Folder, source: Source, report: DataReport) -> Dataset:
    """Names of the images in the folders of a folder, and of the folders, each of which is a class.

    Raises:
        DiffTuneError: There are no images, or some lie in no class folder, or a folder has none that can be read, or the
            folders are splits.
    """
    images = [file for file in folder.files if is_image_file(file)]
    loose = [file.name for file in images if folder.path in (file, file.parent)]
    if loose or not images:
        what = f"{len(loose)} images, such as {loose[0]}, in no class folder" if loose else "no images"
        raise DiffTuneError(
            f"{folder.path} has {what}; put the images of each class into a folder named for it, or write a metadata.jsonl with"
            f' a line {{"file_name": "cat.png", "{source.text_column}": "cat"}} for each image.'
        )
    classes = [folder.inner(file).parts[0] for file in images]
    check_class_folders(folder, sorted(set(classes)))
    for name, count in Counter(classes).items():
        report.files.append(FileRows(TRAIN, name, count, True))
    report.left_out += folder.left_out(images, "", "beside folders of classes, which are read instead")
    files = [str(file) for file in images]
    return Dataset.from_dict({source.config.image_column: files, source.text_column: classes})


def check_class_folders(folder: Folder, names: list[str]) -> None:
    """Raises a [`DiffTuneError`] if folders are no classes: those of splits, and those without an image that is read, of
    which a class would vanish."""
    if all(splits_named(name) for name in names):
        raise DiffTuneError(
            f"The folders of {folder.path} are {', '.join(names)}, which are no classes; give the one of them"
            " that has the folders of the classes to train on."
        )
    if held_out := [name for name in names if name.lower() in HELD_OUT_NAMES]:
        raise DiffTuneError(
            f"{folder.path} has the folder {held_out[0]} beside {len(names) - 1} others, as if a class were"
            " called so; move it elsewhere if it is held out, or call it otherwise if it is a class."
        )
    for place in folder.folders:
        if place.parent != folder.path or place.name in names:
            continue
        files = [file for file in folder.files if place in file.parents]
        if files and not any(may_be_image(file) and not is_document(file) for file in files):
            continue  # of tables or of a cache, say; it is counted
        what = (
            f"{len(files)} files, {folder.inner(files[0])} for one ({by_suffix(files)})" if files else "nothing at all"
        )
        raise DiffTuneError(
            f"The folder {place} has no image of a format that is read, but {what}; convert its images to"
            " PNG or JPEG, or take the folder away if it is no class."
        )
