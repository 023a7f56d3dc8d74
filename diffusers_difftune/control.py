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
"""What trains in ControlNet training: a control branch beside a frozen denoiser."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler
from safetensors.torch import load_file, save_file

from .adapters import add_lora
from .backbones import Backbone
from .errors import DiffTuneError


# What a ControlNet has beside its copy of the denoiser: new layers, trained whole also where the copy gets a LoRA.
NEW_LAYERS = ("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block")
LORA_FILE = "controlnet_lora.safetensors"


class ControlBranch:
    """Trains a ControlNet (Zhang et al., 2023) beside a frozen denoiser: all of it, or LoRA matrices on its copy of the
    denoiser together with its new layers.

    Args:
        backbone ([`Backbone`]): The model family.
        denoiser (`torch.nn.Module`): The pretrained denoiser, in the precision it is to be frozen in.
        controlnet (`torch.nn.Module`): The ControlNet, float32.
        rank (`int`, *optional*): Rank of the LoRA matrices; `None` trains the whole ControlNet.
        alpha (`float`, *optional*): Numerator of LoRA's scale alpha / rank; `None` is the rank.
        dropout (`float`, *optional*, defaults to 0.0): Dropout on the input of the LoRA layers, in [0, 1).
        target_modules (`list[str]`, *optional*): Names of the modules that get LoRA matrices; `None` is the backbone's
            attention projections.

    Raises:
        DiffTuneError: No module has one of the names.
    """

    result = "controlnet"

    def __init__(
        self,
        backbone: Backbone,
        denoiser: torch.nn.Module,
        controlnet: torch.nn.Module,
        rank: int | None = None,
        alpha: float | None = None,
        dropout: float = 0.0,
        target_modules: list[str] | None = None,
    ) -> None:
        self.backbone = backbone
        self.denoiser = denoiser.requires_grad_(False).eval()
        self.model = controlnet
        self.has_lora = rank is not None
        if rank is None:
            controlnet.requires_grad_(True)
        else:
            add_lora(controlnet, backbone, "ControlNet", rank, alpha, dropout, target_modules)
            for name in NEW_LAYERS:
                getattr(controlnet, name).requires_grad_(True)

    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that train."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def to(self, device: torch.device) -> None:
        """Moves the frozen denoiser."""
        self.denoiser.to(device)

    def after_step(self) -> None:
        """Nothing to do: there is no moving average."""

    def predict(self, model, sample, timesteps, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        """The denoiser's output for x_t under the ControlNet as accelerate prepared it."""
        return self.backbone.predict_controlled(self.denoiser, model, sample, timesteps, condition)

    def pretrained_model(self) -> tuple[torch.nn.Module, nullcontext]:
        """The denoiser without the control branch, and a context in which to call it."""
        return self.denoiser, nullcontext()

    def use_final_weights(self) -> nullcontext:
        """The weights are always final."""
        return nullcontext()

    def pipeline(self, device: torch.device, dtype: torch.dtype):
        """The ControlNet pipeline to make images with, with the sampler that diffusers' script uses."""
        controlnet = self.model
        if dtype != torch.float32:  # the frozen denoiser is in half precision, and takes nothing else
            controlnet = torch.nn.Module.to(
                self._plain_copy(), dtype
            )  # diffusers' own `to` warns where nothing is amiss
        pipeline = self.backbone.pipeline(self.denoiser, device, dtype, controlnet=controlnet)
        pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
        return pipeline

    def save(self, folder: Path) -> None:
        """Writes `controlnet/`, which `ControlNetModel.from_pretrained` loads, or what trains beside it with LoRA."""
        if self.has_lora:
            save_file(self._trained_tensors(), folder / LORA_FILE)
        else:
            self.model.save_pretrained(folder / "controlnet")

    def load(self, folder: Path) -> None:
        """Reads what [`save`] wrote."""
        if not self.has_lora:
            self.model.load_state_dict(type(self.model).from_pretrained(folder / "controlnet").state_dict())
            return
        saved, own = load_file(folder / LORA_FILE), self._trained_tensors()
        if {name: tensor.shape for name, tensor in saved.items()} != {n: tensor.shape for n, tensor in own.items()}:
            raise DiffTuneError(
                f"{folder / LORA_FILE} does not fit this run's LoRA; use the --lora_target_modules and --rank it was"
                " trained with."
            )
        self.model.load_state_dict(saved, strict=False)

    def save_result(self, folder: Path) -> None:
        """Writes the ControlNet as `ControlNetModel.from_pretrained` loads it; LoRA matrices are merged into it."""
        model = self._plain_copy() if self.has_lora else self.model
        model.save_pretrained(folder)

    def _plain_copy(self) -> torch.nn.Module:
        """The ControlNet without accelerate's wrapper, which answers in float32, and with LoRA matrices merged; on the
        processor, so that the device has no second one to hold in full precision."""
        memo: dict[int, Any] = {
            id(p): torch.nn.Parameter(p.detach().to("cpu", copy=True), p.requires_grad)
            for p in self.model.parameters()
        }
        model = copy.deepcopy(self.model, memo).to("cpu")
        vars(model).pop("forward", None)
        if self.has_lora:
            model.fuse_lora()
            model.unload_lora()
        return model

    def _trained_tensors(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().contiguous() for name, p in self.model.named_parameters() if p.requires_grad}
