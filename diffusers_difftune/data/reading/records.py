# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of a metadata file: `metadata.jsonl`, `metadata.csv` or `metadata.parquet`.

`datasets` and pyarrow read such files, too, but they do not say which line is wrong, let rows of CSV have too few or too many
values, take the last of two columns of one name, and refuse captions of which some are strings and some are lists.
"""

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import DiffTuneError, first_sentence


# What some programs write in place of commas.
SEPARATORS = (";", "\t", "|")


def read_records(file: Path) -> list[dict]:
    """The rows of a metadata file.

    Raises:
        DiffTuneError: The file or a line of it is damaged, or a column is there twice.
    """
    if file.suffix == ".parquet":
        return parquet_records(file)
    text = read_text(file)
    return csv_records(file, text) if file.suffix == ".csv" else json_records(file, text)


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DiffTuneError(f"{file} is not UTF-8 text; save it as such.") from None
    except OSError as error:
        raise DiffTuneError(f"{file} cannot be read: {error.strerror}.") from None


def parquet_records(file: Path) -> list[dict]:
    check_parquet(file)
    try:
        table = pq.read_table(file)
        check_once(file, table.column_names)
        return table.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable_parquet(file, error) from None


def csv_records(file: Path, text: str) -> list[dict]:
    # not by `splitlines`, which also ends lines at form feeds and other rare characters
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    records: list[dict] = []
    quote = "put values with commas in them into quotation marks"
    try:
        names = list(rows.fieldnames or [])
        if len(names) == 1 and (other := next((each for each in SEPARATORS if each in names[0]), None)):
            raise DiffTuneError(f"{file} separates its columns by {other!r}; separate them by commas, and {quote}.")
        check_once(file, names)
        for record in rows:
            if None in record:
                raise DiffTuneError(
                    f"Line {rows.reader.line_num} of {file} has {len(names) + len(record[None])} values for {len(names)} columns;"
                    f" {quote}."
                )
            records.append(record)
    except csv.Error as error:
        raise DiffTuneError(f"Line {rows.reader.line_num} of {file} is not CSV: {first_sentence(error)}.") from None
    return records


def json_records(file: Path, text: str) -> list[dict]:
    def record(pairs: list[tuple]) -> dict:
        check_once(file, [name for name, _ in pairs], f"Line {number} of ")
        return dict(pairs)

    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line, object_pairs_hook=record)
            if "\\u" in line:  # JSON can escape half a character, which is no text
                json.dumps(found, ensure_ascii=False).encode()
        except DiffTuneError:
            raise
        except (ValueError, RecursionError) as error:  # also a number of a million digits, lists in lists in lists
            problem = error.msg if isinstance(error, json.JSONDecodeError) else first_sentence(error)
            raise DiffTuneError(f"Line {number} of {file} is not JSON: {problem}.") from None
        if not isinstance(found, dict):
            raise DiffTuneError(f'Line {number} of {file} is not an object like {{"file_name": …}}.')
        records.append(found)
    return records


def check_once(file: Path, names: list[str], where: str = "") -> None:
    """Raises a [`DiffTuneError`] if two columns have the same name, of which only one would count."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DiffTuneError(f"{where}{file} has the column {twice[0]} twice.")


def check_parquet(file: Path) -> int:
    """The number of rows of a Parquet file; raises a [`DiffTuneError`] if a file is none."""
    try:
        return pq.read_metadata(file).num_rows
    except (pa.ArrowException, OSError) as error:
        raise unreadable_parquet(file, error) from None


def unreadable_parquet(file: Path, error: Exception) -> DiffTuneError:
    return DiffTuneError(f"{file} cannot be read as Parquet: {first_sentence(error)}.")
