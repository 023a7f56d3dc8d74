# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest

from diffusers_difftune.io import hashing as filehash
from diffusers_difftune.io.hashing import INDEX_NAME, file_sha256


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(b"some bytes")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_the_sha256(file: Path, tmp_path: Path) -> None:
    assert file_sha256(file) == file_sha256(str(file), tmp_path / "index") == sha256(file)


def test_an_unchanged_file_is_read_once(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = file_sha256(file, tmp_path / "index")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("the file was read again"))
    monkeypatch.chdir(tmp_path)
    assert file_sha256(file, tmp_path / "index") == first
    assert file_sha256("file.bin", tmp_path / "index") == first  # the same file by another path


def test_an_edit_is_noticed(file: Path, tmp_path: Path) -> None:
    first = file_sha256(file, tmp_path)
    file.write_bytes(b"more bytes than before")
    assert file_sha256(file, tmp_path) == sha256(file) != first


def test_a_file_put_in_place_of_another_is_noticed(file: Path, tmp_path: Path) -> None:
    first, time = file_sha256(file, tmp_path), file.stat().st_mtime_ns
    other = tmp_path / "other"
    other.write_bytes(b"same bytes")
    os.utime(other, ns=(time, time))
    other.replace(file)
    assert file.stat().st_mtime_ns == time
    assert file_sha256(file, tmp_path) == sha256(file) != first


def test_verify_notices_an_edit_that_restores_the_time(file: Path, tmp_path: Path) -> None:
    first, time = file_sha256(file, tmp_path), file.stat().st_mtime_ns
    file.write_bytes(b"SOME BYTES")
    os.utime(file, ns=(time, time))
    assert file_sha256(file, tmp_path) == first  # this is what the index cannot see
    assert file_sha256(file, tmp_path, verify=True) == sha256(file)
    assert file_sha256(file, tmp_path) == sha256(file)


def test_a_damaged_index_is_no_obstacle(file: Path, tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_bytes(b"no database" * 1000)
    assert file_sha256(file, tmp_path) == sha256(file)


def test_an_index_that_cannot_be_written_is_no_obstacle(file: Path) -> None:
    assert file_sha256(file, file / "index") == sha256(file)


def hash_all(folder: Path, start: int) -> None:
    paths = sorted(folder.glob("*.bin"))
    for path in paths[start:] + paths[:start]:
        assert file_sha256(path, folder) == sha256(path)


def test_several_processes_share_an_index(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * 100)
    file_sha256(tmp_path / "0.bin", tmp_path)  # a connection that the children must not use
    processes = [multiprocessing.get_context("fork").Process(target=hash_all, args=(tmp_path, k)) for k in (0, 17, 33)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    index = filehash._index(str(tmp_path), os.getpid(), 0)
    assert index is not None
    assert index.execute("SELECT count(*) FROM files").fetchone() == (50,)
