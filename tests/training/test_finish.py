# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How a run ends, and how its log begins again: nothing half-written is ever found."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffusers_difftune.io import atomic
from diffusers_difftune.training.log import TrainingLog
from diffusers_difftune.training.record import save_result


class Trained:
    """Stands in for what trains."""

    def __init__(self, content: str) -> None:
        self.content = content

    def save_result(self, folder: Path) -> None:
        (folder / "unet").mkdir()
        for name in ("unet/weights", "model_index.json"):
            (folder / name).write_text(self.content)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_result_is_on_disk_before_it_takes_the_old_one_s_place(tmp_path, monkeypatch):
    save_result(Trained("old"), tmp_path)
    flushed, moves, fsync_path, rename = [], [], atomic.fsync_path, os.rename
    monkeypatch.setattr(atomic, "fsync_path", lambda path: (flushed.append(Path(path).name), fsync_path(path)))

    def renamed(source: Path, target: Path) -> None:
        assert {"weights", "unet", "model_index.json"} <= set(flushed)
        # whatever happens now: the old unet is in place, or put aside, or has been replaced
        assert list(contents(tmp_path).values()).count("new") == 2
        rename(source, target)
        assert list(contents(tmp_path).values()).count("old") == 2
        moves.append(target)

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, renamed)
    save_result(Trained("new"), tmp_path)
    assert len(moves) == 4
    assert contents(tmp_path) == {"unet/weights": "new", "model_index.json": "new"}
    assert not list(tmp_path.glob(".*"))


def test_a_log_that_cannot_be_cut_back_stays_as_it_is(tmp_path, monkeypatch):
    path, process = tmp_path / "training_log.jsonl", SimpleNamespace(is_main_process=True)
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    with monkeypatch.context() as full_disk, pytest.raises(OSError):
        full_disk.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
        TrainingLog(path, process, 4, 0.1, start_step=2)
    assert path.read_text().count("step") == 3
    TrainingLog(path, process, 4, 0.1, start_step=2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
