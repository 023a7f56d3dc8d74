# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Images that metadata files name.

`datasets` has a loader for this, but it goes by modification times, its errors do not say which row is wrong, and it neither knows
names that are nearly right nor leaves out the rows of folders that are held out.
"""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from ...errors import DiffTuneError, quoted
from ..report import DataReport, FileRows
from ..source import Source, check_has
from .folders import Folder, why_near
from .records import read_records
from .splits import TRAIN, chosen, file_splits, label, split_of_folders


METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


class MetadataFile(NamedTuple):
    """A metadata file with its rows, their columns and the split of each row."""

    file: Path
    records: list[dict]
    columns: list[str]
    splits: list[str | None]

    @classmethod
    def read(cls, file: Path, split: str | None = None) -> "MetadataFile":
        records = read_records(file)
        columns = list(dict.fromkeys(name for record in records for name in record))
        return cls(file, records, columns, [split] * len(records))


def metadata_files(folder: Folder) -> list[Path]:
    """The metadata files in a folder."""
    return [file for file in folder.files if file.name in METADATA_NAMES]


def read_metadata(folder: Folder, files: list[Path], source: Source, report: DataReport) -> Dataset:
    """Reads metadata files, each of which names images relative to its own folder, into names of files and captions or
    labels; raises a [`DiffTuneError`] if a file is damaged, or a row is."""
    for file in files:
        if others := [other.name for other in files if other.parent == file.parent and other != file]:
            raise DiffTuneError(f"{file.parent} has a {file.name} and a {others[0]}; remove one of them.")
    splits = file_splits(folder, files, source, report)
    found = [MetadataFile.read(file, split) for file, split in splits.items()]
    if not folder.is_file:  # it is read whole
        for each in found:
            hold_out_by_folder(each, folder, source.config.image_column)
    splits_of_rows = (split for each in found for split in each.splits)
    used = chosen(splits_of_rows, source.wanted, folder.path, folder.inner(files[0]))
    values: dict[str, list] = {column: [] for column in source.columns.values()}
    for each in found:
        read_rows(folder, each, used, source, values, report)
        for split in dict.fromkeys(each.splits):
            rows = each.splits.count(split)
            report.files.append(FileRows(label(split, used), str(folder.inner(each.file)), rows, split in used))
    if not values[source.text_column]:
        raise DiffTuneError(f"{files[0]} has no rows.")
    report.left_out += folder.left_out(
        [*files, *named_files(folder, found)],
        "not named by the metadata",
        f"beside {files[0].name}, which is read instead",
    )
    return Dataset.from_dict(values)


def name_of_files(column: str, columns: list[str]) -> str:
    """Which column of a metadata file names the files of an image column: `file_name` for `image`, and for any other
    one `<column>_file_name`, as `datasets` has it, or else the column itself."""
    if column == "image":
        return "file_name"
    named = f"{column}_file_name"
    return named if named in columns or column not in columns else column


def hold_out_by_folder(found: MetadataFile, folder: Folder, image_column: str) -> None:
    """Gives each row of a file that itself is of no split the one that its image is held out for, by the folder it lies in;
    names of images do not count."""
    column = name_of_files(image_column, found.columns)

    @cache
    def held_out(parent: str) -> str | None:
        place = found.file.parent / parent
        inner = os.path.relpath(place, folder.path)  # the data's own path may have any word in it
        split = None if inner.startswith("..") else split_of_folders(Path(inner).parts, place)
        return None if split == TRAIN else split  # it is not asked that others lie in one called train

    for row, record in enumerate(found.records):
        if found.splits[row] is None and isinstance(name := record.get(column), str):
            found.splits[row] = held_out(os.path.dirname(name))


def read_rows(
    folder: Folder,
    found: MetadataFile,
    used: set[str | None],
    source: Source,
    values: dict[str, list],
    report: DataReport,
) -> None:
    """Appends the values of the rows of a file that are used.

    Raises:
        DiffTuneError: The file lacks a column; a row names no file, or one that may not be opened, or one that is there
            under a similar name; or its caption is none.
    """
    file, places = found.file, source.places
    names = {column: name_of_files(column, found.columns) for column in source.image_columns.values()}
    records = [
        (line, record) for line, (record, split) in enumerate(zip(found.records, found.splits), 1) if split in used
    ]
    if records:
        wanted = {flag: names.get(column, column) for flag, column in source.columns.items()}
        check_has(found.columns, wanted, f"{file} has no column")
    absent: list[tuple[int, str, str]] = []
    for line, record in records:
        for column, file_column in names.items():
            name = record.get(file_column)
            if not isinstance(name, str) or not name:
                raise DiffTuneError(f"Row {line} of {file} names no file in {file_column}.")
            path = str(file.parent / name)
            if problem := places.problem(path):
                raise DiffTuneError(f"Row {line} of {file} names {quoted(name)}, which {problem}.")
            if not os.path.exists(path):
                absent.append((line, name, path))
            values[column].append(path)
        values[source.text_column].append(source.as_text(record.get(source.text_column)))
    if similar := similar_name(folder, file, absent):
        if not source.config.skip_bad_images:
            rows = len({line for line, _, _ in absent})
            raise DiffTuneError(
                f"{similar}; names are relative to the folder of the metadata file ({rows} of {len(records)} rows name files"
                " that are not there)."
            )
        report.similar = report.similar or similar


def similar_name(folder: Folder, file: Path, absent: list[tuple[int, str, str]]) -> str:
    """Says of which file that is not there one with a similar name is; empty if of none. Others are told with the images that
    cannot be read."""
    around = Folder(file.parent) if folder.is_file and absent else folder
    for line, name, path in absent:
        if (near := around.near(Path(path))) is not None:
            return (
                f"Row {line} of {file} names {quoted(name)}, and there is no {path}, but {near}{why_near(path, near)}"
            )
    return ""


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
