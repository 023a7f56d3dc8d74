# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The runs of a benchmark in one CSV file, which holds all that their JSON files held.

A row is a run, or one measurement of a run that was measured several times. Its first column, `run`, is the run's name;
the others are called by the keys that lead to a value, `settings/flags/seed`. A cell is a number, `true`, `false`, a list in
JSON, or a text as it stands (in quotation marks where it would be read as something else); `null` is no value, and an empty
cell says that the run has no such key.

`pandas.read_csv("benchmarks/transfers/results/runs.csv").groupby("method")["by_step/fid"].mean()` reads it.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from diffusers_difftune.io.atomic import write_bytes_atomic


class Table:
    """Results of runs, by the run's name.

    Args:
        file (`Path`): The CSV file, which need not be there.
        pending (`Path`, *optional*): A folder in which runs write a JSON file each, until [`collect`] takes them into the
            table. So runs in processes of their own need not wait for each other, and a run that is done is known at once.
        measured (`str`, *optional*): The key under which a run has its measurements; each becomes a row.
        levels (`Sequence[str]`, *optional*): The columns that say which measurement a row is, for each level of keys below
            `measured`.
    """

    def __init__(
        self, file: Path, pending: Path | None = None, measured: str = "by_step", levels: Sequence[str] = ()
    ) -> None:
        self.path, self.pending, self.measured, self.levels = file, pending, measured, tuple(levels)

    def read(self) -> dict[str, dict[str, Any]]:
        """All runs in the table, in the order of their names."""
        if not self.path.is_file():
            return {}
        found: dict[str, dict[str, Any]] = {}
        with open(self.path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                run = found.setdefault(row.pop("run"), {})
                place = (self.measured, *(row.pop(level) for level in self.levels)) if self.levels else ()
                for column, cell in row.items():
                    if cell:
                        inside = column.startswith(f"{self.measured}/") and place
                        keys = column.split("/")
                        put(run, (*place, *keys[1:]) if inside else keys, value_of(cell))
        return found

    def runs(self) -> dict[str, dict[str, Any]]:
        """All runs that are there: those in the table, and those that have only a file yet."""
        files = sorted(self.pending.rglob("*.json")) if self.pending else []
        found = self.read() | {self._name(file): json.loads(file.read_text(encoding="utf-8")) for file in files}
        return dict(sorted(found.items()))

    def file(self, name: str) -> Path:
        """Where a run writes its JSON file."""
        if self.pending is None:
            raise ValueError(f"the table {self.path} has no folder for the files of runs")
        return self.pending / f"{name}.json"

    def add(self, runs: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes runs into the table, in place of those of the same names; others may do so at the same time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            write_bytes_atomic(self.path, self._text(self.read() | dict(runs)).encode())

    def collect(self) -> dict[str, dict[str, Any]]:
        """Takes all files of runs into the table, removes them, and returns all runs."""
        files = sorted(self.pending.rglob("*.json")) if self.pending else []
        if files:
            self.add({self._name(file): json.loads(file.read_text(encoding="utf-8")) for file in files})
        for file in files:
            file.unlink()
        return self.read()

    def _name(self, file: Path) -> str:
        return file.relative_to(self.pending or "").with_suffix("").as_posix() if self.pending else file.stem

    def _text(self, runs: Mapping[str, Mapping[str, Any]]) -> str:
        rows = [row for name, run in sorted(runs.items()) for row in self._rows(name, run)]
        columns = in_groups(dict.fromkeys(column for row in rows for column in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _rows(self, name: str, run: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        if not self.levels:
            yield {"run": name, **{"/".join(keys): cell_of(value) for keys, value in leaves(run)}}
            return
        shared = {key: value for key, value in run.items() if key != self.measured}
        columns = {"/".join(keys): cell_of(value) for keys, value in leaves(shared) if keys}
        for place, found in measurements(run[self.measured], len(self.levels)):
            if not found:
                raise ValueError(f"the run {name} has no figures of {' '.join(place)}")
            own = {"/".join((self.measured, *keys)): cell_of(value) for keys, value in leaves(found)}
            yield {"run": name, **dict(zip(self.levels, place, strict=True)), **columns, **own}


def in_groups(columns: Iterable[str]) -> list[str]:
    """Columns in the order of their first appearance, those below one key beside each other."""
    order: dict[str, int] = {}
    for column in columns:
        for prefix in prefixes(column):
            order.setdefault(prefix, len(order))
    return sorted(columns, key=lambda column: [order[prefix] for prefix in prefixes(column)])


def prefixes(column: str) -> list[str]:
    """`a`, `a/b` and `a/b/c` of `a/b/c`."""
    keys = column.split("/")
    return ["/".join(keys[: count + 1]) for count in range(len(keys))]


def leaves(found: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value in nested dictionaries, with the keys that lead to it; an empty dictionary is a value."""
    if not (isinstance(found, dict) and found):
        yield keys, found
        return
    for key, value in found.items():
        if not key.isprintable() or not key or "/" in key or (not keys and key == "run"):
            raise ValueError(f"the key {key!r} cannot be a part of a column's name")
        yield from leaves(value, (*keys, key))


def measurements(found: Mapping[str, Any], levels: int) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """What lies so many levels of keys deep, with these keys."""
    for key, value in found.items():
        if levels == 1:
            yield (key,), value
        else:
            yield from (((key, *keys), inner) for keys, inner in measurements(value, levels - 1))


def put(found: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Sets a value in nested dictionaries."""
    for key in keys[:-1]:
        found = found.setdefault(key, {})
    found[keys[-1]] = value


def cell_of(value: Any) -> str:
    """The cell of a value; [`value_of`] reads it again."""
    if isinstance(value, str) and value and value.isprintable() and value_of(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def value_of(cell: str) -> Any:
    """The value of a cell that is not empty."""
    try:
        return json.loads(cell)
    except ValueError:
        return cell
