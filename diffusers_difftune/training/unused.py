# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Flags that were given and that something else makes useless. None is refused: a command line is often tried both ways."""

from collections.abc import Callable
from typing import Any

from ..bank.manifest import BANK_FLAGS
from .checks import uses_bank
from .config import was_given


OF_SOURCE_ROWS = ("retention_weight", "retention_power", "retention_prompts", *BANK_FLAGS)
OF_MEASURING = ("samples", "features", "guidance_scale", "inference_steps")
# Flags, when they are useless, and why, in the order in which they are told.
RULES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        ("source_share", "reconsolidation_power", "coefficients", *OF_SOURCE_ROWS),
        lambda config: config.objective == "standard",
        "with --objective standard",
    ),
    (OF_SOURCE_ROWS, lambda config: config.objective != "standard" and not uses_bank(config), "with --source_share 0"),
    (("crops_per_image",), lambda config: config.center_crop, "with --center_crop"),
    (("crops_per_image",), lambda config: not config.center_crop and config.no_cache, "with --no_cache"),
    (
        ("crops_per_image",),
        lambda config: not (config.center_crop or config.no_cache) and config.streaming,
        "with --streaming",
    ),
    (("offload_ema", "foreach_ema"), lambda config: not config.use_ema, "without --use_ema"),
    (("dream_detail_preservation",), lambda config: not config.dream_training, "without --dream_training"),
    (
        ("lr_num_cycles",),
        lambda config: config.lr_scheduler != "cosine_with_restarts",
        "without --lr_scheduler cosine_with_restarts",
    ),
    (("lr_power",), lambda config: config.lr_scheduler != "polynomial", "without --lr_scheduler polynomial"),
    (("num_train_epochs",), lambda config: config.max_train_steps is not None, "with --max_train_steps"),
    (("validation_epochs",), lambda config: config.validation_steps is not None, "with --validation_steps"),
    (
        tuple(f"evaluation_{name}" for name in OF_MEASURING),
        lambda config: config.evaluation_data is None,
        "without --evaluation_data",
    ),
    (
        tuple(f"control_evaluation_{name}" for name in OF_MEASURING),
        lambda config: config.control_evaluation_data is None,
        "without --control_evaluation_data",
    ),
    (("hub_model_id",), lambda config: not config.push_to_hub, "without --push_to_hub"),
)


def unused_flags(config: Any) -> str | None:
    """The flags that were given and have no use, in a sentence; `None` if there are none.

    Args:
        config: The config of a script.
    """
    clauses = []
    for names, is_useless, why in RULES:
        useless = [f"--{name}" for name in names if hasattr(config, name) and was_given(config, name)]
        if useless and is_useless(config):
            clauses.append(f"{', '.join(useless)} {why}")
    return f"These flags have no use here: {'; '.join(clauses)}." if clauses else None
