# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What ControlNet training asks of a model family that has it, in [`Backbone.controlnet`]."""

import json
from collections.abc import Mapping
from typing import Any

import torch


class ControlNetFamily:
    """The ControlNet of a family. How the denoiser is called beside it, [`Backbone.predict`] knows.

    Attributes:
        model_class (`type`): The ControlNet of diffusers.
        pipeline_class (`type`): The pipeline with one in it.
        sampler_class (`type`, *optional*): The scheduler that upstream's script samples with; `None` is the pipeline's own.
        new_layers (`tuple[str, ...]`): What it has beside its copy of the denoiser: trained whole also where the copy gets an
            adapter.
        inputs (`tuple[str, ...]`): The arguments of the denoiser that its answer goes into.
        shared_config (`tuple[str, ...]`): The settings it must have in common with the denoiser whose layers it feeds.
    """

    model_class: type
    pipeline_class: type
    sampler_class: type | None = None
    new_layers: tuple[str, ...]
    inputs: tuple[str, ...]
    shared_config: tuple[str, ...]

    @property
    def always_trained(self) -> tuple[str, ...]:
        """Patterns of the parameters of `new_layers`."""
        return tuple(f"{layer}.*" for layer in self.new_layers)

    def new(self, denoiser: Any) -> torch.nn.Module:
        """A ControlNet made from a denoiser; it changes nothing until it is trained."""
        raise NotImplementedError

    def mismatch(self, config: Mapping[str, Any], denoiser: Any) -> str | None:
        """Why a ControlNet does not belong to a denoiser, as the end of a sentence; `None` if it does.

        Args:
            config (`Mapping`): Its config.
            denoiser (`torch.nn.Module`): The denoiser, which may be without weights.
        """
        name = config.get("_class_name")
        if name != self.model_class.__name__:
            return f"is a {name or 'model without a class'}; this pipeline needs a {self.model_class.__name__}"
        for key in self.shared_config:
            ours, theirs = denoiser.config[key], config.get(key, denoiser.config[key])
            if json.dumps(ours) != json.dumps(theirs):
                return f"belongs to another model: its {key} is {theirs}, and the denoiser's is {ours}"
        return None
