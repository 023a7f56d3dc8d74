# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets that were written with `datasets`' own `save_to_disk`."""

from pathlib import Path

from datasets import Dataset, DatasetDict, load_from_disk
from datasets.config import DATASET_INFO_FILENAME, DATASET_STATE_JSON_FILENAME, DATASETDICT_JSON_FILENAME

from ...errors import DiffTuneError, first_sentence
from ...io.safe_paths import Places
from ..report import DataReport, FileRows
from .splits import TRAIN, chosen_name


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    single = (folder / DATASET_INFO_FILENAME).is_file() and (folder / DATASET_STATE_JSON_FILENAME).is_file()
    return single or (folder / DATASETDICT_JSON_FILENAME).is_file()


def open_saved(folder: Path, wanted: str, report: DataReport) -> Dataset:
    """A data set as `save_to_disk` wrote it; which split is read is as in [`chosen_name`]."""
    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # of pyarrow, JSON and files that are missing
        raise DiffTuneError(f"{folder} cannot be read as what save_to_disk wrote: {first_sentence(error)}.") from error
    splits = saved if isinstance(saved, DatasetDict) else {str(saved.split or TRAIN): saved}
    name = next(iter(splits))
    if isinstance(saved, DatasetDict):
        name = chosen_name([str(split) for split in splits], wanted, str(folder))
    for split, rows in splits.items():
        report.files.append(FileRows(str(split), str(split), len(rows), split == name))
    dataset = splits[name].with_format(None)
    places = Places([folder])
    for file in dataset.cache_files:
        if not places.has(file["filename"]):
            raise DiffTuneError(f"{folder} names {file['filename']}, which lies outside of it.")
    return dataset
