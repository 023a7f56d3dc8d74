# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Folders that may not be written to, and a temporary folder that is not there, in a process of its own.

Nothing is forbidden to root, so there the process gives up the right to write everywhere (`CAP_DAC_OVERRIDE`) first.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_difftune.training.checkpoint_files import what_is_missing

from .runs import FULL, SCRIPTS, arguments, environment, run, same_weights


# Like the script, but once this many optimiser steps are done the run folder may not be written to.
FORBID = """
import os, runpy, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
script, folder, step, *words = sys.argv[1:]
seen = 0
def count(*_):
    global seen
    seen += 1
    if seen == int(step):
        os.chmod(folder, 0o555)
register_optimizer_step_post_hook(count)
sys.argv = [script, *words]
runpy.run_path(script, run_name="__main__")
"""
SCRIPT = str(SCRIPTS / f"{FULL}.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() == 0 and shutil.which("setpriv") is None,
        reason="root may write everywhere, and setpriv is missing",
    ),
]


def start(command: list[str], **more: str) -> subprocess.CompletedProcess:
    """Runs a command as somebody to whom something can be forbidden."""
    less = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*less, sys.executable, *command], env=environment() | more, capture_output=True, text=True, timeout=200
    )


def last_line(done: subprocess.CompletedProcess) -> str:
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_for_reading_only_is_told_before_anything_is_loaded(is_there, tiny_pipeline, tiny_images, tmp_path):
    parent = tmp_path / "for reading"
    output = parent if is_there else parent / "run"
    parent.mkdir()
    parent.chmod(0o555)
    words = arguments(tiny_pipeline, tiny_images, Path("PLACE"))
    words[words.index("PLACE")] = str(output)
    done = start([SCRIPT, *words])
    assert done.returncode == 2
    assert last_line(done).startswith(f"error: --output_dir {output}") and " cannot be " in last_line(done)
    assert not any(parent.iterdir())


def test_a_folder_that_turns_read_only_leaves_the_last_checkpoint(tiny_pipeline, tiny_images, tmp_path):
    flags = "--checkpointing_steps 2 --max_train_steps 6 --checkpoints_total_limit 1"
    whole = run(FULL, tiny_pipeline, tiny_images, tmp_path / "whole", flags)
    folder = tmp_path / "run"
    done = start(["-c", FORBID, SCRIPT, str(folder), "3", *arguments(tiny_pipeline, tiny_images, folder, flags)])
    assert done.returncode == 2
    assert last_line(done).startswith(f"error: {folder}") and "cannot be written (permission denied)" in last_line(
        done
    )
    assert what_is_missing(folder / "checkpoint-2") is None
    folder.chmod(0o755)
    same_weights(run(FULL, tiny_pipeline, tiny_images, folder, f"{flags} --resume_from_checkpoint latest"), whole)


def test_a_temporary_folder_that_is_missing_does_no_harm(tiny_pipeline, tiny_images, tmp_path):
    words = arguments(tiny_pipeline, tiny_images, tmp_path / "run")
    missing = str(tmp_path / "missing")
    done = start([SCRIPT, *words], TMPDIR=missing, TEMP=missing, TMP=missing)
    assert done.returncode == 0, done.stderr[-3000:]
    same_weights(tmp_path / "run", run(FULL, tiny_pipeline, tiny_images, tmp_path / "other"))
