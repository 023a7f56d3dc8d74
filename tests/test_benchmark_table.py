# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of benchmark runs hold what JSON files would, and lose nothing when several processes write."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.table import Table


ROOT = Path(__file__).parents[1]
LEVELS = {
    "benchmarks/transfers/results/runs.csv": ("step", "weights"),
    "benchmarks/transfers/results/tryouts.csv": ("step",),
}
TABLES = sorted(path.relative_to(ROOT) for path in ROOT.glob("benchmarks/**/results/*.csv"))

keys = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=4).filter(
    lambda key: key.isprintable() and key != "run"
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
)
runs = st.dictionaries(st.text(st.sampled_from("ab-/.1"), min_size=1), st.dictionaries(keys, values, min_size=1))


def as_json(found: object) -> str:
    """In JSON 1, 1.0, true and "1" are four things."""
    return json.dumps(found, sort_keys=True)


@given(runs)
def test_a_table_holds_what_json_holds(tmp_path: Path, found: dict) -> None:
    table = Table(tmp_path / "runs.csv")
    table.path.unlink(missing_ok=True)
    table.add(found)
    assert as_json(table.read()) == as_json(found)


def test_measurements_of_a_run_are_rows_of_their_own(tmp_path: Path) -> None:
    run = {"seed": 1, "by_step": {"500": {"raw": {"fid": 2.0}, "ema": {"fid": 1.0}}, "1000": {"ema": {"fid": 0.5}}}}
    table = Table(tmp_path / "runs.csv", levels=("step", "weights"))
    table.add({"one": run})
    lines = table.path.read_text().splitlines()
    assert lines == [
        "run,step,weights,seed,by_step/fid",
        "one,500,raw,1,2.0",
        "one,500,ema,1,1.0",
        "one,1000,ema,1,0.5",
    ]
    assert table.read() == {"one": run}


def test_a_run_is_replaced_by_one_of_the_same_name(tmp_path: Path) -> None:
    table = Table(tmp_path / "runs.csv", levels=("step",))
    table.add({"b": {"by_step": {"1": {"fid": 1}, "2": {"fid": 2}}}, "a": {"by_step": {"1": {"fid": 3}}}})
    table.add({"b": {"by_step": {"1": {"fid": 4}}}})
    assert list(table.read()) == ["a", "b"] and table.read()["b"] == {"by_step": {"1": {"fid": 4}}}


def test_no_run_is_lost_where_several_add_theirs(tmp_path: Path) -> None:
    def add(number: int) -> None:
        Table(tmp_path / "runs.csv").add({f"run-{number:02}": {"seed": number}})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    assert [run["seed"] for run in Table(tmp_path / "runs.csv").read().values()] == list(range(12))


def test_files_of_runs_are_known_at_once_and_collected_later(tmp_path: Path) -> None:
    table = Table(tmp_path / "results" / "runs.csv", tmp_path / "runs")
    assert table.runs() == table.collect() == {} and not table.path.exists()
    table.add({"known": {"seed": 1}})
    for name, seed in (("known", 2), ("set/new", 3)):
        table.file(name).parent.mkdir(parents=True, exist_ok=True)
        table.file(name).write_text(json.dumps({"seed": seed}))
    both = {"known": {"seed": 2}, "set/new": {"seed": 3}}
    assert table.runs() == both and table.read() == {"known": {"seed": 1}}
    assert table.collect() == both == table.read()
    assert not table.file("known").exists() and not table.file("set/new").exists()


@pytest.mark.parametrize("key", ["a/b", "", "a\n", "run"])
def test_keys_that_are_no_part_of_a_column_name_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="cannot be a part of a column's name"):
        Table(tmp_path / "runs.csv").add({"one": {key: 1}})


@pytest.mark.parametrize("file", TABLES, ids=str)
def test_committed_tables_are_as_programs_would_write_them(file: Path, tmp_path: Path) -> None:
    table = Table(ROOT / file, levels=LEVELS.get(str(file), ()))
    again = Table(tmp_path / "again.csv", levels=table.levels)
    again.add(table.read())
    assert again.path.read_bytes() == (ROOT / file).read_bytes()
