# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The loop in docs/own_loop.md runs as it stands, and trains."""

import re
from pathlib import Path

import pytest
import torch


DOCUMENT = Path(__file__).parents[1] / "docs" / "own_loop.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
FOUR_LINES = re.search(r"```text\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)[1]


def execute(*blocks: str) -> dict:
    names: dict = {}
    with torch.random.fork_rng(devices=[]):
        for block in blocks:
            exec(compile(block, str(DOCUMENT), "exec"), names)
    return names


def test_the_loop_trains():
    assert len(BLOCKS) == 2
    untrained = execute(BLOCKS[0].replace("range(12)", "range(0)"))["unet"].state_dict()
    names = execute(BLOCKS[0])
    assert len(names["history"]) == 12
    first, last = (torch.tensor(part).mean(0) for part in (names["history"][:4], names["history"][-4:]))
    assert (last < first).all(), "both losses fall"
    trained = names["unet"].state_dict()
    assert set(trained) == set(untrained)
    assert all(not torch.equal(trained[name], untrained[name]) for name in trained), "every tensor trains"


def test_the_loop_has_the_four_lines():
    for line in FOUR_LINES.splitlines():
        code = line.split("#")[0].strip()
        assert re.search(rf"^\s*{re.escape(code)}$", BLOCKS[0], re.MULTILINE), code


def test_the_planned_loop_meets_the_share():
    counted = BLOCKS[1].replace("noisy = objective", "counts.append(is_source.sum().item()); noisy = objective")
    names = execute(BLOCKS[0].replace("range(12)", "range(0)"), "counts = []", counted)
    plan = names["plan"]
    assert plan.period == 5 and len(names["counts"]) == 10
    assert sum(names["counts"]) == pytest.approx(0.2 * 5 * 8)
