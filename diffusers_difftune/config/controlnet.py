# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The flags of ControlNet training."""

from dataclasses import dataclass

from .flags import (
    AdapterFlags,
    ControlConditionConfig,
    ControlDataConfig,
    ControlNetFlags,
    DiffTuningConfig,
    ModelConfig,
    RunConfig,
    flag,
)


@dataclass
class ControlNetConfig(
    ModelConfig, ControlDataConfig, RunConfig, ControlNetFlags, ControlConditionConfig, AdapterFlags, DiffTuningConfig
):
    """The flags of ControlNet training; where a default is another than elsewhere, it is that of diffusers' script."""

    output_dir: str = flag("Where the result, checkpoints and logs go.", "controlnet-model")
    train_batch_size: int = flag("Rows per process and micro-step, target and source rows together.", 4)
    num_train_epochs: int = flag("Passes over the target data.", 1)
    learning_rate: float = flag("Learning rate after warm-up.", 5e-6)
