# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Runs on several processes, and on several machines."""

import json
import subprocess
import sys
import time

import psutil
import pytest

from tests.training.runs import (
    FULL,
    SCRIPTS,
    arguments,
    assert_same_run,
    environment,
    launch,
    run,
    run_on_processes,
    wait_for,
)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tiny_pipeline, tiny_images, tmp_path_factory):
    """A run with the global batch of 12 in one piece."""
    return run(FULL, tiny_pipeline, tiny_images, tmp_path_factory.mktemp("whole"), "--train_batch_size 12")


def num_processes(folder) -> int:
    """Written by the run itself: accelerate can silently start one process where two were asked for."""
    return json.loads((folder / "run_config.json").read_text())["num_processes"]


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_are_one_run(count, whole, tiny_pipeline, tiny_images, tmp_path):
    flags = f"--train_batch_size {12 // count}"
    folder = run_on_processes(count, FULL, tiny_pipeline, tiny_images, tmp_path, flags)
    assert num_processes(folder) == count
    assert_same_run(folder, whole)


def test_two_machines_are_one_run(whole, tiny_pipeline, tiny_images, tmp_path):
    """Two launches that find each other over the network, on two addresses of this machine, with a folder they share."""
    flags = "--train_batch_size 6 --cache_dir " + str(tmp_path / "cache")
    script = [str(SCRIPTS / f"{FULL}.py"), *arguments(tiny_pipeline, tiny_images, tmp_path / "run", flags)]
    launchers = []
    for rank in range(2):
        where = ["--nnodes", "2", "--nproc_per_node", "1", "--node_rank", str(rank)]
        where += ["--master_addr", "127.0.0.1", "--master_port", "29631", "--local_addr", f"127.0.0.{rank + 1}"]
        command = [sys.executable, "-m", "torch.distributed.run", *where, *script]
        launchers.append(subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True))
    said = [launcher.communicate(timeout=250)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    assert num_processes(tmp_path / "run") == 2
    assert_same_run(tmp_path / "run", whole)


def test_a_process_that_dies_ends_the_others_with_the_cause(tiny_pipeline, tiny_images, tmp_path):
    flags = "--objective standard --max_train_steps 100000 --checkpointing_steps 20"
    command = launch(2, FULL, *arguments(tiny_pipeline, tiny_images, tmp_path / "run", flags))
    launcher = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: launcher.poll() is not None or list(tmp_path.glob("run/checkpoint-*")))
    first, second = psutil.Process(launcher.pid).children()
    second.kill()
    began = time.monotonic()
    said = launcher.communicate(timeout=60)[1]
    assert launcher.returncode != 0 and not first.is_running() and time.monotonic() - began < 60
    assert f"Signal 9 (SIGKILL) received by PID {second.pid}" in said
    checkpoints = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("run/checkpoint-*"))
    done = f"--objective standard --checkpointing_steps 20 --max_train_steps {checkpoints[-1] + 2} --resume_from_checkpoint latest"
    folder = run_on_processes(2, FULL, tiny_pipeline, tiny_images, tmp_path / "run", done)
    assert (folder / "model_index.json").is_file()
