# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Control images of the knowledge bank: extracted from its samples, by what measures a ControlNet's convergence, too."""

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ..backbones import Backbone
from ..bank.bank import KnowledgeBank
from ..config import ControlNetConfig
from .run import Run


if TYPE_CHECKING:
    from ..controls import Extractor
    from ..controls.bank import BankConditions

logger = logging.getLogger(__name__)


def retention_condition(config: ControlNetConfig) -> str | None:
    """The control images of source rows: `"extracted"`, `"blank"`, or `None` for a run without source rows."""
    return (config.retention_condition or "blank") if config.uses_bank else None


def find_extractor(run: Run) -> "Extractor | None":
    """What extracts conditions from images, if the run has a use for it."""
    config = run.config
    if retention_condition(config) != "extracted" and config.control_evaluation_data is None:
        return None
    from ..controls import make_extractor  # its libraries are slow to import

    return make_extractor(
        config.condition_kind,
        config.condition_model,
        config.condition_revision,
        device=run.accelerator.device,
        cache_dir=config.cache_dir,
        token=config.hub_token,
    )


def make_bank_conditions(
    run: Run, backbone: Backbone, bank: KnowledgeBank | None, extractor: "Extractor | None"
) -> "BankConditions | None":
    """Extracts the control images of the knowledge bank, once for each bank; they are kept beside it. `None` if source rows
    get blank ones, or there are none."""
    if bank is None or extractor is None or retention_condition(run.config) != "extracted":
        if retention_condition(run.config) == "blank":
            logger.info("Source rows get a blank control image: the pair is held to the bare model.")
        return None
    from ..controls.bank import bank_conditions

    decode = sample_decoder(backbone, run.accelerator.device)
    found = bank_conditions(bank, extractor, decode, accelerator=run.accelerator, cache_dir=run.config.cache_dir)
    backbone.release_encoders()
    extractor.release()
    return found


def sample_decoder(backbone: Backbone, device: torch.device) -> Callable[[torch.Tensor], list[Image.Image]]:
    """What turns latents of a knowledge bank into images: one by one, which fits wherever the model is sampled, and in
    float32 whatever the precision of the run, so that all runs extract from the same images."""

    @cache
    def load() -> None:  # once, and not if nothing is to be decoded
        backbone.release_encoders()
        backbone.load_encoders(device, torch.float32)

    def decode(latents: torch.Tensor) -> list[Image.Image]:
        load()
        return [image for sample in latents for image in to_images(backbone.decode(backbone.vae, sample[None]))]

    return decode


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Images in [0, 1] of shape (N, 3, H, W) as PIL images."""
    array = (pixels.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(np.ascontiguousarray(image)) for image in array.numpy()]
