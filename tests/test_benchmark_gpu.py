# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The first light on a GPU: what it compares, and that it fits through the door."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.gpu import first_light
from benchmarks.gpu.payload import CARRIED, LIMIT_MIB


ROOT = Path(__file__).resolve().parents[1]
TREE_MIB = 45.0
WHEELS_MIB = 7.0  # of payload.py, on 2026-11-28


def test_the_tracked_files_are_few_bytes() -> None:
    """A clone stays light, and fits with wheels through the door of a machine without a network (payload.py weighs both)."""
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    size = sum((ROOT / name).stat().st_size for name in listed.split("\0") if name and (ROOT / name).is_file())
    assert size / 2**20 <= TREE_MIB
    assert TREE_MIB + WHEELS_MIB <= LIMIT_MIB


def test_what_is_carried_has_a_version() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split("\n")
    }
    assert pinned >= CARRIED


def test_losses_are_compared_with_the_reference_step_by_step() -> None:
    reference = {"lora/no": {"losses": [1.0, 2.0, 4.0, 4.0, 4.0, 4.0]}}
    good = {
        "losses": [1.0, 2.0, 4.0, 4.0, 4.0, 4.002],
        "resumed_losses": [4.0, 4.0, 4.002],
        "resumed_weights_differ_by": 0.0,
    }
    cases = {
        "lora/no": good,
        "lora/bf16": good | {"losses": [1.0, 2.0, 4.0, 4.0, 4.0, 4.3], "resumed_losses": [4.0, 4.0, 4.3]},
        "lora/fp16": good | {"resumed_weights_differ_by": 1e-9},
    }
    found = first_light.compare(reference, cases)
    assert found["lora/no"]["largest_relative_difference"] == pytest.approx(0.0005)
    assert [found[name]["within_tolerance"] for name in cases] == [True, False, True]
    assert [found[name]["resumes_bit_for_bit"] for name in cases] == [True, True, False]
    shorter = first_light.compare(reference, {"lora/no": good | {"losses": [1.0, 2.0]}})
    assert not shorter["lora/no"]["within_tolerance"]


@pytest.mark.slow
def test_the_rehearsal_goes_well(tmp_path) -> None:
    """All of it but the download of the wheels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_light, "weigh", lambda root: None)
        with pytest.raises(SystemExit) as caught:
            first_light.main(["--rehearse", "--output", str(tmp_path / "out")])
    assert caught.value.code == 0, (tmp_path / "out" / "device.txt").read_text()[-3000:]
