# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets by name: on the Hub, or folders that `datasets` reads by its own rules."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
from datasets import Dataset, DownloadMode, Image, IterableDataset, Value, load_dataset_builder

from ...errors import DiffTuneError, first_sentence
from ..images.decode import is_image_file
from ..report import DataReport, FileRows
from .folders import UNREAD_SUFFIXES, Folder, by_suffix
from .metadata import METADATA_NAMES
from .parquet import cause
from .saved import is_saved
from .splits import TRAIN, card_configurations, chosen_configuration, chosen_name, configurations, split_of_file
from .text_files import captioned_images


if TYPE_CHECKING:
    from ...config import DataConfig


def open_named(
    config: "DataConfig", cache_dir: str | Path | None, streaming: bool, wanted: str, report: DataReport
) -> Dataset | IterableDataset:
    """What `datasets` finds under `--dataset_name`.

    Args:
        config ([`DataConfig`]): The flags.
        cache_dir (`str` or `Path`, *optional*): As `--cache_dir`.
        streaming (`bool`): Do not download or copy, read while iterating.
        wanted (`str`): Which split is read, as in [`chosen_name`].
        report ([`DataReport`]): Told what is read and what is not.

    Raises:
        DiffTuneError: There is no such data set, or no split that is wanted; or `datasets` would read a folder otherwise
            than its files say.
    """
    name, data_dir = config.dataset_name or "", config.train_data_dir
    given: dict[str, Any] = {"name": config.dataset_config_name, "data_dir": data_dir}
    folder = Folder(Path(name).expanduser().absolute()) if Path(name).expanduser().is_dir() else None
    if folder is not None and data_dir is None:
        given |= folder_arguments(folder, config)
    given["cache_dir"] = None if cache_dir is None else str(cache_dir)
    # a file that was edited and given its old time back is noticed only by reading it again
    given["download_mode"] = DownloadMode.REUSE_CACHE_IF_EXISTS if config.verify_cache else None
    try:
        builder = load_dataset_builder(name, **given)
        if folder is not None and data_dir is None:
            check_folder(folder, builder, config, report)
        if streaming:
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
        raise DiffTuneError(
            f"--dataset_name: {name} cannot be loaded: {first_sentence(cause(error))}{advice}."
        ) from error
    chosen = chosen_name([str(split) for split in splits], wanted, "dataset_name", name)
    for split, rows in splits.items():
        count = len(rows) if isinstance(rows, Dataset) else None
        report.files.append(FileRows(str(split), name, count, str(split) == chosen))
    if folder is not None and data_dir is None and not streaming:
        report.left_out += unnamed(folder, splits.values())
    return splits[chosen]


def unnamed(folder: Folder, splits: Iterable[Dataset]) -> list[str]:
    """The images of a folder with metadata that `datasets` passed over, because no metadata file names them; as a phrase."""
    if not any(file.name in METADATA_NAMES for file in folder.files):
        return []
    named: set[str] = set()
    others: set[str] = set()  # in columns that are text to `datasets`, as control images are
    for split in splits:
        for column, feature in split.features.items():
            if isinstance(feature, Image):
                named.update(filter(None, pc.struct_field(split.data.column(column), "path").to_pylist()))
            elif isinstance(feature, Value) and feature.dtype == "string":
                others.update(
                    Path(text).name for text in split.data.column(column).to_pylist() if text and is_image_file(text)
                )
    used = {os.path.normpath(path) for path in named}
    rest = [file for file in folder.files if is_image_file(file) and str(file) not in used and file.name not in others]
    phrase = folder.phrase(rest, "image", "not named by the metadata")
    return [phrase] if phrase else []


def folder_arguments(folder: Folder, config: "DataConfig") -> dict[str, Any]:
    """What `load_dataset` must be told beside the folder's name; its configurations are not all known to `datasets`.

    Raises:
        DiffTuneError: `save_to_disk` wrote the folder, or it has several configurations and no choice.
    """
    if is_saved(folder.path):
        raise DiffTuneError(
            f"--dataset_name: {folder.path} was written by save_to_disk; give it as --train_data_dir, which reads that."
        )
    tables = [file for file in folder.files if file.suffix == ".parquet"]
    declared, default = card_configurations(folder.path, folder.files)
    if declared:  # `datasets` knows those of the card
        if config.dataset_config_name is None:
            chosen_configuration(declared, None, default, "dataset_name", folder.path)
        return {}
    found = configurations(folder.path, tables)
    if not found:
        return {}
    name = chosen_configuration(found, config.dataset_config_name, None, "dataset_name", folder.path)
    return {"name": None, "data_dir": name}


def check_folder(folder: Folder, builder: Any, config: "DataConfig", report: DataReport) -> None:
    """Compares what `datasets` takes of a folder with what is there.

    Raises:
        DiffTuneError: Names of files make it leave the metadata out, or make it train on what is held out; or it would
            leave out a whole class.
    """
    splits = {Path(file): str(split) for split, files in (builder.config.data_files or {}).items() for file in files}
    flag = f"give the folder as --train_data_dir {folder.path}"
    metadata = [file for file in folder.files if file.name in METADATA_NAMES]
    if strays := [file for file in metadata if file not in splits]:
        example = folder.inner(next(iter(splits)))
        raise DiffTuneError(
            f"--dataset_name: `datasets` sorts the files of {folder.path} into the splits"
            f" {', '.join(dict.fromkeys(splits.values()))} by their names, such as {example}, and with them it does not read"
            f" {folder.inner(strays[0])}; {flag}, which goes by that, or call the files otherwise."
        )
    captionless = not metadata and not any(file.suffix == ".parquet" for file in folder.files)
    if captionless and config.label_column is None and captioned_images(folder):
        raise DiffTuneError(
            f"--dataset_name: `datasets` does not read captions from the .txt files of {folder.path}; {flag}, which does."
        )
    if not card_configurations(folder.path, folder.files)[0]:
        for file, split in splits.items():
            if file.name in METADATA_NAMES or file.suffix == ".parquet":
                other = split_of_file(file.relative_to(folder.path), file)
                if split == TRAIN and other not in (TRAIN, None):
                    raise DiffTuneError(
                        f"--dataset_name: `datasets` takes {folder.inner(file)} of {folder.path} for train, and its name says"
                        f" {other}; {flag}, which leaves it out, or give the splits names in lower case."
                    )
    suffixes = getattr(builder, "EXTENSIONS", None)  # of builders that go by folders of images
    read = {file for file in splits if suffixes is None or file.suffix.lower() in suffixes or file in metadata}
    unread = [
        file
        for file in folder.files
        if file not in read and (is_image_file(file) or file.suffix.lower() in UNREAD_SUFFIXES)
    ]
    tables = [file for file in folder.files if file not in read and file.suffix == ".parquet"]
    if config.label_column is not None and not metadata and suffixes is not None:
        filled = {parent for file in folder.files for parent in file.parents}
        if empty := [place for place in folder.folders if place not in filled]:
            raise DiffTuneError(
                f"--dataset_name: the folder {empty[0]} is empty, and its class would be missing; put its images there, or take"
                " the folder away if it is no class."
            )
        for parent in dict.fromkeys(file.parent for file in unread):
            if not any(file.parent == parent for file in read):
                raise DiffTuneError(
                    f"--dataset_name: `datasets` reads no file in the folder {parent} ({by_suffix(unread)}), and its class"
                    f" would be missing; {flag}, or convert its images to PNG."
                )
    report.left_out += [
        phrase
        for phrase in (
            folder.phrase(unread, "image", "not read by `datasets`"),
            folder.phrase(tables, "Parquet file", "not read by `datasets`"),
        )
        if phrase
    ]
