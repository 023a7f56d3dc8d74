# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Folders and metadata files of anything: each is a data set, or told in one sentence. Hypothesis makes them."""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_difftune.config import ClassConditionalConfig, DataConfig
from diffusers_difftune.data.dataset import TargetData, load_target_data
from diffusers_difftune.data.images.decode import load_rgb
from diffusers_difftune.data.reading.records import read_records
from diffusers_difftune.errors import CONTROL_CHARACTERS, DiffTuneError
from tests.tiny import tiny_image


def png_bytes(index: int) -> bytes:
    file = io.BytesIO()
    tiny_image(index)[0].save(file, "PNG")
    return file.getvalue()


IMAGES = [png_bytes(index) for index in range(3)]


def parquet_bytes(columns: dict) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def one_line(error: DiffTuneError) -> None:
    assert not CONTROL_CHARACTERS.search(str(error)) and str(error).endswith(".")


# --- the metadata reader ---

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
name = st.sampled_from(("file_name", "text", "label", "", "a,b", '"', "\n")) | text
value = st.none() | st.booleans() | st.integers() | st.floats() | text | st.lists(text, max_size=2)
records = st.lists(st.dictionaries(name, value, max_size=3), min_size=1, max_size=4)


@given(records)
def test_json_is_read_as_it_was_written(place: Path, rows: list[dict]) -> None:
    file = place / "metadata.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert repr(read_records(file)) == repr(rows)  # by what they look like, since nan is not nan


@given(st.lists(name, min_size=1, max_size=3, unique=True), st.data())
def test_csv_is_read_as_it_was_written(place: Path, names: list[str], data: st.DataObject) -> None:
    cell = text.filter(lambda cell: "\r" not in cell)  # which a text file does not keep
    rows = data.draw(st.lists(st.lists(cell, min_size=len(names), max_size=len(names)), max_size=4))
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([names, *rows])
    file = place / "metadata.csv"
    file.write_bytes(("\ufeff" + written.getvalue()).encode())
    if any("\r" in each for each in names):
        return
    assert read_records(file) == [dict(zip(names, row)) for row in rows]


pieces = st.sampled_from(
    [
        b'{"file_name": "0.png"',
        b', "text": "a"}',
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b"\n",
        b"\r\n",
        b"\0",
        b"\xff",
        b":",
    ]
    + [b"\\u", b"\\ud800", b"file_name,text\n", b"0.png,a", b"\xef\xbb\xbf", b"1e999", b"NaN", b"\x1b[2J", b"PAR1"]
)


@given(st.sampled_from((".jsonl", ".csv", ".parquet")), st.lists(pieces | st.binary(max_size=6), max_size=12))
def test_any_bytes_are_records_or_one_sentence(place: Path, suffix: str, parts: list[bytes]) -> None:
    file = place / f"metadata{suffix}"
    file.write_bytes(b"".join(parts))
    try:
        found = read_records(file)
    except DiffTuneError as error:
        one_line(error)
    else:
        assert all(isinstance(record, dict) for record in found)


@given(st.data())
def test_a_parquet_file_with_changed_bytes_is_a_data_set_or_one_sentence(
    place: Path, cache: Path, data: st.DataObject
) -> None:
    content = bytearray(parquet_bytes({"image": IMAGES, "text": ["a", "b", "c"]}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = place / "data.parquet"
    file.write_bytes(content[: data.draw(st.sampled_from((len(content), len(content) // 2)))])
    looked_at(file, cache, DataConfig)


# --- folders ---

file_names = st.sampled_from(
    [
        "0.png",
        "1.png",
        "2.jpg",
        "a/0.png",
        "b/1.png",
        "metadata.jsonl",
        "metadata.csv",
        "a/metadata.jsonl",
        "x.parquet",
    ]
    + [
        "metadata.parquet",
        ".hidden",
        ".git/config",
        "notes.txt",
        "train/a/0.png",
        "a b.png",
        "é.png",
        "-rf",
        "a\nb.png",
    ]
)
paths = file_names | st.sampled_from(
    ["../0.png", "/etc/passwd", "a/../0.png", ".", "", "nowhere.png", "hf://x", "a::b"]
)
lines = st.lists(
    st.fixed_dictionaries({}, optional={"file_name": paths | value, "text": value, "label": value}), max_size=4
)
contents = st.one_of(
    st.sampled_from(IMAGES),
    st.sampled_from(IMAGES).map(lambda image: image[: len(image) // 2]),
    st.binary(max_size=20),
    lines.map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    st.lists(st.tuples(paths, text), max_size=3).map(
        lambda rows: "\n".join(["file_name,text", *map(",".join, rows)]).encode()
    ),
    st.just(parquet_bytes({"image": IMAGES, "text": ["a", "b", "c"]})),
    st.just(parquet_bytes({"file_name": ["0.png", "../1.png"], "text": ["a", "b"], "label": [1, 2]})),
)
# A file, a link, or a pipe.
entries = contents | st.sampled_from(["0.png", "..", "/etc", "../elsewhere", "nowhere", None])


def fill(folder: Path, things: dict[str, bytes | str | None]) -> None:
    """Puts things into an empty folder; what would lie below a file is left out."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, content in things.items():
        file = folder / path
        with suppress(FileExistsError, NotADirectoryError, FileNotFoundError, IsADirectoryError):
            if any(parent.is_symlink() for parent in file.parents if parent != folder):
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                os.mkfifo(file)
            elif isinstance(content, str):
                file.symlink_to(content)
            else:
                file.write_bytes(content)


def looked_at(folder: Path, cache: Path, config_class: type, **flags: object) -> None:
    """A folder is a data set all of whose rows can be used, or one sentence says why not."""
    try:
        target = load_target_data(config_class(train_data_dir=str(folder), **flags), 0, cache)
    except DiffTuneError as error:
        one_line(error)
        return
    for row in range(len(target)):
        assert min(load_rgb(target.image(row)).size) > 0 and target.captions(row)
        assert lies_within(target, row, folder)


def lies_within(target: TargetData, row: int, folder: Path) -> bool:
    stored = target.images.stored(row)
    path = stored["path"] if stored["bytes"] is None else None
    return path is None or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    yield


@given(
    st.dictionaries(file_names, entries, max_size=7),
    st.booleans(),
    st.sampled_from((DataConfig, ClassConditionalConfig)),
)
def test_any_folder_is_a_data_set_or_one_sentence(
    place: Path, cache: Path, things: dict, skip: bool, config_class: type
) -> None:
    fill(place / "folder", things)
    looked_at(place / "folder", cache, config_class, skip_bad_images=skip)


@given(lines, st.dictionaries(file_names, st.sampled_from(IMAGES), max_size=4), st.booleans())
def test_any_rows_are_a_data_set_or_one_sentence(
    place: Path, cache: Path, rows: list[dict], images: dict, skip: bool
) -> None:
    """Nearer to what is right: images, and rows that may name them."""
    fill(place / "folder", images | {"metadata.jsonl": "\n".join(map(json.dumps, rows)).encode()})
    for config_class in (DataConfig, ClassConditionalConfig):
        looked_at(place / "folder", cache, config_class, skip_bad_images=skip)
