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
from ..report import DataReport, FileRows
from ..source import Source
from .folders import Folder
from .records import check_parquet
from .splits import chosen, file_splits, label


def choose_parquet(folder: Folder, files: list[Path], source: Source, report: DataReport) -> list[Path]:
    """The Parquet files to read: of one configuration, and of the splits that are wanted.

    Args:
        folder ([`Folder`]): Where they are.
        files (`list[Path]`): The Parquet files in it.
        source ([`Source`]): What is wanted of them.
        report ([`DataReport`]): Told what is read and what is not.

    Raises:
        DiffTuneError: There are several configurations and no choice, or no split that is wanted.
    """
    splits = file_splits(folder, files, source, report)
    mine = list(splits)
    used = {None} if folder.is_file else chosen(splits.values(), source.wanted, folder.path, folder.inner(mine[0]))
    used_files = [file for file in mine if splits[file] in used]
    for file in mine:
        rows = check_parquet(file) if file in used_files else rows_if_readable(file)
        report.files.append(FileRows(label(splits[file], used), str(folder.inner(file)), rows, splits[file] in used))
    if not folder.is_file:
        report.left_out += folder.left_out(files, "beside Parquet files, which are read instead", "")
    return used_files


def rows_if_readable(file: Path) -> int | None:
    """How many rows a Parquet file has, if it is one; it is not read."""
    try:
        return check_parquet(file)
    except DiffTuneError:
        return None


def open_parquet(files: list[Path], cache_dir: Path, streaming: bool, verify: bool) -> Dataset | IterableDataset:
    """All rows of some Parquet files; `datasets` copies them into an Arrow cache that goes by the files' contents.

    Args:
        files (`list[Path]`): The files.
        cache_dir (`Path`): Where hashes and the cache are kept.
        streaming (`bool`): Do not copy, read while iterating.
        verify (`bool`): Hash every file again.

    Raises:
        DiffTuneError: The files have no rows, or are damaged, or do not go together.
    """
    names = [str(file) for file in files if check_parquet(file)]  # `datasets` stumbles over files without rows
    if not names:
        raise DiffTuneError(f"{files[0]} has no rows.")
    try:
        if streaming:
            return load_dataset("parquet", data_files=names, split="train", streaming=True)
        hashes = " ".join(file_sha256(file, cache_dir, verify) for file in files)
        cache_dir = cache_dir / COPIES / hashlib.sha256(hashes.encode()).hexdigest()
        hold_while_running(cache_dir, source=os.path.dirname(names[0]) if len(names) > 1 else names[0])
        return load_dataset("parquet", data_files=names, split="train", cache_dir=str(cache_dir))
    except Exception as error:  # `datasets` and pyarrow have many for columns that differ and for damage
        several = f" and {len(files) - 1} more files" if len(files) > 1 else ""
        raise DiffTuneError(
            f"{files[0]}{several} cannot be read as Parquet: {first_sentence(cause(error))}."
        ) from error


def cause(error: BaseException) -> BaseException:
    """What `datasets` raised its error for: its own says only that there was one."""
    return cause(error.__cause__) if isinstance(error, DatasetsError) and error.__cause__ else error
