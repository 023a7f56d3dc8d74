# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA and DoRA as stock diffusers reads them with `pipeline.load_lora_weights`, and a check that it would read all of it."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from peft.utils import get_peft_model_state_dict

from ..errors import DiffTuneError, first_sentence
from .adapter import Adapter
from .peft_layers import NAME
from .settings import AdapterSettings


def is_stock_lora(settings: AdapterSettings, pipeline_class: Any) -> bool:
    """Whether an adapter on the denoiser is saved as a file for `pipeline.load_lora_weights`."""
    known = settings.kind in ("lora", "dora") and hasattr(pipeline_class, "save_lora_weights")
    return known and not settings.always_trained


def lora_tensors(adapter: Adapter, component: str) -> dict[str, torch.Tensor]:
    """The tensors of a file for `load_lora_weights`: by PEFT's own names, under the component's, in float32.

    diffusers tells from the first name what naming a file has, so all names must be of one kind. PEFT's own are read whole
    by the loader of every family. They are sorted, as they are in a safetensors file.
    """
    found = get_peft_model_state_dict(adapter.model, adapter_name=NAME)
    return {f"{component}.{name}": found[name].float() for name in sorted(found)}


def lora_metadata(adapter: Adapter, component: str) -> dict[str, Any]:
    """PEFT's config, from which diffusers makes the layers, as JSON has it."""
    config = adapter.model.peft_config[NAME].to_dict()
    values = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    return json.loads(json.dumps({f"{component}.{name}": value for name, value in values.items()}))


def check_stock_reads(adapter: Adapter, component: str, pipeline_class: Any) -> None:
    """Checks that `load_lora_weights` would put every tensor of a LoRA where it belongs: diffusers' own loader is run on a model
    without weights, which takes up to some seconds, and what it left out is counted.

    Raises:
        DiffTuneError: Something would be left out. The sentence says how many layers, and names one.
    """
    expected = set(adapter.added)
    try:
        read = expected & read_by_stock(adapter, component, pipeline_class)
    except Exception as error:  # the loaders raise many unrelated classes
        raise DiffTuneError(
            f"Stock diffusers could not load this {adapter.settings.kind} on the {component} with"
            f" {pipeline_class.__name__}.load_lora_weights ({first_sentence(error)}); name other modules, or take --adapter"
            " loha or lokr, which load_adapter loads."
        ) from error
    layers, lost = ({name.split(".lora_")[0] for name in names} for names in (expected, expected - read))
    if lost:
        raise DiffTuneError(
            f"Of the {len(layers)} layers of this {adapter.settings.kind} on the {component}, stock diffusers'"
            f" {pipeline_class.__name__}.load_lora_weights would read back {len(layers) - len(lost)}, and not {min(lost)} for"
            " one; leave such modules out, or take --adapter loha or lokr, which load_adapter loads."
        )


def read_by_stock(adapter: Adapter, component: str, pipeline_class: Any) -> set[str]:
    """The names, as [`Adapter.added`] has them, of what `load_lora_weights` would read."""
    tensors, metadata = lora_tensors(adapter, component), lora_metadata(adapter, component)
    outcomes: list[Any] = []
    # New layers start at random, and a run's own draws must not move.
    with torch.random.fork_rng(devices=[]), without_warnings():
        with torch.device("meta"):
            model = type(adapter.model).from_config(adapter.model.config)
        model.register_load_state_dict_post_hook(lambda _, outcome: outcomes.append(outcome))
        found, *_ = pipeline_class.lora_state_dict(tensors, return_lora_metadata=True)
        model.load_lora_adapter(found, prefix=component, metadata=metadata, adapter_name=NAME, low_cpu_mem_usage=True)
    if not outcomes:  # there was nothing that it took for a LoRA of this component
        return set()
    there = {name for name in model.state_dict() if f".{NAME}" in name}
    return {name.replace(f".{NAME}", "") for name in there.difference(*(outcome.missing_keys for outcome in outcomes))}


@contextmanager
def without_warnings() -> Iterator[None]:
    """A context in which the libraries do not warn of what the caller tells in one sentence."""
    verbosity = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity(diffusers.utils.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers.utils.logging.set_verbosity(verbosity)
