# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Short runs of every script are what they were: a change of the code or of a library that moves results is seen here."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from .trajectories import RECORD, RUNS, TOLERANCE, Material, machine, moved, trajectory, weights_checksum


ANEW = "If results are meant to change, see tests/training/trajectories.py for how to record them anew."


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(RECORD.read_text())


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material.make(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module", params=RUNS)
def run(
    request: pytest.FixtureRequest, material: Material, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict]:
    """A run's name, and what it did."""
    return request.param, trajectory(request.param, material, tmp_path_factory.mktemp(request.param) / "run")


def differences(record: dict[str, Any]) -> list[str]:
    """In what this machine is not the one of the record."""
    here, there = machine(), record["machine"]
    return [f"{key} is {here[key]}, not {there[key]}" for key in there if here[key] != there[key]]


def test_the_record_has_every_run(record: dict[str, Any]) -> None:
    assert list(record["runs"]) == list(RUNS), ANEW
    assert {name.partition("-")[0] for name in RUNS} == {"full", "lora", "controlnet", "class"}


def test_runs_start_where_those_on_record_did(record: dict[str, Any], material: Material) -> None:
    assert material.start() == pytest.approx(record["start"], rel=1e-6), (
        f"the tiny pipelines are made with other weights than on record, so runs have to differ. {ANEW}"
    )


def test_losses_and_learning_rates_are_those_on_record(record: dict[str, Any], run: tuple[str, dict]) -> None:
    name, done = run
    same = machine()["instruction_set"] == record["machine"]["instruction_set"]
    drifts = moved(done["series"], record["runs"][name]["series"], TOLERANCE if same else RUNS[name].elsewhere)
    where = "; ".join(differences(record)) or "the machine and the libraries are those of the record"
    assert not drifts, f"{name}: {'; '.join(drifts)}. Here: {where}. {ANEW}"


def test_weights_are_those_on_record_to_the_last_bit(record: dict[str, Any], run: tuple[str, dict]) -> None:
    if other := differences(record):
        pytest.skip(f"last bits are compared on the machine of the record; {'; '.join(other)}")
    name, done = run
    assert done["weights"] == record["runs"][name]["weights"], (
        f"{name}: the saved weights, or their names, are not those on record; where its losses are, less than {TOLERANCE}"
        f" moved. {ANEW}"
    )


def test_a_drift_is_seen_and_said() -> None:
    expected = {"loss": [0.5, 0.25, 0.125], "lr": [0.0, 1e-3, 1e-3]}
    assert moved(expected, expected, 0.0) == []
    assert moved(expected | {"loss": [0.5, 0.25 * (1 + 9e-6), 0.125]}, expected, TOLERANCE) == []
    (said,) = moved(expected | {"loss": [0.5, 0.25 * (1 + 2e-5), 0.126]}, expected, TOLERANCE)
    assert said.startswith(
        "loss departs at step 2: 0.250005, and 0.25 on record (relative drift 2.0e-05, at most 8.0e-03"
    )
    assert moved(expected | {"lr": [0.0, 1e-3]}, expected, TOLERANCE) == ["lr has 2 steps, and 3 on record"]
    assert moved(expected | {"loss": [float("nan")] * 3}, expected, TOLERANCE)[0].startswith("loss departs at step 1")


def test_the_checksum_is_of_trained_weights_and_their_names(tmp_path: Path) -> None:
    def checksum(**files: dict[str, torch.Tensor]) -> str:
        for name, tensors in files.items():
            (tmp_path / name).mkdir(exist_ok=True)
            save_file(tensors, tmp_path / name / "model.safetensors")
        return weights_checksum(tmp_path)

    one, two = torch.ones(2), torch.tensor([1.0, 1.0000001])
    first = checksum(unet={"a": one, "b": two})
    assert checksum(unet={"b": two, "a": one}, vae={"a": one}) == first
    assert len({first, checksum(unet={"a": two, "b": one}), checksum(unet={"a": one, "c": two})}) == 3
