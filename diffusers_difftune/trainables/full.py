# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Training every weight of the denoiser."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file

from ..backbones import Backbone
from .base import Trainable


EMA_DECAY = 0.9999  # diffusers' own, and the reference's


class FullDenoiser(Trainable):
    """Trains every weight of the denoiser, which is float32; if a moving average is kept, that is what is validated and saved.

    Offloaded, the average is on the CPU between steps, in pinned memory if there is a GPU. `keep_pretrained` keeps a frozen copy of
    the pretrained denoiser.
    """

    result = "pipeline"

    def __init__(
        self,
        backbone: Backbone,
        denoiser: torch.nn.Module,
        use_ema: bool = False,
        ema_decay: float = EMA_DECAY,
        ema_warmup: str = "ramp",
        foreach_ema: bool = False,
        offload_ema: bool = False,
        keep_pretrained: bool = False,
    ) -> None:
        super().__init__(backbone, denoiser.requires_grad_(True))
        self.offload_ema = offload_ema
        if use_ema:
            # As upstream: of the pipeline's own weights, also if --non_ema_revision trains on from others.
            start = backbone.load_denoiser(dtype=denoiser.dtype).parameters()
            of_model = {"model_cls": type(denoiser), "model_config": denoiser.config, "foreach": foreach_ema}
            self.ema = moving_average(start, ema_decay, ema_warmup, **of_model)
            if offload_ema and torch.cuda.is_available():
                self.ema.pin_memory()
        self.pretrained: torch.nn.Module | None = None
        if keep_pretrained:
            self.pretrained = backbone.load_denoiser(dtype=denoiser.dtype).requires_grad_(False).eval()

    def to(self, device: torch.device) -> None:
        if self.ema is not None and not self.offload_ema:
            self.ema.to(device)
        if self.pretrained is not None:
            self.pretrained.to(device)

    def after_step(self) -> None:
        if self.ema is None:
            return
        device = next(self.model.parameters()).device
        if self.offload_ema:
            self.ema.to(device, non_blocking=True)
        self.ema.step(self.model.parameters())
        if self.offload_ema:
            self.ema.to("cpu", non_blocking=True)

    def pretrained_model(self) -> tuple[torch.nn.Module, nullcontext]:
        return self.pretrained, nullcontext()

    @contextmanager
    def use_final_weights(self) -> Iterator[None]:
        """A context with the moving average, if there is one, in the place of the model's weights."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.model.parameters())
        self.ema.copy_to(self.model.parameters())
        try:
            yield
        finally:
            self.ema.restore(self.model.parameters())

    def save(self, folder: Path) -> None:
        """Writes `unet/`, and `unet_ema/` if there is an average, into a checkpoint."""
        self.model.save_pretrained(folder / self.backbone.denoiser_name)
        if self.ema is not None:
            self.ema.save_pretrained(folder / f"{self.backbone.denoiser_name}_ema")

    def load(self, folder: Path) -> None:
        source = type(self.model).from_pretrained(folder / self.backbone.denoiser_name, use_safetensors=True)
        self.model.load_state_dict(source.state_dict())
        if self.ema is not None:
            ema_folder = folder / f"{self.backbone.denoiser_name}_ema"
            averaged = {n: t for file in ema_folder.glob("*.safetensors") for n, t in load_file(file).items()}
            for (name, _), average in zip(self.model.named_parameters(), self.ema.shadow_params, strict=True):
                average.copy_(averaged[name])
            self.ema.optimization_step = type(self.model).load_config(ema_folder)["optimization_step"]

    def save_result(self, folder: Path) -> None:
        """Writes the whole pipeline, its other parts being copies of the pretrained pipeline's files."""
        self.backbone.save_pipeline(folder)
        with self.use_final_weights():
            self.model.save_pretrained(folder / self.backbone.denoiser_name)


def moving_average(
    parameters: Iterable[torch.nn.Parameter], decay: float = EMA_DECAY, warmup: str = "ramp", **kwargs: Any
) -> EMAModel:
    """An exponential moving average, which begins at the pretrained `parameters`: m_k = d_k · m_{k−1} + (1 − d_k) · w_k.

    With the warm-up `"ramp"`, diffusers' own, d_k = min(k / (9 + k), `decay`) after d_1 = 0, so that nothing of the pretrained weights
    stays. With `"none"`, d_k = `decay` from the first step on; after k steps `decay` to the power of k is still the pretrained weights.
    """
    constant = {"min_decay": decay, "update_after_step": -1} if warmup == "none" else {}
    return EMAModel(parameters, decay=decay, **constant, **kwargs)
