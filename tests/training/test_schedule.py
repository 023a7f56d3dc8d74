# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The learning rate of runs that are resumed, made longer or made shorter."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.optimization import SchedulerType

from diffusers_difftune.config import ControlNetConfig
from diffusers_difftune.training.checkpoint_files import join_optimizer_state
from diffusers_difftune.training.checkpoint_files import split_optimizer_state as split
from diffusers_difftune.training.optimizer import make_optimizer, resume_schedule
from tests.training.runs import FULL, log, run, same_weights


CYCLES, POWER = 3, 2.0


def linear(step: int, warm: int, total: int, _: float) -> float:
    return (total - step) / (total - warm)


def cosine(step: int, warm: int, total: int, _: float) -> float:
    """diffusers gives --lr_num_cycles to cosine_with_restarts alone; cosine is half a wave."""
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def restarts(step: int, warm: int, total: int, _: float) -> float:
    progress = (step - warm) / (total - warm)
    return 0.0 if progress >= 1 else 0.5 * (1 + math.cos(math.pi * ((CYCLES * progress) % 1)))


def polynomial(step: int, warm: int, total: int, rate: float) -> float:
    end = 1e-7
    return ((rate - end) * (1 - (step - warm) / (total - warm)) ** POWER + end) / rate


# What follows the warm-up.
FACTORS: dict[str, Callable[[int, int, int, float], float]] = {
    "linear": linear,
    "cosine": cosine,
    "cosine_with_restarts": restarts,
    "polynomial": polynomial,
    "constant": lambda *_: 1.0,
    "constant_with_warmup": lambda *_: 1.0,
}
RATE = 1e-3


def expected(name: str, step: int, warm: int, total: int) -> float:
    """The rate of the step with this index, from 0."""
    if step < warm and name != "constant":
        return RATE * step / warm
    return RATE * FACTORS[name](step, warm, total, RATE)


def test_every_schedule_is_looked_at() -> None:
    assert set(FACTORS) == {schedule.value for schedule in SchedulerType} - {
        "piecewise_constant"
    }  # a flag cannot name it


class Steps:
    """An optimiser of two groups and its schedule, which take steps as the training loop does."""

    def __init__(self, name: str, warm: int, total: int) -> None:
        schedule = {"lr_scheduler": name, "lr_warmup_steps": warm, "lr_num_cycles": CYCLES, "lr_power": POWER}
        config = ControlNetConfig(**schedule, learning_rate=RATE)
        self.parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
        groups = [{"params": [self.parameters[0]]}, {"params": [self.parameters[1]], "lr": RATE / 10}]
        self.optimizer, self.schedule = make_optimizer(config, groups, total, 1)

    def take(self, count: int, skipped: tuple[int, ...] = ()) -> list[tuple[float, float]]:
        """The rates of both groups in each step; skipped ones are those that a loss scaler leaves out."""
        rates = []
        for step in range(count):
            rates.append(tuple(group["lr"] for group in self.optimizer.param_groups))
            assert list(rates[-1]) == self.schedule.get_last_lr()
            if step not in skipped:
                for parameter in self.parameters:
                    parameter.grad = torch.ones(2)
                self.optimizer.step()
                self.schedule.step()
        return rates

    def saved(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What a checkpoint keeps: tensors, and what goes through JSON."""
        tensors, scalars = split(self.optimizer.state_dict())
        return tensors, json.loads(json.dumps({"optimizer": scalars, "lr_scheduler": self.schedule.state_dict()}))

    def resume(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:

        self.optimizer.load_state_dict(join_optimizer_state(tensors, state["optimizer"]))
        resume_schedule(self.schedule, state["lr_scheduler"])


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize(
    ("old", "new", "at", "warm"),
    [(4, 8, 4, 0), (4, 8, 2, 0), (12, 8, 4, 0), (4, 12, 4, 3), (4, 12, 2, 6), (8, 8, 4, 2)],
)
def test_the_rate_of_a_step_is_the_new_schedules(name: str, old: int, new: int, at: int, warm: int) -> None:
    before = Steps(name, warm, old)
    before.take(at)
    resumed = Steps(name, warm, new)
    resumed.resume(*before.saved())
    found = resumed.take(new - at)
    for step, (rate, rate_of_second) in enumerate(found, at):
        assert rate == pytest.approx(expected(name, step, warm, new), rel=1e-12, abs=1e-18), f"step {step}"
        assert rate_of_second == pytest.approx(rate / 10, rel=1e-12)
    whole = Steps(name, warm, new)
    assert whole.take(new)[at:] == found, "to the last bit what a run of this length has"
    kept = resumed.schedule.state_dict()
    assert kept == whole.schedule.state_dict(), "and so are later checkpoints"


def test_steps_that_a_loss_scaler_leaves_out_do_not_count() -> None:
    before = Steps("linear", 0, 4)
    before.take(4, skipped=(1, 2))
    resumed = Steps("linear", 0, 8)
    resumed.resume(*before.saved())
    assert [rate for rate, _ in resumed.take(4)] == pytest.approx([RATE * (8 - step) / 8 for step in (2, 3, 4, 5)])


def test_a_run_that_is_made_longer_says_so_and_trains_every_step(tiny_pipeline, tiny_images, tmp_path, caplog) -> None:
    flags = "--objective standard --checkpointing_steps 2 --lr_scheduler linear"
    folder = run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", flags)
    assert [line["lr"] for line in log(folder)] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    longer = f"{flags} --max_train_steps 8 --resume_from_checkpoint latest"
    run(FULL, tiny_pipeline, tiny_images, folder, longer)
    assert [line["lr"] for line in log(folder)][4:] == pytest.approx([5e-4, 3.75e-4, 2.5e-4, 1.25e-4])
    said = [record.message for record in caplog.records if "--lr_scheduler" in record.message]
    assert len(said) == 1 and "linear is now that of a run of 8 steps" in said[0]
    assert "checkpoint-4 was written in one of 4 steps: step 5 takes the learning rate 0.0005 (0 in" in said[0]


def test_an_unchanged_run_says_nothing_of_its_schedule(tiny_pipeline, tiny_images, tmp_path, caplog) -> None:
    flags = "--objective standard --checkpointing_steps 2 --lr_scheduler cosine --lr_warmup_steps 1"
    whole = run(FULL, tiny_pipeline, tiny_images, tmp_path / "whole", flags)
    again = f"{flags} --resume_from_checkpoint {whole / 'checkpoint-2'}"
    same_weights(run(FULL, tiny_pipeline, tiny_images, tmp_path / "again", again), whole)
    assert "--lr_scheduler" not in caplog.text


@pytest.mark.parametrize(("name", "told"), [("constant_with_warmup", False), ("linear", True)])
def test_in_the_warm_up_the_next_rate_is_the_same(name, told, tiny_pipeline, tiny_images, tmp_path, caplog) -> None:
    """And yet the later ones are not."""
    flags = f"--objective standard --checkpointing_steps 2 --lr_scheduler {name} --lr_warmup_steps 3"
    folder = run(FULL, tiny_pipeline, tiny_images, tmp_path, f"{flags} --max_train_steps 2")
    run(FULL, tiny_pipeline, tiny_images, folder, f"{flags} --resume_from_checkpoint latest")
    assert ("linear is now that of a run of 4 steps" in caplog.text) == told
    assert ("--lr_scheduler" in caplog.text) == told
