# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of shards, by a user of them that stores numbers. Banks and control images have tests of their own."""

import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.io import shards
from diffusers_difftune.io.manifest import ShardManifest, setting
from diffusers_difftune.io.shards import StoredRows, begun_manifest, build_shards, parquet_bytes


@dataclass(kw_only=True)
class NumberManifest(ShardManifest):
    factor: int = setting("--factor", least=1)
    count: int = setting("the count", least=1)
    shard_size: int = setting("--size", least=1)
    libraries: dict[str, str] = setting("the version of ")
    format_version: int = 1
    shards: dict[str, str] = field(default_factory=dict)

    what = "a set of numbers"
    unit = "numbers"
    title = "Numbers"
    building, place = ".building", "data"

    def __len__(self) -> int:
        return self.count

    def shard_name(self, number: int) -> str:
        return f"numbers-{number:05d}.parquet"


class Numbers(StoredRows[NumberManifest, pa.ChunkedArray]):
    def read_shard(self, path: Path) -> pa.ChunkedArray:
        return pq.read_table(path)["number"]

    def __getitem__(self, index: int) -> int:
        shard, row = self.find(index)
        return shard[row].as_py()


MANIFEST = NumberManifest(factor=3, count=10, shard_size=4, libraries={"abacus": "1"})
made: list[range] = []


def build(folder: Path, manifest: NumberManifest = MANIFEST) -> NumberManifest:
    made.clear()

    def make(rows: range) -> bytes:
        made.append(rows)
        return parquet_bytes(pa.table({"number": [manifest.factor * row for row in rows]}))

    return build_shards(folder, manifest, make, progress=False, finish=lambda begun: {"LIST": b"numbers"})


def test_rows_are_found_by_their_index(tmp_path: Path) -> None:
    manifest = build(tmp_path / "numbers")
    assert made == [range(4), range(4, 8), range(8, 10)]
    assert manifest.is_complete and not MANIFEST.is_complete, "settings are not changed by building"
    assert sorted(path.name for path in (tmp_path / "numbers").iterdir()) == ["LIST", "data", "manifest.json"]
    numbers = Numbers(tmp_path / "numbers", NumberManifest.read(tmp_path / "numbers"))
    assert [numbers[index] for index in range(len(numbers))] == list(range(0, 30, 3))
    for index in (-1, 10):
        with pytest.raises(IndexError, match=f"has 10 numbers, and number {index} was asked for"):
            numbers[index]


def test_the_shards_asked_for_last_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = Numbers(tmp_path, build(tmp_path))
    assert numbers[0] == 0
    monkeypatch.setattr(shards, "MEMORY_LIMIT", 2 * numbers._shards[0].nbytes)
    read: list[str] = []
    monkeypatch.setattr(
        Numbers, "read_shard", lambda self, path: read.append(path.name) or pq.read_table(path)["number"]
    )
    assert [numbers[index] for index in (0, 4, 0, 8, 1, 5)] == [0, 12, 0, 24, 3, 15]
    assert read == [f"numbers-0000{number}.parquet" for number in (1, 2, 1)], (
        "not the first, which was asked for again"
    )
    assert not pickle.loads(pickle.dumps(numbers))._shards


def test_what_is_there_is_not_made_again_and_what_is_not_whole_is(tmp_path: Path) -> None:
    build(tmp_path)
    complete = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert build(tmp_path).is_complete and made == []

    (tmp_path / "data").rename(tmp_path / ".building")
    (tmp_path / "manifest.json").write_bytes(MANIFEST.to_bytes())
    (tmp_path / ".building" / "numbers-00001.parquet").write_bytes(b"PAR1")
    (tmp_path / ".building" / "numbers-00002.parquet").unlink()
    (tmp_path / ".building" / ".numbers-00002.parquet.1.tmp").write_bytes(b"half")
    (tmp_path / ".lock").touch()
    (tmp_path / ".building" / "numbers-00009.parquet").touch()
    assert MANIFEST.num_built(tmp_path) == 8, "by their names"
    (tmp_path / ".building" / "numbers-00009.parquet").unlink()
    build(tmp_path)
    assert made == [range(4, 8), range(8, 10)]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == complete


def test_settings_are_compared(tmp_path: Path) -> None:
    build(tmp_path)
    other = replace(MANIFEST, factor=5, count=12, libraries={"abacus": "2"})
    said = (
        "holds a set of numbers of other settings: --factor is 5, not 3; the count is 12, not 10; delete that folder"
    )
    with pytest.raises(DiffTuneError) as refused:
        begun_manifest(tmp_path, other)
    assert said in str(refused.value)
    assert build(tmp_path, replace(MANIFEST, libraries={"abacus": "2"})).libraries == {"abacus": "1"}
    (tmp_path / "manifest.json").write_bytes(MANIFEST.to_bytes())
    with pytest.raises(DiffTuneError, match="other settings: the version of abacus is 2, not 1; delete"):
        build(tmp_path, replace(MANIFEST, libraries={"abacus": "2"}))


def test_every_damaged_shard_is_named(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "data" / "numbers-00000.parquet").write_bytes(b"")
    (tmp_path / "data" / "numbers-00002.parquet").unlink()
    said = "is damaged: data/numbers-00000.parquet, data/numbers-00002.parquet is missing or is not what was written"
    with pytest.raises(DiffTuneError, match=said):
        build(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not a set of numbers: it has no manifest.json"),
        (b"{", "is damaged: it is not a manifest in JSON"),
        (b'{"format_version": 2}', "has format 2, and this version reads format 1"),
        (b'{"format_version": 1}', r"is damaged \(factor is missing\)"),
        (replace(MANIFEST, count=0).to_bytes(), r"is damaged \(count is 0\)"),
        (replace(MANIFEST, shard_size=2**32).to_bytes(), r"is damaged \(shard_size is 4294967296\)"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DiffTuneError, match=said):
        NumberManifest.read(tmp_path)


def test_a_full_disk_is_said_and_leaves_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0

    def write(path: Path, data: bytes) -> None:
        nonlocal written
        written += 1
        if written > 2:
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(shards, "write_bytes_atomic", write)
        build(tmp_path / "numbers")
    assert MANIFEST.num_built(tmp_path / "numbers") == 4
    with monkeypatch.context() as patch, pytest.raises(DiffTuneError, match="cannot be written to: No space left"):
        patch.setattr(shards, "write_bytes_atomic", write)
        build(tmp_path / "others")
    build(tmp_path / "numbers")
    assert made == [range(4, 8), range(8, 10)]
