# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The flags: a dataclass for each task, and how a command line and a YAML file become one of them. Light: no library that
computes is imported."""

from .checks import check_flags
from .class_conditional import ClassConditionalConfig
from .controlnet import ControlNetConfig
from .parse import parse_config
from .shared import DataConfig, DiffTuningConfig, ModelConfig, RunConfig, TrainingConfig
from .text_to_image import TextToImageConfig, TextToImageLoraConfig


__all__ = [
    "ClassConditionalConfig",
    "ControlNetConfig",
    "DataConfig",
    "DiffTuningConfig",
    "ModelConfig",
    "RunConfig",
    "TextToImageConfig",
    "TextToImageLoraConfig",
    "TrainingConfig",
    "check_flags",
    "parse_config",
]
