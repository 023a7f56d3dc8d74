# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Banks that are killed, and banks that several processes build."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.bank.manifest import BankManifest
from tests.bank.building import contents
from tests.killing import Zygote


pytestmark = pytest.mark.slow


NUM_SAMPLES = 120  # 30 shards
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def zygote(tiny_pipeline: Path) -> Iterator[Zygote]:
    zygote = Zygote("tests.bank.zygote", tiny_pipeline, NUM_SAMPLES)
    yield zygote
    zygote.close()


def test_killed_at_ten_random_moments_it_is_byte_identical(zygote: Zygote, tmp_path: Path) -> None:
    started = time.monotonic()
    assert zygote.build(tmp_path / "whole") == 0
    duration = time.monotonic() - started
    whole = contents(tmp_path / "whole")
    assert len(whole) == 33

    moments, folder, kills, built = random.Random(7), tmp_path / "killed", 0, []
    while kills < 10:
        code = zygote.build(folder, kill_after=moments.uniform(0, duration / 8))
        if code == -signal.SIGKILL:
            kills += 1
            built.append(BankManifest.read(folder).num_built(folder) if (folder / "manifest.json").is_file() else 0)
        else:  # it was faster than the kill: begin another one
            assert code == 0
            shutil.rmtree(folder)
    assert zygote.build(folder) == 0
    assert contents(folder) == whole, f"samples there at the kills: {built}"
    KnowledgeBank.load(folder).check()


def command(model: Path, prompts: Path, folder: Path) -> list[str]:
    return [
        "-m", "diffusers_difftune", "bank", "build",
        "--pretrained_model_name_or_path", str(model),
        "--bank_prompts", str(prompts),
        "--output_dir", str(folder),
        "--resolution", "16", "--bank_samples", "18", "--bank_batch_size", "4", "--bank_steps", "3",
    ]  # fmt: skip


def test_two_processes_build_the_same_bank(tiny_pipeline: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red square\na green bar\n")
    for folder, launcher in (
        ("one", []),
        ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]),
    ):
        run = subprocess.run(
            [sys.executable, *launcher, *command(tiny_pipeline, prompts, tmp_path / folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert run.returncode == 0, run.stderr
        assert f"on {'2 processes' if launcher else '1 process'} (cpu" in run.stderr and "dpm++, 3 steps" in run.stderr
        assert run.stdout.count("has 18 samples") == 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
