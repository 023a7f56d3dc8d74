# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets by name: on the Hub, or folders that `datasets` reads by its own rules."""

import os
from pathlib import Path
from typing import Any

from datasets import Dataset, DownloadMode, IterableDataset, load_dataset_builder

from ...errors import DiffTuneError, first_sentence
from ..images.formats import is_image_file, is_unread
from ..report import DataReport, FileRows
from ..source import Source
from .folders import Folder, by_suffix
from .metadata import METADATA_NAMES, MetadataFile, metadata_files, named_files
from .parquet import cause
from .saved import is_saved
from .splits import TRAIN, card_configurations, chosen_configuration, chosen_name, configurations, split_of_file
from .text_files import captioned_images


def open_named(source: Source, report: DataReport) -> Dataset | IterableDataset:
    """What `datasets` finds under a name.

    Raises:
        DiffTuneError: There is no such data set, or no split that is wanted; or `datasets` would read a folder otherwise
            than its files say.
    """
    config, place = source.config, Path(source.config.dataset_name or "").expanduser().absolute()
    name, verify = config.dataset_name or "", config.verify_cache
    given: dict[str, Any] = {"name": config.dataset_config_name, "data_dir": config.train_data_dir}
    folder = Folder(place) if place.is_dir() and config.train_data_dir is None else None
    if folder is not None:
        given |= folder_arguments(folder, config.dataset_config_name)
    given["cache_dir"] = None if source.cache_dir is None else str(source.cache_dir)
    # a file that was edited and given its old time back is noticed only by reading it again
    given["download_mode"] = DownloadMode.REUSE_CACHE_IF_EXISTS if verify else None
    try:
        builder = load_dataset_builder(name, **given)
        if folder is not None:
            check_folder(folder, builder, source, report)
        if source.streaming:
            splits = builder.as_streaming_dataset()
        else:
            builder.download_and_prepare(download_mode=given["download_mode"])
            splits = builder.as_dataset()
    except DiffTuneError:
        raise
    except Exception as error:  # not found, a wrong configuration, a script …; every loader has errors of its own
        advice = ""
        if "scripts are no longer supported" in str(error):  # fusing/fill50k of diffusers' ControlNet example is one
            advice = (
                f"; if the Hub has made a Parquet copy, `hf download {name} --repo-type dataset --revision"
                " refs/convert/parquet --local-dir FOLDER` gets it for --train_data_dir FOLDER"
            )
        raise DiffTuneError(f"{name} cannot be loaded: {first_sentence(cause(error))}{advice}.") from error
    chosen = chosen_name([str(split) for split in splits], source.wanted, name)
    for split, rows in splits.items():
        count = len(rows) if isinstance(rows, Dataset) else None
        report.files.append(FileRows(str(split), name, count, str(split) == chosen))
    if folder is not None and (phrase := unnamed(folder)):
        report.left_out.append(phrase)
    return splits[chosen]


def unnamed(folder: Folder) -> str:
    """The images of a folder with metadata that `datasets` passes over, because no metadata file names them; as a phrase."""
    files = metadata_files(folder)
    try:
        named = set(map(os.path.normpath, named_files(folder, [MetadataFile.read(file) for file in files])))
    except DiffTuneError:  # `datasets` makes something of it
        return ""
    rest = [file for file in folder.files if is_image_file(file) and str(file) not in named]
    return folder.phrase(rest, "image", "not named by the metadata") if files else ""


def folder_arguments(folder: Folder, configuration: str | None) -> dict[str, Any]:
    """What `load_dataset` must be told beside the folder's name; its configurations are not all known to `datasets`."""
    if is_saved(folder.path):
        raise DiffTuneError(
            f"{folder.path} was written by save_to_disk; give it as --train_data_dir, which reads that."
        )
    declared, default = card_configurations(folder.path, folder.files)
    if declared:  # `datasets` knows those of the card
        if configuration is None:
            chosen_configuration(declared, None, default, folder.path)
        return {}
    found = configurations(folder.path, [file for file in folder.files if file.suffix == ".parquet"])
    if not found:
        return {}
    return {"name": None, "data_dir": chosen_configuration(found, configuration, None, folder.path)}


def check_folder(folder: Folder, builder: Any, source: Source, report: DataReport) -> None:
    """Compares what `datasets` takes of a folder with what is there.

    Raises:
        DiffTuneError: Names of files make it leave the metadata out, or make it train on what is held out; or it would
            leave out a whole class.
    """
    splits = {Path(file): str(split) for split, files in (builder.config.data_files or {}).items() for file in files}
    better = f"give the folder as --train_data_dir {folder.path}"
    metadata = metadata_files(folder)
    parquet = [file for file in folder.files if file.suffix == ".parquet"]
    if strays := [file for file in metadata if file not in splits]:
        example = folder.inner(next(iter(splits)))
        raise DiffTuneError(
            f"`datasets` sorts the files of {folder.path} into the splits {', '.join(dict.fromkeys(splits.values()))} by their"
            f" names, such as {example}, and with them it does not read {folder.inner(strays[0])}; {better}, which goes by that,"
            " or call the files otherwise."
        )
    if not (metadata or parquet or source.has_labels) and captioned_images(folder):
        raise DiffTuneError(
            f"`datasets` does not read captions from the .txt files of {folder.path}; {better}, which does."
        )
    if not card_configurations(folder.path, folder.files)[0]:
        for file, split in splits.items():
            if file.name in METADATA_NAMES or file.suffix == ".parquet":
                other = split_of_file(file.relative_to(folder.path), file)
                if split == TRAIN and other not in (TRAIN, None):
                    raise DiffTuneError(
                        f"`datasets` takes {folder.inner(file)} of {folder.path} for train, and its name says {other}; {better},"
                        " which leaves it out, or give the splits names in lower case."
                    )
    suffixes = getattr(builder, "EXTENSIONS", None)  # of builders that go by folders of images
    read = {file for file in splits if suffixes is None or file.suffix.lower() in suffixes or file in metadata}
    unread = [file for file in folder.files if file not in read and (is_image_file(file) or is_unread(file))]
    if source.has_labels and not metadata and suffixes is not None:
        check_classes_are_read(folder, read, unread, better)
    phrases = (
        folder.phrase(unread, "image", "not read by `datasets`"),
        folder.phrase([file for file in parquet if file not in read], "Parquet file", "not read by `datasets`"),
    )
    report.left_out += filter(None, phrases)


def check_classes_are_read(folder: Folder, read: set[Path], unread: list[Path], better: str) -> None:
    """Raises a [`DiffTuneError`] if `datasets` reads nothing in the folder of a class."""
    filled = {parent for file in folder.files for parent in file.parents}
    if empty := [place for place in folder.folders if place not in filled]:
        raise DiffTuneError(
            f"The folder {empty[0]} is empty, and its class would be missing; put its images there, or take the folder away if"
            " it is no class."
        )
    for parent in dict.fromkeys(file.parent for file in unread):
        if not any(file.parent == parent for file in read):
            raise DiffTuneError(
                f"`datasets` reads no file in the folder {parent} ({by_suffix(unread)}), and its class would be missing;"
                f" {better}, or convert its images to PNG."
            )
