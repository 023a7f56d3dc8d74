# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""From the flags that say what trains to the settings of an adapter."""

import logging
from typing import Any

import torch

from .. import errors
from ..adapters import Adapter, AdapterSettings
from ..adapters.settings import DEFAULT_RANK, NAMED, PEFT_KINDS, SMALL_SCALE, WITH_ALPHA
from ..adapters.stock_lora import check_stock_reads
from ..backbones import Backbone


logger = logging.getLogger(__name__)


def adapter_settings(
    config: Any, backbone: Backbone, always_trained: tuple[str, ...] | None = None
) -> AdapterSettings | None:
    """The adapter that the flags ask for, complete; `None` if all weights train. `always_trained` are the patterns of
    parameters that train along, by default the backbone's."""
    if config.adapter is None and config.train_parameters is None:
        return None
    modules: list[str] = []
    if config.adapter in PEFT_KINDS:
        modules = config.lora_target_modules or backbone.lora_target_modules(backbone.empty_denoiser())
    return AdapterSettings(
        kind=config.adapter or NAMED,
        rank=DEFAULT_RANK if config.rank is None else config.rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=tuple(modules),
        train_parameters=tuple(config.train_parameters or ()),
        always_trained=backbone.always_trained if always_trained is None else always_trained,
    )


def check_fit(
    config: Any, settings: AdapterSettings, empty: torch.nn.Module, what: str, stock: type | None = None
) -> None:
    """Tries the adapter on a model without weights, which changes in place, and tells what is wrong with the flag that asked
    for it. `stock` is the pipeline class whose `load_lora_weights` is to read the result."""
    flag = f"--adapter {settings.kind}"
    if config.lora_target_modules:
        flag = f"--lora_target_modules {' '.join(config.lora_target_modules)}"
    elif settings.kind == NAMED:
        flag = f"--train_parameters {' '.join(settings.train_parameters)}"
    with errors.flag(flag):
        adapter = Adapter(empty, settings, what)
        if stock is not None:
            check_stock_reads(adapter, what, stock)
    warn_of_small_scale(settings)


def warn_of_small_scale(settings: AdapterSettings) -> None:
    """Tells if alpha / rank is so small that the adapter would hardly change the model."""
    if settings.kind in WITH_ALPHA and settings.scale < SMALL_SCALE:
        logger.warning(
            f"--rank {settings.rank} --lora_alpha {settings.scale_numerator:g}: what a {settings.kind} adds is multiplied by"
            f" alpha / rank = {settings.scale:.2g}, so it will hardly change the model; leave --lora_alpha out for a scale of 1,"
            " or give an alpha nearer to the rank."
        )
