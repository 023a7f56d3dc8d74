# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Flags that were given and change nothing beside the others: told, because whoever gave them expects something of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .shared import BANK_FLAGS, TrainingConfig


@dataclass(frozen=True)
class Idle:
    """When some flags have no effect."""

    flags: tuple[str, ...]
    when: Callable[[Any], bool]  # by the config; asked only if one of them was given
    why: str  # and what would give them one; may name `{values}` of the config


def lacks(name: str) -> Callable[[Any], bool]:
    """Whether a flag is not set."""
    return lambda config: not getattr(config, name)


RULES = (
    Idle(
        ("lr_warmup_steps",),
        lambda config: config.lr_scheduler == "constant" and config.lr_warmup_steps > 0,
        "the constant schedule does not warm up; --lr_scheduler constant_with_warmup does",
    ),
    Idle(
        ("lr_num_cycles",),
        lambda config: config.lr_scheduler != "cosine_with_restarts",
        "it is for --lr_scheduler cosine_with_restarts, and that is {lr_scheduler}",
    ),
    Idle(
        ("lr_power",),
        lambda config: config.lr_scheduler != "polynomial",
        "it is for --lr_scheduler polynomial, and that is {lr_scheduler}",
    ),
    Idle(
        ("num_train_epochs",),
        lambda config: config.max_train_steps is not None,
        "--max_train_steps {max_train_steps} says how long the run is",
    ),
    Idle(
        ("validation_epochs", "validation_steps", "num_validation_images"),
        lambda config: config.validation_images is None,
        "there is nothing to make validation images of; give prompts (or classes) for them",
    ),
    Idle(
        ("validation_epochs",),
        lambda config: config.validation_images is not None and config.validation_steps is not None,
        "--validation_steps {validation_steps} says when validation images are made",
    ),
    Idle(
        ("validation_epochs",),
        lambda config: config.validation_images is not None and config.validation_steps is None and config.streaming,
        "--streaming does not know how long an epoch is; give --validation_steps",
    ),
    Idle(
        tuple(f"evaluation_{name}" for name in ("samples", "features", "guidance_scale", "inference_steps")),
        lacks("evaluation_data"),
        "nothing is measured without --evaluation_data",
    ),
    Idle(
        tuple(f"control_evaluation_{name}" for name in ("samples", "guidance_scale", "inference_steps")),
        lacks("control_evaluation_data"),
        "nothing is measured without --control_evaluation_data",
    ),
    Idle(
        ("source_share", "reconsolidation_power", "coefficients"),
        lambda config: config.objective == "standard",
        "it belongs to --objective difftune",
    ),
    Idle(
        ("retention_weight", "retention_power", "retention_prompts", *BANK_FLAGS),
        lambda config: not config.uses_bank,
        "the run has no source rows",
    ),
    Idle(
        ("offload_ema", "foreach_ema"), lacks("use_ema"), "there is no moving average of the weights without --use_ema"
    ),
    Idle(("dream_detail_preservation",), lacks("dream_training"), "it is a setting of --dream_training"),
    Idle(
        ("crops_per_image",),
        lambda config: config.center_crop or config.no_cache or config.streaming,
        "it says how many random crops are cached, and with --center_crop, --no_cache or --streaming none are",
    ),
    Idle(("hub_model_id",), lacks("push_to_hub"), "nothing is uploaded without --push_to_hub"),
    Idle(
        ("logging_dir", "tracker_project_name"),
        lambda config: config.report_to == "none",
        "--report_to none reports to no tracker",
    ),
)


def idle_flags(config: TrainingConfig) -> list[str]:
    """The flags that were given without effect, a sentence for each reason."""
    found = []
    for rule in RULES:
        given = [name for name in rule.flags if config.was_given(name)]
        if given and rule.when(config):
            names = ", ".join(f"--{name} {getattr(config, name)}".removesuffix(" True") for name in given)
            verb = "has" if len(given) == 1 else "have"
            found.append(f"{names} {verb} no effect: {rule.why.format_map(config.flags())}.")
    return found
