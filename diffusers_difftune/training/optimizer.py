# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The learning rate of a resumed run: a function of the number of steps taken, never a number from a checkpoint."""

from typing import Any

from torch.optim.lr_scheduler import LambdaLR


DEPENDS_ON_LENGTH = ("linear", "cosine", "cosine_with_restarts", "polynomial")


def resume_schedule(lr_scheduler: LambdaLR, saved: dict[str, Any]) -> tuple[float, float]:
    """Sets a learning rate schedule to where a checkpoint was, by the schedule's own rule.

    Of what was saved, only the number of steps taken counts. The rate itself belongs to the schedule that the checkpoint
    was written under, which may have been for another number of steps: taken over, it would be the rate of the next step.

    Args:
        lr_scheduler (`LambdaLR`): The schedule of this run; its optimiser has loaded the checkpoint's state.
        saved (`dict`): The `state_dict` of the schedule in the checkpoint.

    Returns:
        `tuple[float, float]`: The rate of the next step under the checkpoint's schedule, and under this one.
    """
    lr_scheduler.load_state_dict(saved)
    before = lr_scheduler.get_last_lr()[0]
    rates = [
        base * factor(lr_scheduler.last_epoch)
        for base, factor in zip(lr_scheduler.base_lrs, lr_scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(lr_scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    lr_scheduler._last_lr = rates
    return before, rates[0]
