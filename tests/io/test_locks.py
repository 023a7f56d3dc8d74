# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Folders that two runs build at the same time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from diffusers_difftune.controls.manifest import ConditionManifest
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.io.locks import build_lock
from diffusers_difftune.io.shards import build_shards
from tests.bank.building import contents, load_pipeline, small_bank
from tests.tiny import save_tiny_images
from tests.training.runs import arguments
from tests.two_runs import SHARDS


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "killed"), [("conditions", False), ("conditions", True), ("bank", False)])
def test_the_second_run_waits_and_finds_it_done(kind: str, killed: bool, tiny_pipeline: Path, tmp_path: Path) -> None:
    folder, log = tmp_path / "made", tmp_path / "log"
    command = [sys.executable, "-m", "tests.two_runs", kind, str(folder), str(log)]
    command += [str(tiny_pipeline)] if kind == "bank" else []
    runs = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert runs.stdout is not None
    first, second = map(int, runs.stdout.readline().split())
    if killed:
        time.sleep(0.2)
        os.kill(first, signal.SIGKILL)
    codes, told = runs.communicate(timeout=120)
    assert codes.split() == ["-9" if killed else "0", "0"], told
    assert f"Another run is building {folder}; this one waits for it." in told and "Traceback" not in told

    by = [int(line) for line in log.read_text().split()]
    if killed:  # each shard was made once, but for the one that was lost
        assert set(by) == {first, second} and SHARDS <= len(by) <= SHARDS + 1
    else:
        assert by == [first] * SHARDS
    names = [name for name in contents(folder) if name.rpartition("/")[2].startswith(".")]
    assert names == [] and len(list((folder / "data").iterdir())) == SHARDS


@pytest.mark.slow
def test_processes_of_one_run_wait_together(tmp_path: Path) -> None:
    images, out = save_tiny_images(tmp_path / "images", count=40, size=8), tmp_path / "out"
    out.mkdir()
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "diffusers_difftune"]
    flags = ["--kind", "edge", "--cache_dir", str(tmp_path / "cache")]
    with FileLock(out / ".lock"):
        run = subprocess.Popen(
            [sys.executable, *launch, "conditions", "build", str(images), str(out), *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert run.stderr is not None
        told = ""
        while "Another run is building" not in told:
            line = run.stderr.readline()
            assert line, told
            told += line
        assert os.listdir(out) == [".lock"]
    said, rest = run.communicate(timeout=120)
    assert run.returncode == 0, told + rest
    assert said.count("has 40 images with their control images") == 1 and (told + rest).count("Another run") == 1
    assert sorted(os.listdir(out)) == ["conditions.json", "data", "preview.png"]


def test_what_a_failed_run_began_is_open_to_the_next(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), build_lock(tmp_path / "made"):
        raise RuntimeError
    with build_lock(tmp_path / "made"):
        assert os.listdir(tmp_path / "made") == [".lock"]
    assert os.listdir(tmp_path / "made") == []


def test_a_lock_that_a_killed_run_left_in_a_whole_folder_is_removed(tiny_pipeline: Path, tmp_path: Path) -> None:
    manifest = ConditionManifest(extractor={"kind": "edge"}, source={}, num_rows=1, shard_size=1, libraries={})
    for _ in range(2):
        build_shards(tmp_path / "made", manifest, lambda rows: b"", progress=False)
        small_bank(load_pipeline(tiny_pipeline), tiny_pipeline, tmp_path / "bank")
        for folder in (tmp_path / "made", tmp_path / "bank"):
            assert ".lock" not in os.listdir(folder)
            (folder / ".lock").touch()


def test_a_folder_that_cannot_be_written_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "made"
    manifest = ConditionManifest(extractor={"kind": "edge"}, source={}, num_rows=1, shard_size=1, libraries={})
    with pytest.raises(DiffTuneError, match="made cannot be written to: Not a directory"):
        build_shards(folder, manifest, lambda rows: b"", progress=False)
    with pytest.raises(DiffTuneError, match="made cannot be written to: Not a directory"):
        small_bank(load_pipeline(tiny_pipeline), tiny_pipeline, folder)


@pytest.mark.slow
def test_a_failure_of_the_main_process_ends_the_others_with_its_cause(
    tiny_pipeline: Path, tiny_conditions: Path, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"
    ended.mkdir()
    flags = f"--condition_kind sketch --control_evaluation_data {tiny_conditions} --control_evaluation_samples 2"
    flags += f" --objective standard --cache_dir {tmp_path / 'cache'}"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.failing_run"]
    subprocess.run(
        [sys.executable, *launch, str(ended), *arguments(tiny_pipeline, tiny_conditions, tmp_path / "run", flags)],
        cwd=ROOT,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=120,
    )
    cause = "MemoryError: no memory left to draw with"
    assert {file.name: file.read_text() for file in ended.iterdir()} == {
        "0": cause,
        "1": f"RuntimeError: The main process stopped: {cause}",
    }
