# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Opens what `--dataset_name` or `--train_data_dir` names, as a table of images and captions."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import datasets.config
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image, IterableDataset, Value
from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

from ...errors import DiffTuneError, first_sentence, quoted
from ...io.safe_paths import Places
from ..columns import as_captions, may_be_images, missing_column, named_image_columns, named_text_column
from ..images.decode import is_image_file
from ..report import DataReport
from .folders import UNREAD_SUFFIXES, Folder, by_suffix
from .labels import open_class_folders
from .metadata import METADATA_NAMES, read_metadata
from .named import open_named
from .parquet import choose_parquet, open_parquet
from .saved import is_saved, open_saved
from .splits import ANY, TO_TRAIN, chosen_configuration
from .text_files import captioned_images, open_captioned_images


if TYPE_CHECKING:
    from ...config import DataConfig

__all__ = ["Opened", "as_captions", "difftune_cache_dir", "named_text_column", "open_source", "source_places"]


class Opened(NamedTuple):
    """Data that were opened.

    Attributes:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): The rows.
        report ([`DataReport`]): Where they come from, and what is left out.
    """

    dataset: Dataset | IterableDataset
    report: DataReport


def difftune_cache_dir(cache_dir: str | Path | None = None) -> Path:
    """Where this library keeps encodings and hashes: a folder of its own in `--cache_dir`."""
    return Path(cache_dir or HF_HOME) / "difftune"


def open_source(
    config: "DataConfig",
    cache_dir: str | Path | None = None,
    streaming: bool = False,
    wanted: str = TO_TRAIN,
) -> Opened:
    """The target data with its image column not yet decoded; the image and the caption or label column are there.

    Args:
        config ([`DataConfig`]): The flags.
        cache_dir (`str` or `Path`, *optional*): As `--cache_dir`.
        streaming (`bool`, *optional*, defaults to `False`): Do not download or copy, read while iterating.
        wanted (`str`, *optional*, defaults to `TO_TRAIN`):
            Which split is read of data that have several: train, to train on it; what is held out, to measure by it
            (`HELD_OUT`); or, of data with a single split, whichever that is (`ANY`).

    Returns:
        [`Opened`]: The rows.

    Raises:
        DiffTuneError: There is no such data, or it lacks a column.
    """
    report = DataReport()
    if config.dataset_name is not None:
        dataset = open_named(config, cache_dir, streaming, wanted, report)
    elif config.train_data_dir is not None:
        dataset = open_folder(config, cache_dir, streaming, wanted, report)
    else:
        raise DiffTuneError(
            "Neither --dataset_name nor --train_data_dir is given; one of them must name the target data."
        )
    columns = column_names(dataset)
    image_columns = named_image_columns(config)
    text_flag, text_column = named_text_column(config)
    for flag, column in (image_columns | {text_flag: text_column}).items():
        if column not in columns:
            raise missing_column(flag, column, columns, advice=reads_a_folder_otherwise(config))
    if dataset.features is None:  # a stream of CSV or JSON files
        raise DiffTuneError("--streaming: this dataset does not say what its columns hold; leave the flag out.")
    dataset = dataset.select_columns(list(dict.fromkeys([*image_columns.values(), text_column])))
    for flag, column in image_columns.items():
        feature = dataset.features[column]
        if not may_be_images(feature):
            found = feature.dtype if isinstance(feature, Value) else type(feature).__name__
            raise DiffTuneError(f"--{flag}: the column {column} holds {found}, not images.")
        dataset = dataset.cast_column(column, Image(decode=False))
    if isinstance(dataset, Dataset):
        check_values(dataset, config, cache_dir)
    return Opened(dataset, report)


def reads_a_folder_otherwise(config: "DataConfig") -> str:
    """The advice for a folder in which `datasets` does not find a column: that it has rules of its own, by which images of
    some formats, or in folders of other depths, have no metadata and no labels."""
    name = config.dataset_name
    if name is None or config.train_data_dir is not None or not Path(name).expanduser().is_dir():
        return ""
    return f"; this is what `datasets` makes of the folder, --train_data_dir {name} has other rules"


def column_names(dataset: Dataset | IterableDataset) -> list[str]:
    """The names of the columns; of some streams only the first row knows them."""
    try:
        return dataset.column_names or list(next(iter(dataset), {}))
    except Exception as error:  # every loader has errors of its own
        raise DiffTuneError(f"The target data cannot be read: {first_sentence(error)}.") from error


def check_values(dataset: Dataset, config: "DataConfig", cache_dir: str | Path | None) -> None:
    """Raises a [`DiffTuneError`] if there is text that is no text, or an image that is not in the data but named there."""
    places = source_places(config, cache_dir)
    place = Path(config.train_data_dir or config.dataset_name or "").expanduser().absolute()
    similar: Folder | None = None  # looked through only if there is a mistake
    flag, text_column = named_text_column(config)
    for name, column in ({flag: text_column} | named_image_columns(config)).items():
        try:
            dataset.data.column(column).validate(full=True)
        except pa.ArrowInvalid as error:
            raise DiffTuneError(f"--{name}: the column {column} is damaged: {first_sentence(error)}.") from None
    for name, column in named_image_columns(config).items():
        values = dataset.data.column(column)
        named = pc.and_(pc.is_null(pc.struct_field(values, "bytes")), pc.is_valid(pc.struct_field(values, "path")))
        paths = pc.struct_field(values, "path")
        for row in pc.indices_nonzero(named).to_pylist():
            problem = places.problem(path := paths[row].as_py())
            near = None
            if problem is not None or not (config.skip_bad_images or "://" in path or os.path.exists(path)):
                near = similar.near(place / path) if (similar := similar or folder_of(place)) else None
            if near is not None:
                advice = "write the images themselves into the file, as Dataset.to_parquet does, or their whole paths"
                if similar and any(file.name in METADATA_NAMES for file in similar.files):  # no Parquet file
                    advice = "in a metadata file, names are relative to its own folder"
                problem = (
                    f"{problem or 'is not there'} (it was looked for at {os.path.abspath(path)}, and {near} is there);"
                    f" {advice}"
                )
            if problem is not None:
                raise DiffTuneError(f"--{name}: the image of row {row}, {quoted(path)}, {problem}.")


def folder_of(place: Path) -> Folder | None:
    """What lies beside the rows, to find what they may mean; a data set on the Hub has no folder here."""
    place = place.parent if place.is_file() else place
    return Folder(place) if place.is_dir() else None


def source_places(config: "DataConfig", cache_dir: str | Path | None) -> Places:
    """Where the images that rows name may lie."""
    if config.dataset_name is None:
        folder = Path(config.train_data_dir or "").expanduser()
        return Places([folder.parent if folder.is_file() else folder])
    own = [place for place in (config.dataset_name, config.train_data_dir) if place and Path(place).exists()]
    downloads = (HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
    return Places([*own, *([cache_dir] if cache_dir else []), *downloads])


def open_folder(
    config: "DataConfig", cache_dir: str | Path | None, streaming: bool, wanted: str, report: DataReport
) -> Dataset | IterableDataset:
    """The images that the metadata files under `--train_data_dir` name, or the Parquet files there, or what
    `save_to_disk` wrote there, or the folders of classes, or images with text files beside them."""
    place = Path(config.train_data_dir or "").expanduser().absolute()
    if not place.exists():
        raise DiffTuneError(f"--train_data_dir: there is no folder {place}.")
    folder = Folder(place)
    dataset: Dataset
    if metadata := [path for path in folder.files if path.name in METADATA_NAMES]:
        dataset = read_metadata(folder, metadata, config, source_places(config, cache_dir), wanted, report)
    elif parquet := [path for path in folder.files if path.suffix == ".parquet"]:
        files = choose_parquet(folder, parquet, config, wanted, report)
        return open_parquet(files, difftune_cache_dir(cache_dir), streaming, config.verify_cache)
    else:
        if wanted != ANY:
            chosen_configuration({}, config.dataset_config_name, None, "train_data_dir", place)
        dataset = open_plain_folder(folder, config, wanted, report)
    if folder.system:
        report.left_out.append(folder.phrase(folder.system, "folder", "of the operating system"))
    return dataset.to_iterable_dataset() if streaming else dataset


def open_plain_folder(folder: Folder, config: "DataConfig", wanted: str, report: DataReport) -> Dataset:
    """A folder without metadata and Parquet files."""
    if is_saved(folder.path):
        return open_saved(folder, config, wanted, report)
    if config.label_column is not None:
        return open_class_folders(folder, config, report)
    controlled = config.conditioning_image_column is not None
    if not controlled and (captioned := captioned_images(folder)):
        return open_captioned_images(folder, captioned, config.image_column, config.caption_column, wanted, report)
    raise nothing_to_read(folder, config.caption_column, controlled)


def nothing_to_read(folder: Folder, caption_column: str, controlled: bool) -> DiffTuneError:
    """Says what a folder has that cannot be trained on, and what to do with it."""
    files = folder.files
    found = f"{len(files)} other files, {folder.inner(files[0])} for one" if files else "nothing at all"
    where = f"--train_data_dir: {folder.path} has no metadata.jsonl, metadata.csv or Parquet file, but {found}"
    if folder.is_file:
        where = f"--train_data_dir: {folder.path} is no metadata.jsonl, metadata.csv or Parquet file"
    images = [file for file in files if is_image_file(file)]
    if archives := [file for file in files if file.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")]:
        tar = " (or give the folder as --dataset_name if they are shards of a WebDataset)"
        webdataset = tar if archives[0].suffix == ".tar" else ""
        return DiffTuneError(
            f"{where}; unpack {folder.inner(archives[0])} and give the folder with its images{webdataset}."
        )
    if not images and (unread := [file for file in files if file.suffix.lower() in UNREAD_SUFFIXES]):
        return DiffTuneError(
            f"{where}; images of these formats are not read ({by_suffix(unread)}), convert them to PNG or JPEG."
        )
    tables = [file for file in files if file.suffix.lower() in (".csv", ".jsonl", ".tsv")]
    if tables and not folder.is_file:
        name = f"metadata{tables[0].suffix}" if tables[0].suffix in (".csv", ".jsonl") else "metadata.jsonl"
        return DiffTuneError(
            f"{where}; if {folder.inner(tables[0])} has the captions, call it {name}, with a column file_name for the images"
            f" and a column {caption_column}."
        )
    beside = "" if controlled else ", or a cat.txt with its caption beside each cat.png"
    return DiffTuneError(
        f'{where}; write a metadata.jsonl with a line {{"file_name": "cat.png", "{caption_column}": "a cat"}} for each'
        f" image{beside}."
    )
