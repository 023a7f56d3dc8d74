# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Putting a saved adapter on a pipeline of diffusers, and merging it into the pipeline's weights."""

from pathlib import Path
from typing import Any

import torch

from ..errors import DiffTuneError, clause
from ..io.hub import folder_of
from .adapter import ADAPTED, Adapter
from .files import CONFIG_FILE, LORA_FILE, TENSOR_FILE, SavedAdapter, read_adapter
from .peft_layers import layers, merge_layers
from .scales import fold_scales


def load_adapter(
    pipeline: Any,
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> None:
    """Puts an adapter on a pipeline: on its denoiser, or on its ControlNet if the adapter was trained on one.

    Args:
        pipeline ([`~diffusers.DiffusionPipeline`]): The pipeline the adapter was trained for, as diffusers loads it.
        name_or_path (`str` or `Path`): The run folder, a checkpoint in it, or an id on the Hub.
        revision (`str`, *optional*): Revision on the Hub.
        cache_dir (`str` or `Path`, *optional*): Where downloads are kept.
        token (`str`, *optional*): Token for the Hub.

    Raises:
        DiffTuneError: There is no adapter, its files are damaged, it belongs to another model, or the pipeline has an
            adapter already. The pipeline is then as it was.

    Example:
        ```python
        pipeline = DiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
        load_adapter(pipeline, "my-difffit")
        ```
    """
    where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token}
    place = folder_of(name_or_path, "an adapter", (CONFIG_FILE, TENSOR_FILE, LORA_FILE), **where)
    saved, tensors = read_adapter(place)
    model = component_of(pipeline, saved, place)
    if layers(model) or getattr(model, ADAPTED, False):
        raise DiffTuneError(
            f"The pipeline's {saved.component} has an adapter already, so {place} cannot be put on it; merge it with"
            " merge_adapter first."
        )
    try:  # on a model without weights, so that the pipeline's own stays as it was if it does not fit
        with torch.device("meta"):
            empty = type(model).from_config(model.config)
        Adapter(empty, saved.settings, saved.component).check(tensors)
    except DiffTuneError as error:
        raise DiffTuneError(f"{place} does not fit the pipeline's {saved.component}: {clause(str(error))}") from error
    Adapter(model, saved.settings, saved.component, training=False).set_tensors(tensors)
    model.requires_grad_(False).eval()
    set_facts(pipeline, saved.pipeline)


def merge_adapter(pipeline: Any) -> None:
    """Works every adapter on a pipeline into its weights, so that what `pipeline.save_pretrained` writes is a pipeline
    like any other, and another adapter can be loaded.

    Args:
        pipeline ([`~diffusers.DiffusionPipeline`]): The pipeline; its weights change, and its images do not, but for
            rounding.
    """
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            merge_layers(component)
            fold_scales(component)
            for module in component.modules():  # the component may have been wrapped since
                vars(module).pop(ADAPTED, None)


def component_of(pipeline: Any, saved: SavedAdapter, place: Path) -> Any:
    """The component of the pipeline that an adapter belongs to."""
    model = pipeline.components.get(saved.component)
    if model is None:
        raise DiffTuneError(
            f"{place} is an adapter for a {saved.component}, and this {type(pipeline).__name__} has none; load it as the"
            " pipeline it was trained for."
        )
    if saved.model_class not in (None, type(model).__name__):
        raise DiffTuneError(
            f"{place} is an adapter for a {saved.model_class}, and the pipeline's {saved.component} is a"
            f" {type(model).__name__}; load it on the pipeline it was trained for."
        )
    return model


def set_facts(pipeline: Any, facts: dict[str, Any]) -> None:
    """Tells the pipeline what an adapter needs beside its weights; see [`SavedAdapter`]."""
    if "prediction_type" in facts:
        pipeline.scheduler.register_to_config(prediction_type=facts["prediction_type"])
    if "id2label" in facts:
        pipeline.register_to_config(id2label=facts["id2label"])
        names = {name.strip(): int(key) for key, value in facts["id2label"].items() for name in value.split(",")}
        pipeline.labels = dict(sorted(names.items()))
