# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The optimiser, and the learning rate: a function of the number of steps taken, never a number from a checkpoint."""

from functools import partial
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch.optim.lr_scheduler import LambdaLR


DEPENDS_ON_LENGTH = ("linear", "cosine", "cosine_with_restarts", "polynomial")


def make_optimizer(
    config: Any, parameters: list[Any], total_steps: int, batch_size: int, has_scaler: bool = False
) -> tuple[Any, Any]:
    """AdamW and the learning rate schedule, both counted in optimiser steps whatever the number of processes. `--scale_lr`
    multiplies the learning rate by the rows of an optimiser step, `batch_size`."""
    if config.use_8bit_adam:
        import bitsandbytes

        optimizer_class = bitsandbytes.optim.AdamW8bit
    else:
        # In one kernel. With a loss scaler, accelerate could not tell which steps that kernel skipped.
        optimizer_class = partial(torch.optim.AdamW, fused=not has_scaler)
    optimizer = optimizer_class(
        parameters,
        lr=config.learning_rate * (batch_size if config.scale_lr else 1),
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    lr_scheduler = get_scheduler(
        config.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=total_steps,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )
    return optimizer, lr_scheduler


def resume_schedule(lr_scheduler: LambdaLR, saved: dict[str, Any]) -> tuple[float, float]:
    """Sets a learning rate schedule to where a checkpoint was, by the schedule's own rule.

    Of what was saved, only the number of steps taken counts. The rate itself belongs to the schedule that the checkpoint
    was written under, which may have been for another number of steps: taken over, it would be the rate of the next step.
    The schedule's optimiser has loaded the checkpoint's state. Returns the rate of the next step under the checkpoint's
    schedule, and under this one.
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
