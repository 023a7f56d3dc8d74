# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_difftune.io import atomic
from diffusers_difftune.io.atomic import atomic_folder, write_bytes_atomic


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes_atomic(path, b"old")
    write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_cannot_be_flushed_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "checkpoint-1"
    for content in ("old", "new"):
        with atomic_folder(path) as folder:
            (folder / "unet").mkdir()
            (folder / "unet" / content).write_text(content)
            assert not (path / "unet" / content).exists()
        assert [item.name for item in (path / "unet").iterdir()] == [content]
    assert os.listdir(path.parent) == ["checkpoint-1"]


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as folder:
        (folder / "old").touch()
    with pytest.raises(RuntimeError), atomic_folder(path) as folder:
        (folder / "new").touch()
        raise RuntimeError
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["folder"]


KILLED = """
import os, signal, sys
from diffusers_difftune.io import atomic
rename, calls = os.rename, []
def kill_at(source, target):
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(source)
    rename(source, target)
atomic.os.rename = kill_at
with atomic.atomic_folder(sys.argv[1]) as folder:
    (folder / "new").touch()
"""


@pytest.mark.parametrize("moment", [0, 1])
def test_a_kill_at_a_rename_loses_nothing(tmp_path: Path, moment: int) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as folder:
        (folder / "old").touch()
    assert subprocess.run([sys.executable, "-c", KILLED, str(path), str(moment)]).returncode == -9
    with pytest.raises(RuntimeError), atomic_folder(path):
        assert os.listdir(path) == ["old"]  # put back, if it was the one moment in which it was out of place
        raise RuntimeError
    assert os.listdir(tmp_path) == ["folder"]


def test_files_and_folders_are_flushed_before_they_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(atomic, "fsync_path", lambda path: events.append(Path(path).name))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda source, target: (events.append("rename"), rename(source, target)))
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").touch()
    assert set(events[: events.index("rename")]) == {"file", "sub", ".folder.tmp"}
    assert events[-1] == tmp_path.name
