# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Opens what a flag names, as a table of images and captions."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image, IterableDataset, Value

from ...errors import DiffTuneError, first_sentence, quoted
from ..images.formats import is_image_file, is_unread
from ..report import DataReport
from ..source import Source, check_has
from .folders import Folder, by_suffix
from .labels import open_class_folders
from .metadata import metadata_files, read_metadata
from .named import open_named
from .parquet import open_parquet
from .saved import is_saved, open_saved
from .splits import refuse_configuration
from .text_files import captioned_images, open_captioned_images


def open_source(source: Source, report: DataReport) -> Dataset | IterableDataset:
    """The target data with its image columns not yet decoded; what is read of them and what is not is told to the report.
    Raises a [`DiffTuneError`] if there are no such data, or if they lack a column."""
    by_name = source.config.dataset_name is not None
    dataset = open_named(source, report) if by_name else open_folder(source, report)
    if dataset.features is None:  # a stream of CSV or JSON files
        raise DiffTuneError("This dataset does not say what its columns hold; leave the flag out.", "--streaming")
    check_has(list(dataset.features), source.columns, advice=reads_a_folder_otherwise(source))
    dataset = dataset.select_columns(list(dict.fromkeys(source.columns.values())))
    for flag, column in source.image_columns.items():
        feature = dataset.features[column]
        if not may_be_images(feature):
            found = feature.dtype if isinstance(feature, Value) else type(feature).__name__
            raise DiffTuneError(f"The column {column} holds {found}, not images.", flag)
        dataset = dataset.cast_column(column, Image(decode=False))
    if isinstance(dataset, Dataset):
        check_values(dataset, source, report)
    return dataset


def may_be_images(feature: object) -> bool:
    """Whether `datasets` takes a column for images: images, bytes of files, names of files, or pairs of these."""
    if isinstance(feature, Value):
        return feature.dtype in ("string", "large_string", "binary", "large_binary")
    return isinstance(feature, Image) or (isinstance(feature, dict) and {"bytes", "path"} <= feature.keys())


def reads_a_folder_otherwise(source: Source) -> str:
    """The advice for a folder in which `datasets` does not find a column: that it has rules of its own, by which images of
    some formats, or in folders of other depths, have no metadata and no labels."""
    name, folder = source.config.dataset_name, source.config.train_data_dir
    if name is None or folder is not None or not source.place.is_dir():
        return ""
    return f"; this is what `datasets` makes of the folder, --train_data_dir {name} has other rules"


def check_values(dataset: Dataset, source: Source, report: DataReport) -> None:
    """Raises a [`DiffTuneError`] if there is text that is no text, or an image that is not in the data but named there."""
    for flag, column in source.columns.items():
        try:
            dataset.data.column(column).validate(full=True)
        except pa.ArrowInvalid as error:
            raise DiffTuneError(f"The column {column} is damaged: {first_sentence(error)}.", flag) from None
    places, beside = source.places, None  # looked through only if there is a mistake
    for flag, column in source.image_columns.items():
        values = dataset.data.column(column)
        paths = pc.struct_field(values, "path")
        named = pc.and_(pc.is_null(pc.struct_field(values, "bytes")), pc.is_valid(paths))
        for row in pc.indices_nonzero(named).to_pylist():
            path = paths[row].as_py()
            problem = places.problem(path)
            if problem is None and ("://" in path or os.path.exists(path)):
                continue
            beside = beside or folder_beside(source.place)
            if beside is not None and (near := beside.near(source.place / path)):
                found = (
                    f"{problem or 'is not there'} (it was looked for at {os.path.abspath(path)}, and {near} is there)"
                )
                if problem is None and source.config.skip_bad_images:
                    report.similar = report.similar or f"The image of row {row}, {quoted(path)}, {found}"
                    continue
                advice = "write the images themselves into the file, as Dataset.to_parquet does, or their whole paths"
                if metadata_files(beside):  # no Parquet file
                    advice = "in a metadata file, names are relative to its own folder"
                problem = f"{found}; {advice}"
            if problem is not None:
                raise DiffTuneError(f"The image of row {row}, {quoted(path)}, {problem}.", flag)


def folder_beside(place: Path) -> Folder | None:
    """What lies beside the rows, to find what they may mean; a data set on the Hub has no folder here."""
    place = place.parent if place.is_file() else place
    return Folder(place) if place.is_dir() else None


def open_folder(source: Source, report: DataReport) -> Dataset | IterableDataset:
    """The images that the metadata files in a folder name, or the Parquet files there, or what `save_to_disk` wrote there, or
    the folders of classes, or images with text files beside them."""
    if not source.place.exists():
        raise DiffTuneError(f"There is no folder {source.place}.")
    folder = Folder(source.place)
    dataset: Dataset | IterableDataset
    if metadata := metadata_files(folder):
        dataset = read_metadata(folder, metadata, source, report)
    elif parquet := [path for path in folder.files if path.suffix == ".parquet"]:
        dataset = open_parquet(folder, parquet, source, report)
    else:
        refuse_configuration(source)
        dataset = open_plain_folder(folder, source, report)
    if folder.system:
        report.left_out.append(folder.phrase(folder.system, "folder", "of the operating system"))
    return dataset.to_iterable_dataset() if source.streaming and isinstance(dataset, Dataset) else dataset


def open_plain_folder(folder: Folder, source: Source, report: DataReport) -> Dataset:
    """A folder without metadata and Parquet files."""
    if is_saved(folder.path):
        return open_saved(folder.path, source.wanted, report)
    if source.has_labels:
        return open_class_folders(folder, source, report)
    if source.config.conditioning_image_column is None and (captioned := captioned_images(folder)):
        return open_captioned_images(folder, captioned, source, report)
    raise nothing_to_read(folder, source)


def nothing_to_read(folder: Folder, source: Source) -> DiffTuneError:
    """Says what a folder has that cannot be trained on, and what to do with it."""
    files = folder.files
    found = f"{len(files)} other files, {folder.inner(files[0])} for one" if files else "nothing at all"
    where = f"{folder.path} has no metadata.jsonl, metadata.csv or Parquet file, but {found}"
    if folder.is_file:
        where = f"{folder.path} is no metadata.jsonl, metadata.csv or Parquet file"
    images = [file for file in files if is_image_file(file)]
    if archives := [file for file in files if file.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")]:
        tar = " (or give the folder as --dataset_name if they are shards of a WebDataset)"
        webdataset = tar if archives[0].suffix == ".tar" else ""
        return DiffTuneError(
            f"{where}; unpack {folder.inner(archives[0])} and give the folder with its images{webdataset}."
        )
    if not images and (unread := [file for file in files if is_unread(file)]):
        return DiffTuneError(
            f"{where}; images of these formats are not read ({by_suffix(unread)}), convert them to PNG or JPEG."
        )
    tables = [file for file in files if file.suffix.lower() in (".csv", ".jsonl", ".tsv")]
    if tables and not folder.is_file:
        name = f"metadata{tables[0].suffix}" if tables[0].suffix in (".csv", ".jsonl") else "metadata.jsonl"
        return DiffTuneError(
            f"{where}; if {folder.inner(tables[0])} has the captions, call it {name}, with a column file_name for the images"
            f" and a column {source.text_column}."
        )
    beside = "" if source.config.conditioning_image_column else ", or a cat.txt with its caption beside each cat.png"
    return DiffTuneError(
        f'{where}; write a metadata.jsonl with a line {{"file_name": "cat.png", "{source.text_column}": "a cat"}} for each'
        f" image{beside}."
    )
