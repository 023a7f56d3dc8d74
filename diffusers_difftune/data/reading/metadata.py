# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Images that metadata files name."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from datasets import Dataset

from ...errors import DiffTuneError, quoted
from ...io.safe_paths import Places
from ..columns import as_captions, missing_column, name_of_files, named_image_columns, named_text_column
from ..report import DataReport, FileRows
from .folders import Folder, why_near
from .labels import as_label
from .records import read_records
from .splits import TRAIN, chosen, file_splits, label, split_of_folders


if TYPE_CHECKING:
    from ...config import DataConfig

METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


class MetadataFile(NamedTuple):
    """A metadata file, read.

    Attributes:
        file (`Path`): The file.
        records (`list[dict]`): Its rows.
        columns (`list[str]`): The columns of these.
        splits (`list[str | None]`): The split of each row.
    """

    file: Path
    records: list[dict]
    columns: list[str]
    splits: list[str | None]


def read_metadata(
    folder: Folder, files: list[Path], config: "DataConfig", places: Places, wanted: str, report: DataReport
) -> Dataset:
    """Reads metadata files, each of which names images relative to its own folder.

    `datasets` has a loader for this, but it goes by modification times, and its errors do not say which row is wrong.

    Args:
        folder ([`Folder`]): `--train_data_dir`.
        files (`list[Path]`): The metadata files in it.
        config ([`DataConfig`]): The flags.
        places ([`Places`]): Where images may lie.
        wanted (`str`): Which splits are read, as in [`chosen`].
        report ([`DataReport`]): Told what is read and what is not.

    Returns:
        `datasets.Dataset`: Names of files, and captions or labels.

    Raises:
        DiffTuneError: A file is damaged, or a row is.
    """
    for file in files:
        if others := [other.name for other in files if other.parent == file.parent and other != file]:
            raise DiffTuneError(
                f"--train_data_dir: {file.parent} has a {file.name} and a {others[0]}; remove one of them."
            )
    splits = file_splits(folder, files, config.dataset_config_name, wanted, report)
    found = [read_file(folder, file, split, config) for file, split in splits.items()]
    used: set[str | None] = {None}
    if not folder.is_file:
        used = chosen((split for each in found for split in each.splits), wanted, folder.path, folder.inner(files[0]))
    values: dict[str, list] = {column: [] for column in (*named_image_columns(config).values(), config_text(config))}
    for each in found:
        read_rows(folder, each, used, config, places, values)
        for split in dict.fromkeys(each.splits):
            rows = each.splits.count(split)
            report.files.append(FileRows(label(split, used), str(folder.inner(each.file)), rows, split in used))
    if not values[config_text(config)]:
        raise DiffTuneError(f"--train_data_dir: {files[0]} has no rows.")
    if not folder.is_file:
        report.left_out += folder.left_out(
            [*map(str, files), *named_files(folder, found)],
            "not named by the metadata",
            f"beside {files[0].name}, which is read instead",
        )
    return Dataset.from_dict(values)


def config_text(config: "DataConfig") -> str:
    return named_text_column(config)[1]


def read_file(folder: Folder, file: Path, split: str | None, config: "DataConfig") -> MetadataFile:
    """Reads a file. Where the file itself is of no split, rows are held out by the folders that their images lie in."""
    records = read_records(file)
    columns = list(dict.fromkeys(name for record in records for name in record))
    splits = [split] * len(records)
    if split is None and not folder.is_file:
        column = name_of_files(config.image_column, columns)
        of_folder: dict[str, str | None] = {}
        for row, record in enumerate(records):
            if isinstance(name := record.get(column), str):
                inner = os.path.dirname(name)
                if inner not in of_folder:
                    of_folder[inner] = split_of_images(folder, file.parent / inner)
                splits[row] = of_folder[inner]
    return MetadataFile(file, records, columns, splits)


def split_of_images(folder: Folder, place: Path) -> str | None:
    """The split that images are held out for by the folder that they lie in, within the data; their own names do not count."""
    inner = os.path.relpath(place, folder.path)  # the data's own path may have any word in it
    split = None if inner.startswith("..") else split_of_folders(Path(inner).parts, place)
    return None if split == TRAIN else split  # the file names all of its rows to be trained on


def read_rows(
    folder: Folder,
    found: MetadataFile,
    used: set[str | None],
    config: "DataConfig",
    places: Places,
    values: dict[str, list],
) -> None:
    """Appends the values of the rows of a file that are used.

    Raises:
        DiffTuneError: The file lacks a column; a row names no file, or one that may not be opened, or one that is there
            under a similar name; or its caption is none.
    """
    file, columns = found.file, found.columns
    image_columns = named_image_columns(config)
    text_flag, text_column = named_text_column(config)
    file_columns = {column: name_of_files(column, columns) for column in image_columns.values()}
    records = [
        (line, record)
        for line, (record, split) in enumerate(zip(found.records, found.splits), 1)
        if folder.is_file or split in used
    ]
    for flag, column in image_columns.items():
        if records and file_columns[column] not in columns:
            raise missing_column(flag, file_columns[column], columns, f"{file} has no column")
    if records and text_column not in columns:
        raise missing_column(text_flag, text_column, columns, f"{file} has no column")
    absent: list[tuple[int, str, str]] = []
    for line, record in records:
        for column, file_column in file_columns.items():
            name = record.get(file_column)
            if not isinstance(name, str) or not name:
                raise DiffTuneError(f"--train_data_dir: row {line} of {file} names no file in {file_column}.")
            path = str(file.parent / name)
            if problem := places.problem(path):
                raise DiffTuneError(f"--train_data_dir: row {line} of {file} names {quoted(name)}, which {problem}.")
            if not os.path.exists(path):
                absent.append((line, name, path))
            values[column].append(path)
        text = record.get(text_column)
        values[text_column].append(
            as_captions(text, text_column) if text_flag == "caption_column" else as_label(text, text_column)
        )
    if absent and not config.skip_bad_images:
        check_absent(folder, file, absent, len(records))


def check_absent(folder: Folder, file: Path, absent: list[tuple[int, str, str]], count: int) -> None:
    """Raises a [`DiffTuneError`] if a file that is not there is there under a similar name. Others are told with the images
    that cannot be read."""
    around = Folder(file.parent) if folder.is_file else folder
    for line, name, path in absent:
        if (near := around.near(Path(path))) is not None:
            rows = len({row for row, _, _ in absent})
            raise DiffTuneError(
                f"--train_data_dir: row {line} of {file} names {quoted(name)}, and there is no {path}, but {near}"
                f"{why_near(path, near)}; names are relative to the folder of the metadata file ({rows} of {count} rows name"
                " files that are not there)."
            )


def named_files(folder: Folder, found: list[MetadataFile]) -> list[str]:
    """All files that rows name, used or not: also control images where none are asked for."""
    files, paths = {str(file) for file in folder.files}, []
    for each in found:
        parent = str(each.file.parent)
        for column in each.columns:
            names = [name for record in each.records if isinstance(name := record.get(column), str)]
            # of a column that is not called so, the first row tells
            if column.endswith("file_name") or (names and os.path.join(parent, names[0]) in files):
                paths += [os.path.join(parent, name) for name in names]
    return paths
