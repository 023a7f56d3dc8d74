# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What of a data set is trained on, and what is left out."""

import logging
from dataclasses import dataclass, field


NO_SPLIT = "no split"
MOST_LISTED = 100  # rows or files that an error message lists


@dataclass(frozen=True)
class FileRows:
    """The rows of one file, or of one folder of images."""

    split: str  # "train" where the data has none, `NO_SPLIT` of a file that names none and is left out for that
    file: str  # relative to the data set's folder where it has one
    rows: int | None  # `None` where that is unknown (a stream)
    used: bool  # whether its rows are trained on


@dataclass
class DataReport:
    """What was found where the data is, for the summary of a run.

    Attributes:
        files (`list[FileRows]`): Every file with rows, used or not.
        left_out (`list[str]`): What else is not trained on: a short phrase each, with a count, the reason and an example.
        similar (`str`): Of a row that is left out because its file is not there, the file that it most likely means.
    """

    files: list[FileRows] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    similar: str = ""

    def tell(self, logger: logging.Logger) -> None:
        """Says in one line which splits and files are read and which are not, if any is not, and in one what else is left
        out."""
        if not all(file.used for file in self.files):
            used = ", ".join(summed(self.files, used=True))
            unclear = any(file.split == NO_SPLIT and not file.used for file in self.files)
            logger.log(
                logging.WARNING if unclear else logging.INFO,
                f"Rows used: {used}; left out: {', '.join(summed(self.files, used=False))}.",
            )
        if self.left_out:
            logger.warning(f"Not read: {'; '.join(self.left_out)}.")


def summed(files: list[FileRows], used: bool) -> list[str]:
    """`60 of train (data/a.parquet and 2 more files)` for each split."""
    found = []
    mine = [file for file in files if file.used == used]
    for split in dict.fromkeys(file.split for file in mine):
        these = [file for file in mine if file.split == split]
        rows = "all" if any(file.rows is None for file in these) else sum(file.rows or 0 for file in these)
        more = f" and {len(these) - 1} more file{'s' if len(these) > 2 else ''}" if len(these) > 1 else ""
        found.append(f"{rows} of {split} ({these[0].file}{more})")
    return found


def listed(names: list[str]) -> str:
    """The names, with commas; of very many the first ones."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more
