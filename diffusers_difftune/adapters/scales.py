# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The learned scales of DiffFit (Xie et al., "DiffFit: Unlocking Transferability of Large Diffusion Models via Simple
Parameter-Efficient Fine-Tuning", ICCV 2023): factors γ, 1 at the start, on what a block adds to its residual stream.

Here γ has a factor for each channel, and is on the outputs of attention and feed-forward layers, and of the residual
blocks of a UNet. A scaled output is a scaled output projection, so that merging is a multiplication of its weights.
"""

from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D

from ..errors import DiffTuneError


SCALE = "difffit_scale"


def output_projections(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The layers whose output a block adds to its residual stream, by name."""
    found: list[tuple[str, torch.nn.Module]] = []
    for name, module in model.named_modules():
        if isinstance(to_out := getattr(module, "to_out", None), torch.nn.ModuleList):  # attention of any class
            found.append((f"{name}.to_out.0", to_out[0]))
        elif isinstance(module, FeedForward):
            linear = [(i, layer) for i, layer in enumerate(module.net) if isinstance(layer, torch.nn.Linear)]
            found += [(f"{name}.net.{i}", layer) for i, layer in linear[-1:]]
        elif isinstance(module, ResnetBlock2D):
            found.append((f"{name}.conv2", module.conv2))
    return found


def add_scales(model: torch.nn.Module, what: str) -> dict[str, torch.nn.Parameter]:
    """Adds the scales, of shape (channels,), by name; they change nothing before they are trained."""
    scales = {}
    for name, layer in output_projections(model):
        scale = torch.nn.Parameter(layer.weight.new_ones(layer.weight.shape[0]))
        layer.register_parameter(SCALE, scale)
        layer.register_forward_hook(apply_scale)
        scales[f"{name}.{SCALE}"] = scale
    if not scales:
        raise DiffTuneError(f"The {what} has no attention, feed-forward layer or residual block to scale.")
    return scales


def apply_scale(layer: torch.nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
    """The hook of a layer with a scale. It knows its layer by being called with it, so that copies of models have their own."""
    scale = getattr(layer, SCALE).to(output.dtype)
    return output * (scale.view(-1, 1, 1) if isinstance(layer, torch.nn.Conv2d) else scale)


@torch.no_grad()
def fold_scales(model: torch.nn.Module) -> None:
    """Multiplies output projections by their scales, and takes the scales out."""
    for layer in model.modules():
        if SCALE not in layer._parameters:
            continue
        scale = getattr(layer, SCALE).to(layer.weight.dtype)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.bias is not None:
            layer.bias.mul_(scale)
        for key, hook in list(layer._forward_hooks.items()):
            if hook is apply_scale:
                del layer._forward_hooks[key]
        delattr(layer, SCALE)
