# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The flags of text-to-image fine-tuning, of the whole denoiser and of an adapter on it."""

from dataclasses import dataclass

from .flags import (
    AdapterFlags,
    DataConfig,
    DiffTuningConfig,
    FullFineTuningConfig,
    LoraValidationConfig,
    ModelConfig,
    RunConfig,
    TextEvaluationConfig,
    flag,
)


@dataclass
class TextToImageConfig(
    ModelConfig, DataConfig, RunConfig, FullFineTuningConfig, AdapterFlags, TextEvaluationConfig, DiffTuningConfig
):
    """The flags of text-to-image fine-tuning."""


@dataclass
class TextToImageLoraConfig(
    ModelConfig, DataConfig, RunConfig, AdapterFlags, LoraValidationConfig, TextEvaluationConfig, DiffTuningConfig
):
    """The flags of text-to-image fine-tuning through LoRA or another adapter."""

    output_dir: str = flag("Where the result, checkpoints and logs go.", "sd-model-finetuned-lora")
    adapter: str | None = flag("The kind of adapter.", "lora")
    rank: int | None = flag("Rank of its matrices, or the side of its blocks.", 4)
