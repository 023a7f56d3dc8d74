# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What a trainer asks of whatever trains."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel

from ..backbones import Backbone


class Trainable:
    """What a trainer asks of whatever trains. The defaults are those of a denoiser without a moving average.

    Args:
        backbone ([`Backbone`]): The model family.
        model (`torch.nn.Module`): Has the parameters that train; the module that accelerate prepares.

    Attributes:
        result (`str`): What the result is: `"pipeline"`, `"lora"` (for `load_lora_weights`), `"adapter"`, `"controlnet"` or
            `"controlnet_adapter"`.
        ema (`EMAModel`, *optional*): The moving average of all of the model's parameters.
    """

    result: str
    ema: EMAModel | None = None

    def __init__(self, backbone: Backbone, model: torch.nn.Module) -> None:
        self.backbone, self.model = backbone, model

    def parameters(self) -> list[Any]:
        """What trains, as torch's optimisers take it."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def to(self, device: torch.device) -> None:
        """Moves what is kept beside the model."""

    def after_step(self) -> None:
        """Updates the moving average, if there is one."""

    def predict(self, model, sample, timesteps, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        """The denoiser's output for x_t; `model` is the one that trains, as accelerate prepared it."""
        return self.backbone.predict(model, sample, timesteps, condition)

    def pretrained_model(self) -> tuple[torch.nn.Module, AbstractContextManager]:
        """The pretrained denoiser, and a context in which to call it."""
        raise NotImplementedError

    def use_final_weights(self) -> AbstractContextManager:
        """A context in which the model has the weights that would be saved as the result."""
        return nullcontext()

    def pipeline(self, device: torch.device, dtype: torch.dtype) -> Any:
        """The whole pipeline with what trains in it, to make images with."""
        return self.backbone.pipeline(self.model, device, dtype)

    def save(self, folder: Path) -> None:
        """Writes what trains into a checkpoint."""
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        """Reads what [`save`] wrote."""
        raise NotImplementedError

    def save_result(self, folder: Path) -> None:
        """Writes the result of a run."""
        self.save(folder)
