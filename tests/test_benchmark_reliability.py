# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The harness that kills runs: through its own code it kills a few, and it notices a library that is broken."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from benchmarks.reliability.compare import contents, differences, digest, lost
from benchmarks.reliability.configurations import CONFIGURATIONS, PHASES, Configuration
from benchmarks.reliability.harness import Harness
from benchmarks.reliability.kill import BEGIN, DOCUMENT, END, RESULTS, all_well, summarise, table


def short(configuration: Configuration) -> Configuration:
    """The same run, of three checkpoints and without images."""
    flags = re.sub(r"--validation\S* \S+|--num_validation_images \S+", "", configuration.flags)
    return replace(configuration, flags=re.sub(r"(?<=--max_train_steps )\d+", "6", flags))


LORA = short(CONFIGURATIONS[1])
DIT = short(CONFIGURATIONS[4])


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with Harness(tmp_path_factory.mktemp("killed"), seed=0) as harness:
        yield harness


@pytest.mark.slow
def test_killed_runs_end_as_if_they_had_not_been_killed(harness: Harness) -> None:
    runs = harness.killed_runs((LORA, DIT), kills=6, least=0)
    summary = summarise(runs, (LORA, DIT))
    assert all_well(summary), summary["each"]
    assert summary["kills"] >= 6 and sum(summary["by_phase"][phase] > 0 for phase in PHASES) >= 4
    assert set(summary["by_script"]) == {LORA.script, DIT.script}


def in_the_second_checkpoint(harness: Harness, phase: str) -> dict:
    """A moment in the writing, or the putting into place, of the second checkpoint of three."""
    events = harness.reference(DIT).events[phase]["files"]
    return {"phase": phase, "kind": "files", "event": events // 2, "delay": 0}


@pytest.mark.slow
def test_a_checkpoint_that_goes_before_the_new_one_is_there_is_lost(harness: Harness, monkeypatch) -> None:
    monkeypatch.setattr(harness, "breakage", "tests.breakages:old_checkpoints_go_first")
    run = harness.killed(DIT, [in_the_second_checkpoint(harness, "rename_rotation")])
    assert [kill["lost"] for kill in run.kills] == [["checkpoint-2"]]
    assert not all_well(summarise([run], (DIT,)) | {"bit_equal": 1}), "the run began anew, and is the same"


@pytest.mark.slow
def test_a_run_that_goes_on_otherwise_differs(harness: Harness, monkeypatch) -> None:
    monkeypatch.setattr(harness, "breakage", "tests.breakages:the_schedule_begins_anew")
    run = harness.killed(DIT, [in_the_second_checkpoint(harness, "checkpoint_write")])
    assert run.resumed and run.kills[0]["completed"] == ["checkpoint-2"] and run.kills[0]["lost"] == []
    weights = "transformer/diffusion_pytorch_model.safetensors differs"
    assert {weights, f"on the Hub, {weights}", "training_log.jsonl differs"} <= set(run.differences)
    summary = summarise([run], (DIT,))
    assert (summary["kills"], summary["resumed"], summary["bit_equal"]) == (1, 1, 0) and not all_well(summary)


def test_a_bit_is_seen_and_a_clock_is_not(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(3), "b": torch.ones(2)}
    metadata = {"format": "pt", "more": "words"}
    same = save(dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    whole = digest("x.safetensors", save(tensors, metadata))
    assert digest("x.safetensors", same) == whole
    assert digest("x.safetensors", save(tensors | {"a": torch.tensor([0.0, -0.0, 0.0])}, metadata)) != whole
    assert digest("x.safetensors", save({"b": tensors["a"], "a": tensors["b"]}, metadata)) != whole
    line = {"step": 1, "loss": 0.5, "images_per_second": 3.0}
    later = json.dumps(line | {"images_per_second": 4.0}).encode()
    log = digest("training_log.jsonl", json.dumps(line).encode())
    assert digest("training_log.jsonl", later) == log
    assert digest("training_log.jsonl", later + b"\n" + later) != log
    assert digest("training_log.jsonl", later.replace(b"0.5", b"0.6")) != log
    (tmp_path / ".x.tmp").mkdir()
    (tmp_path / ".x.tmp" / "y").touch()
    assert differences(contents(tmp_path), {"z": ""}) == [".x.tmp/y is left over", "z is missing"]


def test_the_newest_checkpoints_must_be_whole(tmp_path: Path) -> None:
    for step in (4, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"12")
        (folder / "training_state.json").write_text(json.dumps({"files": {"weights": 2}}))
    completed = {"checkpoint-2", "checkpoint-4", "checkpoint-10"}
    assert lost(tmp_path, completed, 1) == lost(tmp_path, completed, 2) == []
    assert lost(tmp_path, completed, None) == ["checkpoint-2"]
    (tmp_path / "checkpoint-10" / "weights").write_bytes(b"1")
    assert lost(tmp_path, completed, 1) == ["checkpoint-10"]


def test_the_document_has_the_figures() -> None:
    summary = json.loads((RESULTS / "summary.json").read_text())
    assert all_well(summary) and summary["kills"] >= 50
    assert all(summary["by_phase"][phase] >= 5 for phase in PHASES)
    assert all(sum(phases.values()) for phases in summary["by_configuration"].values())
    shown = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    assert shown.strip() == table(summary)
