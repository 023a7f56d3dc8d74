# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Training an adapter on a frozen denoiser."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from ..adapters.adapter import Adapter
from ..adapters.files import read_adapter, write_adapter, write_lora
from ..adapters.settings import AdapterSettings
from ..adapters.stock_lora import is_stock_lora
from ..backbones import Backbone
from .base import Trainable


class AdaptedDenoiser(Trainable):
    """Trains an adapter on a denoiser, which is in the precision it is to be frozen in. `keep_pretrained` keeps what
    [`pretrained_model`] needs: a copy of those of the denoiser's own parameters that train."""

    def __init__(
        self,
        backbone: Backbone,
        denoiser: torch.nn.Module,
        settings: AdapterSettings,
        keep_pretrained: bool = False,
    ) -> None:
        super().__init__(backbone, denoiser)
        # The rows of new classes belong to the adapter, also those that no image came for.
        kept_rows = len(backbone.classes.new or ()) if backbone.classes else 0
        self.adapter = Adapter(denoiser, settings, backbone.denoiser_name, keep_pretrained, kept_rows)
        self.result = "lora" if is_stock_lora(settings, backbone.pipeline_class) else "adapter"

    def parameters(self) -> list[Any]:
        return self.adapter.parameters()

    def to(self, device: torch.device) -> None:
        self.adapter.to(device)

    def pretrained_model(self) -> tuple[torch.nn.Module, AbstractContextManager]:
        """The denoiser, and a context in which it is the pretrained one."""
        return self.model, self.adapter.off()

    def save(self, folder: Path) -> None:
        """Writes what [`load_adapter`] reads, and where they can, `load_lora_weights`, too."""
        component, facts = self.backbone.denoiser_name, pipeline_facts(self.backbone)
        if self.result == "lora":
            write_lora(folder, self.adapter, component, facts)
        else:
            write_adapter(folder, self.adapter, component, facts)

    def load(self, folder: Path) -> None:
        self.adapter.load(read_adapter(folder)[1], folder)


def pipeline_facts(backbone: Backbone) -> dict[str, Any]:
    """What a pipeline must be told beside the adapter's weights; see [`SavedAdapter`]."""
    facts: dict[str, Any] = {}
    if backbone.prediction_type is not None:
        facts["prediction_type"] = backbone.prediction_type
    if backbone.classes is not None and backbone.classes.new is not None:
        facts["id2label"] = {str(key): name for key, name in enumerate(backbone.classes.new)}
    return facts
