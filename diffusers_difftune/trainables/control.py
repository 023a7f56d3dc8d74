# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What trains in ControlNet training: a control branch beside a frozen denoiser."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from ..adapters import Adapter, AdapterSettings
from ..adapters.files import read_adapter, write_adapter
from ..adapters.peft_layers import merge_layers
from ..adapters.scales import fold_scales
from ..backbones import Backbone
from .base import Trainable


class ControlBranch(Trainable):
    """Trains a ControlNet (Zhang et al., 2023) beside a frozen denoiser: all of it, or an adapter on its copy of the
    denoiser together with its new layers.

    The denoiser is in the precision it is to be frozen in, the ControlNet is float32. The settings of an adapter have the new layers
    in `always_trained`.
    """

    def __init__(
        self,
        backbone: Backbone,
        denoiser: torch.nn.Module,
        controlnet: torch.nn.Module,
        settings: AdapterSettings | None = None,
    ) -> None:
        super().__init__(backbone, controlnet)
        self.denoiser = denoiser.requires_grad_(False).eval()
        self.adapter: Adapter | None = None
        self.result = "controlnet"
        if settings is None:
            controlnet.requires_grad_(True)
        else:
            self.adapter = Adapter(controlnet, settings, "ControlNet")
            self.result = "controlnet_adapter"

    def parameters(self) -> list[Any]:
        return super().parameters() if self.adapter is None else self.adapter.parameters()

    def to(self, device: torch.device) -> None:
        self.denoiser.to(device)

    def predict(self, model, sample, timesteps, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.backbone.predict(self.denoiser, sample, timesteps, condition, model)

    def pretrained_model(self) -> tuple[torch.nn.Module, nullcontext]:
        """The denoiser without the control branch, and a context in which to call it."""
        return self.denoiser, nullcontext()

    def pipeline(self, device: torch.device, dtype: torch.dtype) -> Any:
        """The ControlNet pipeline to make images with, with the sampler that diffusers' script uses."""
        controlnet = self.model
        if dtype != torch.float32:  # the frozen denoiser is in half precision, and takes nothing else
            # diffusers' own `to` warns where nothing is amiss
            controlnet = torch.nn.Module.to(self._plain_copy(), dtype)
        pipeline = self.backbone.pipeline(self.denoiser, device, dtype, controlnet=controlnet)
        sampler: Any = self.backbone.controlnet and self.backbone.controlnet.sampler_class
        if sampler is not None:
            pipeline.scheduler = sampler.from_config(pipeline.scheduler.config)
        return pipeline

    def save(self, folder: Path) -> None:
        """Writes `controlnet/`, which `ControlNetModel.from_pretrained` loads, or the adapter."""
        if self.adapter is not None:
            write_adapter(folder, self.adapter, "controlnet")
        else:
            self.model.save_pretrained(folder / "controlnet")

    def load(self, folder: Path) -> None:
        if self.adapter is not None:
            self.adapter.load(read_adapter(folder)[1], folder)
        else:
            source = type(self.model).from_pretrained(folder / "controlnet", use_safetensors=True)
            self.model.load_state_dict(source.state_dict())

    def save_result(self, folder: Path) -> None:
        """Writes the ControlNet as `ControlNetModel.from_pretrained` loads it, or the adapter and the ControlNet's config."""
        if self.adapter is not None:
            self.save(folder)
            self.model.save_config(folder)
        else:
            self.model.save_pretrained(folder)

    def _plain_copy(self) -> torch.nn.Module:
        """The ControlNet without accelerate's wrapper, which answers in float32, and with the adapter merged; on the
        processor, so that the device has no second one to hold in full precision."""
        memo: dict[int, Any] = {
            id(p): torch.nn.Parameter(p.detach().to("cpu", copy=True), p.requires_grad)
            for p in self.model.parameters()
        }
        model = copy.deepcopy(self.model, memo).to("cpu")
        vars(model).pop("forward", None)
        merge_layers(model)
        fold_scales(model)
        return model
