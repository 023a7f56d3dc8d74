# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What a trainer asks of whatever trains."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.training_utils import EMAModel


class Trainable(Protocol):
    """What a trainer asks of whatever trains; [`FullDenoiser`] documents each part.

    Attributes:
        result (`str`): What the result is: `"pipeline"`, `"lora"` (for `load_lora_weights`), `"adapter"`, `"controlnet"` or
            `"controlnet_adapter"`.
        model (`torch.nn.Module`): Has the parameters that train; the module that accelerate prepares.
        ema (`EMAModel`, *optional*): The moving average of all of the model's parameters.
    """

    result: str
    model: torch.nn.Module
    ema: EMAModel | None

    def parameters(self) -> list[Any]: ...
    def to(self, device: torch.device) -> None: ...
    def after_step(self) -> None: ...
    def predict(self, model, sample, timesteps, condition: dict[str, torch.Tensor]) -> torch.Tensor: ...
    def pretrained_model(self) -> tuple[torch.nn.Module, AbstractContextManager]: ...
    def use_final_weights(self) -> AbstractContextManager: ...
    def pipeline(self, device: torch.device, dtype: torch.dtype): ...
    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...
    def save_result(self, folder: Path) -> None: ...
