# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Diff-Tuning for diffusers: fine-tune a pretrained diffusion model so that it forgets less of what it knew.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__


if TYPE_CHECKING:
    from .adapters.loading import load_adapter, merge_adapter
    from .backbones import Backbone, load_backbone
    from .bank.bank import KnowledgeBank
    from .bank.build import build_bank
    from .bank.manifest import BankManifest
    from .data.plan import BatchPlan, RowRandom, Slot
    from .errors import DiffTuneError
    from .objective import DiffTuningLoss, DiffTuningObjective, NoiseDraws, NoisyBatch
    from .objective.noise_levels import NoiseLevels
    from .training.callbacks import Callback
    from .training.class_conditional import ClassConditionalTrainer
    from .training.controlnet import ControlNetTrainer
    from .training.lora import TextToImageLoraTrainer
    from .training.text_to_image import TextToImageTrainer


_HOMES = {
    "adapters.loading": ("load_adapter", "merge_adapter"),
    "backbones": ("Backbone", "load_backbone"),
    "bank.bank": ("KnowledgeBank",),
    "bank.build": ("build_bank",),
    "bank.manifest": ("BankManifest",),
    "data.plan": ("BatchPlan", "RowRandom", "Slot"),
    "errors": ("DiffTuneError",),
    "objective": ("DiffTuningLoss", "DiffTuningObjective", "NoiseDraws", "NoiseLevels", "NoisyBatch"),
    "training.callbacks": ("Callback",),
    "training.class_conditional": ("ClassConditionalTrainer",),
    "training.controlnet": ("ControlNetTrainer",),
    "training.lora": ("TextToImageLoraTrainer",),
    "training.text_to_image": ("TextToImageTrainer",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Backbone",
    "BankManifest",
    "BatchPlan",
    "Callback",
    "ClassConditionalTrainer",
    "ControlNetTrainer",
    "DiffTuneError",
    "DiffTuningLoss",
    "DiffTuningObjective",
    "KnowledgeBank",
    "NoiseDraws",
    "NoiseLevels",
    "NoisyBatch",
    "RowRandom",
    "Slot",
    "TextToImageLoraTrainer",
    "TextToImageTrainer",
    "__version__",
    "build_bank",
    "load_adapter",
    "load_backbone",
    "merge_adapter",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
