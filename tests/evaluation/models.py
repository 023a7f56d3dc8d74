# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Models as fine-tuning leaves them, without training: the pretrained weights with a little noise on them."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import ControlNetModel

from diffusers_difftune.adapters import AdapterSettings
from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.backbones.stable_diffusion import StableDiffusionControlNet
from diffusers_difftune.trainables import AdaptedDenoiser
from diffusers_difftune.trainables.control import ControlBranch


LORA = AdapterSettings("lora", rank=2, target_modules=("to_k", "to_q", "to_v", "to_out.0"))


@torch.no_grad()
def disturb(parameters: list[torch.nn.Parameter], seed: int = 5, size: float = 0.1) -> None:
    """Adds noise in proportion to each tensor's own size."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        scale = size * (parameter.abs().mean() + 0.1)
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def flat(trained: AdaptedDenoiser | ControlBranch) -> list[torch.nn.Parameter]:
    """What trains, without the optimiser's groups."""
    return [p for group in trained.parameters() for p in (group["params"] if isinstance(group, dict) else [group])]


def save_full(folder: Path, pretrained: Path) -> Path:
    """A whole pipeline with another denoiser."""
    shutil.copytree(pretrained, folder)
    backbone = load_backbone(pretrained)
    denoiser = backbone.load_denoiser()
    disturb(list(denoiser.parameters()))
    denoiser.save_pretrained(folder / backbone.denoiser_name)
    return folder


def save_classes(folder: Path, pretrained: Path, names: list[str]) -> Path:
    """A class-conditional pipeline that was fine-tuned for other classes."""
    save_full(folder, pretrained)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {str(number): name for number, name in enumerate(names)}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def save_adapter(
    folder: Path, pretrained: Path, settings: AdapterSettings = LORA, classes: list[str] | None = None
) -> Path:
    """An adapter on the denoiser, of a class-conditional one for these classes."""
    backbone = load_backbone(pretrained)
    if classes is not None:
        backbone = backbone.with_classes(classes)
    trained = AdaptedDenoiser(backbone, backbone.load_denoiser(), settings)
    disturb(flat(trained))
    folder.mkdir()
    trained.save_result(folder)
    return folder


def save_controlnet(folder: Path, pretrained: Path, settings: AdapterSettings | None = None) -> Path:
    """A ControlNet, or an adapter on one."""
    backbone = load_backbone(pretrained)
    denoiser = backbone.load_denoiser()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        controlnet: ControlNetModel = backbone.controlnet.new(denoiser)
    trained = ControlBranch(backbone, denoiser, controlnet, settings)
    disturb(flat(trained))
    folder.mkdir()
    trained.save_result(folder)
    return folder


CONTROL_LORA = AdapterSettings(
    "lora", rank=2, target_modules=LORA.target_modules, always_trained=StableDiffusionControlNet(2).always_trained
)
