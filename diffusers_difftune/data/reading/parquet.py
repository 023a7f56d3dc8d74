# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Images in Parquet files."""

import hashlib
import os
from pathlib import Path

from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetsError

from ...errors import DiffTuneError, first_sentence
from ...io.hashing import file_sha256
from ..cache.in_use import COPIES, hold_while_running
from ..cache.place import difftune_cache_dir
from ..report import DataReport, FileRows
from ..source import Source
from .folders import Folder
from .records import check_parquet
from .splits import chosen, file_splits, label


def open_parquet(folder: Folder, files: list[Path], source: Source, report: DataReport) -> Dataset | IterableDataset:
    """The rows of those Parquet files in a folder that are of the configuration and the split that are wanted. `datasets` copies
    them into an Arrow cache that goes by the files' contents, unless it reads them while iterating."""
    splits = file_splits(folder, files, source, report)
    first = next(iter(splits))
    used = chosen(splits.values(), source.wanted, folder.path, folder.inner(first))
    names = []
    for file, split in splits.items():
        rows = check_parquet(file) if split in used else rows_if_readable(file)
        report.files.append(FileRows(label(split, used), str(folder.inner(file)), rows, split in used))
        if rows and split in used:  # `datasets` stumbles over files without rows
            names.append(str(file))
    report.left_out += folder.left_out(files, "beside Parquet files, which are read instead", "")
    if not names:
        raise DiffTuneError(f"{first} has no rows.")
    try:
        if source.streaming:
            return load_dataset("parquet", data_files=names, split="train", streaming=True)
        cache_dir = difftune_cache_dir(source.cache_dir)
        hashes = " ".join(file_sha256(file, cache_dir, source.config.verify_cache) for file in names)
        copy = cache_dir / COPIES / hashlib.sha256(hashes.encode()).hexdigest()
        hold_while_running(copy, source=os.path.dirname(names[0]) if len(names) > 1 else names[0])
        return load_dataset("parquet", data_files=names, split="train", cache_dir=str(copy))
    except Exception as error:  # `datasets` and pyarrow have many for columns that differ and for damage
        several = f" and {len(names) - 1} more files" if len(names) > 1 else ""
        problem = first_sentence(cause(error))
        raise DiffTuneError(f"{names[0]}{several} cannot be read as Parquet: {problem}.") from error


def rows_if_readable(file: Path) -> int | None:
    """How many rows a Parquet file has that is not read, if it is one."""
    try:
        return check_parquet(file)
    except DiffTuneError:
        return None


def cause(error: BaseException) -> BaseException:
    """What `datasets` raised its error for: its own says only that there was one."""
    return cause(error.__cause__) if isinstance(error, DatasetsError) and error.__cause__ else error
