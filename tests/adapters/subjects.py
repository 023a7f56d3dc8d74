# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What the table of adapters goes over: nine kinds on three models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    DiTPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)

from diffusers_difftune.adapters import AdapterSettings
from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.trainables import AdaptedDenoiser
from diffusers_difftune.trainables.control import ControlBranch
from tests.tiny import tiny_condition


ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
KINDS = {
    "lora": AdapterSettings("lora", rank=2, alpha=6.0, target_modules=ATTENTION),
    "dora": AdapterSettings("dora", rank=2, alpha=6.0, target_modules=ATTENTION),
    "loha": AdapterSettings("loha", rank=2, alpha=6.0, target_modules=ATTENTION),
    "lokr": AdapterSettings("lokr", rank=2, alpha=6.0, target_modules=ATTENTION),
    "oft": AdapterSettings("oft", rank=4, target_modules=ATTENTION),
    "boft": AdapterSettings("boft", rank=4, target_modules=ATTENTION),
    "difffit": AdapterSettings("difffit"),
    "bitfit": AdapterSettings("bitfit"),
    "parameters": AdapterSettings("parameters", train_parameters=("*.attn1.*", "*.ff.net.0.proj.weight")),
}
MODELS = ("unet", "controlnet", "transformer")
SEEN, NULL = 3, 1000  # the class of the rows that are trained on, and none


@dataclass
class Subject:
    """A model of a pipeline, with the pipeline as it was before training."""

    name: str
    folder: Path

    def pipeline(self) -> Any:
        """The stock pipeline, untrained, with the ControlNet that training starts from."""
        if self.name == "transformer":
            pipeline = DiTPipeline.from_pretrained(self.folder)
        elif self.name == "unet":
            pipeline = StableDiffusionPipeline.from_pretrained(self.folder, safety_checker=None)
        else:
            pipeline = StableDiffusionControlNetPipeline.from_pretrained(
                self.folder, controlnet=self.controlnet(), safety_checker=None
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def controlnet(self) -> ControlNetModel:
        denoiser = load_backbone(self.folder).load_denoiser()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return ControlNetModel.from_unet(denoiser, conditioning_embedding_out_channels=(16, 32))

    def adapted(self, kind: str, keep_pretrained: bool = False) -> Any:
        """What trains, as the scripts make it."""
        backbone, settings = load_backbone(self.folder), self.settings(kind)
        torch.manual_seed(1)
        if self.name == "controlnet":
            return ControlBranch(backbone, backbone.load_denoiser(), self.controlnet(), settings)
        return AdaptedDenoiser(backbone, backbone.load_denoiser(), settings, keep_pretrained)

    def settings(self, kind: str) -> AdapterSettings:
        """Those of the kind, with what trains along in this model."""
        backbone = load_backbone(self.folder)
        patterns = (backbone.controlnet if self.name == "controlnet" else backbone).always_trained
        return with_always_trained(KINDS[kind], patterns)

    def outputs(self, model: torch.nn.Module, rows: int = 3) -> torch.Tensor:
        """What the model answers to fixed inputs, in one piece."""
        generator = torch.Generator().manual_seed(0)
        sample = torch.randn(rows, 4, 8, 8, generator=generator)
        timesteps = torch.tensor([1, 500, 999][:rows])
        if self.name == "transformer":
            return model(sample, timesteps, torch.tensor([SEEN, NULL, SEEN][:rows]), return_dict=False)[0]
        prompts = torch.randn(rows, 32, 32, generator=generator)
        if self.name == "unet":
            return model(sample, timesteps, prompts, return_dict=False)[0]
        control = torch.rand(rows, 3, 16, 16, generator=generator)
        down, middle = model(sample, timesteps, prompts, control, return_dict=False)
        return torch.cat([part.flatten(1) for part in (*down, middle)], 1)

    def train(self, trained: Any, steps: int = 3) -> None:
        """A few steps towards nothing in particular."""
        optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2, weight_decay=0.0)
        goal = torch.randn(self.outputs(trained.model).shape, generator=torch.Generator().manual_seed(2))
        for _ in range(steps):
            (self.outputs(trained.model) - goal).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    def images(self, pipeline: DiffusionPipeline) -> np.ndarray:
        given: dict[str, Any] = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(0)}
        if self.name == "transformer":
            return pipeline([SEEN, 7], output_type="np", **given).images
        if self.name == "controlnet":
            given["image"] = tiny_condition(2)
        return pipeline("a red bar", height=16, width=16, output_type="np", **given).images


def with_always_trained(settings: AdapterSettings, patterns: tuple[str, ...]) -> AdapterSettings:
    return AdapterSettings.from_dict(settings.to_dict() | {"always_trained": list(patterns)})
