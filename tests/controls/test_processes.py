# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Control images whose building is killed, and such that several processes build."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.cli import main
from diffusers_difftune.config import ControlNetConfig
from diffusers_difftune.data.dataset import load_target_data
from tests.bank.building import contents, load_pipeline, small_bank
from tests.killing import Zygote
from tests.tiny import save_tiny_images


pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[2]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.mark.parametrize("kind", ["data", "bank"])
def test_killed_at_random_moments_they_are_byte_identical(kind: str, tiny_pipeline: Path, tmp_path: Path) -> None:
    if kind == "data":
        zygote = Zygote(
            "tests.controls.zygote", "data", save_tiny_images(tmp_path / "images", count=60), tmp_path / "cache"
        )
    else:
        bank = small_bank(load_pipeline(tiny_pipeline), tiny_pipeline, tmp_path / "bank", num_samples=90, steps=1)
        zygote = Zygote("tests.controls.zygote", "bank", bank.folder, tiny_pipeline)
    started = time.monotonic()
    assert zygote.build(tmp_path / "whole") == 0
    duration = time.monotonic() - started
    whole = contents(tmp_path / "whole")
    assert len(whole) == (32 if kind == "data" else 25)

    moments, folder, kills, built = random.Random(3), tmp_path / "killed", 0, []
    while kills < 6:
        code = zygote.build(folder, kill_after=moments.uniform(0, duration))
        if code == -signal.SIGKILL:
            kills += 1
            built.append(len(list(folder.rglob("train-*.parquet"))))
        else:  # it was faster than the kill: begin another one
            assert code == 0
            shutil.rmtree(folder)
    assert zygote.build(folder) == 0
    zygote.close()
    assert contents(folder) == whole, f"shards there at the kills: {built}"
    assert len(set(built)) > 1, built  # the kills came at different places


def on_two_processes(arguments: list[str]) -> str:
    """Runs `difftune` on two processes; returns its output."""
    command = [sys.executable, *TWO, "-m", "diffusers_difftune", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_two_processes_build_the_same_data(tmp_path: Path) -> None:
    images = save_tiny_images(tmp_path / "images", count=600, size=8)

    def command(out: str) -> list[str]:
        flags = ["--kind", "normal", "--model", "drawing", "--cache_dir", str(tmp_path / "cache")]
        return ["conditions", "build", str(images), str(tmp_path / out), *flags]

    assert main(command("one")) == 0
    assert on_two_processes(command("two")).count("has 600 images with their control images") == 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    config = ControlNetConfig(train_data_dir=str(tmp_path / "two"))
    assert len(load_target_data(config, 0, tmp_path / "cache2")) == 600


def test_two_processes_build_the_same_of_a_bank(bank: KnowledgeBank, tiny_pipeline: Path, tmp_path: Path) -> None:
    def command(folder: str) -> list[str]:
        copy = shutil.copytree(bank.folder, tmp_path / folder)
        flags = ["--pretrained_model_name_or_path", str(tiny_pipeline), "--cache_dir", str(tmp_path / "cache")]
        return ["conditions", "build", str(copy), "--kind", "edge", *flags]

    assert main(command("one")) == 0
    assert on_two_processes(command("two")).count("has the control images of the bank's 10 samples") == 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
