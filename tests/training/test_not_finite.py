# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Steps whose loss or gradient is not finite."""

import json

import pytest
import torch

from diffusers_difftune.objective import DiffTuningObjective
from diffusers_difftune.training import not_finite
from diffusers_difftune.training.checkpoint_files import what_is_missing
from tests.training.runs import FULL, log, run, same_weights, unet


FLAGS = "--objective standard --max_train_steps 12 --checkpointing_steps 5"


def spoil(monkeypatch: pytest.MonkeyPatch, steps: range, what: str) -> None:
    """Makes the losses of the first row, or the gradient alone, of some steps not finite."""
    loss, calls = DiffTuningObjective.loss, []

    def spoiled(self, prediction, noisy, *arguments):
        calls.append(noisy)
        if len(calls) in steps and what == "loss":
            spots = torch.zeros_like(prediction)
            spots[0] = torch.nan
            prediction = prediction + spots
        if len(calls) in steps and what == "gradient":
            prediction.register_hook(lambda gradient: gradient * torch.inf)
        return loss(self, prediction, noisy, *arguments)

    monkeypatch.setattr(DiffTuningObjective, "loss", spoiled)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_the_run_stops_and_says_where(what, tiny_pipeline, tiny_images, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, range(8, 9), what)
    with pytest.raises(SystemExit) as stopped:
        run(FULL, tiny_pipeline, tiny_images, tmp_path, FLAGS)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and said.startswith("error: Step 8: ")
    if what == "loss":
        assert "the loss is not finite for row " in said and ".png at noise level 0." in said and " more" not in said
    else:
        assert "the gradient is not finite, though the losses are" in said
    assert "checkpoint-5 is the last good checkpoint" in said and "--skip_nonfinite_steps" in said
    assert [line["step"] for line in log(tmp_path)] == list(range(1, 8))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-5"]
    assert what_is_missing(tmp_path / "checkpoint-5") is None and not (tmp_path / "model_index.json").exists()


def test_the_run_can_go_on_from_the_last_good_checkpoint(tiny_pipeline, tiny_images, tmp_path, monkeypatch):
    whole = run(FULL, tiny_pipeline, tiny_images, tmp_path / "whole", FLAGS)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        spoil(patch, range(8, 13), "loss")
        run(FULL, tiny_pipeline, tiny_images, tmp_path / "broken", FLAGS)
    again = run(FULL, tiny_pipeline, tiny_images, tmp_path / "broken", f"{FLAGS} --resume_from_checkpoint latest")
    same_weights(again, whole)


def test_such_a_step_can_be_left_out(tiny_pipeline, tiny_images, tmp_path, monkeypatch, caplog):
    spoil(monkeypatch, range(8, 9), "loss")
    folder = run(FULL, tiny_pipeline, tiny_images, tmp_path, f"{FLAGS} --skip_nonfinite_steps")
    lines = log(folder)
    assert [line["step"] for line in lines if line["loss"] is None] == [8] and len(lines) == 12
    assert "NaN" not in (folder / "training_log.jsonl").read_text()
    assert all(means is None or means >= 0 for means in lines[9]["loss_reconsolidation_by_level"])
    assert all(weight.isfinite().all() for weight in unet(folder).values())
    assert "A step is left out" in caplog.text
    steps = json.loads((folder / "checkpoint-10" / "training_state.json").read_text())["lr_scheduler"]["last_epoch"]
    assert steps == 9


def test_nothing_but_such_steps_is_no_training(tiny_pipeline, tiny_images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(not_finite, "MOST_LEFT_OUT", 3)
    spoil(monkeypatch, range(3, 99), "gradient")
    with pytest.raises(SystemExit):
        run(FULL, tiny_pipeline, tiny_images, tmp_path, f"{FLAGS} --skip_nonfinite_steps")
    assert "4 steps in a row have no finite gradient" in capsys.readouterr().err
