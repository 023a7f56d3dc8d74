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
"""What the training room asks of whatever trains."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch


class Trained(Protocol):
    """What the training room asks of whatever trains; [`FullDenoiser`] documents each part.

    Attributes:
        result (`str`): What the result is: `"pipeline"`, `"lora"` (for `load_lora_weights`), `"adapter"`, `"controlnet"` or
            `"controlnet_adapter"`.
        model (`torch.nn.Module`): Has the parameters that train; the module that accelerate prepares.
    """

    result: str
    model: torch.nn.Module

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
