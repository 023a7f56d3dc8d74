# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The files of an adapter: tensors as safetensors, everything else as JSON. A LoRA or DoRA of a pipeline that has
`load_lora_weights` is one file, which that reads."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ..errors import DiffTuneError, first_sentence, quoted
from .adapter import Adapter
from .settings import AdapterSettings
from .stock_lora import lora_metadata, lora_tensors


TENSOR_FILE = "difftune_adapter.safetensors"
CONFIG_FILE = "difftune_adapter_config.json"
LORA_FILE = "pytorch_lora_weights.safetensors"
LORA_METADATA = "lora_adapter_metadata"  # where diffusers looks for PEFT's config in the file
PIPELINE_METADATA = "difftune_pipeline"  # and where we do for what the pipeline is to be told


@dataclass
class SavedAdapter:
    """What the files of an adapter say beside tensors.

    Attributes:
        settings ([`AdapterSettings`]): What was trained.
        component (`str`): The component of the pipeline that it was trained on: `"unet"`, `"transformer"`, `"controlnet"`.
        model_class (`str`, *optional*): The class of that component; a file for `load_lora_weights` does not say.
        pipeline (`dict`): What the pipeline was told otherwise than the pretrained one: `prediction_type`, `id2label`.
    """

    settings: AdapterSettings
    component: str
    model_class: str | None = None
    pipeline: dict[str, Any] = field(default_factory=dict)


def write_adapter(folder: Path, adapter: Adapter, component: str, pipeline: dict[str, Any] | None = None) -> None:
    """Writes `difftune_adapter.safetensors` and `difftune_adapter_config.json`; `component` and `pipeline` as in [`SavedAdapter`]."""
    save_file(adapter.tensors(), folder / TENSOR_FILE, metadata={"format": "pt"})
    content = {
        "adapter": adapter.settings.to_dict(),
        "component": component,
        "model_class": type(adapter.model).__name__,
        "pipeline": pipeline or {},
    }
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lora(folder: Path, adapter: Adapter, component: str, pipeline: dict[str, Any]) -> None:
    """Writes `pytorch_lora_weights.safetensors`, with rank, alpha and modules in it, as `load_lora_weights` reads it, and what only
    [`load_adapter`] reads."""
    metadata = {"format": "pt", LORA_METADATA: json.dumps(lora_metadata(adapter, component), indent=2, sort_keys=True)}
    if pipeline:
        metadata[PIPELINE_METADATA] = json.dumps(pipeline)
    save_file(lora_tensors(adapter, component), folder / LORA_FILE, metadata=metadata)


def read_adapter(folder: Path) -> tuple[SavedAdapter, dict[str, torch.Tensor]]:
    """What the adapter in a folder is, and its tensors by the names of [`Adapter.tensors`].

    Raises:
        DiffTuneError: There is no adapter in the folder, or its files are damaged.
    """
    config, lora = folder / CONFIG_FILE, folder / LORA_FILE
    if config.is_file() and lora.is_file():
        raise DiffTuneError(f"{folder} has two adapters, {LORA_FILE} and {TENSOR_FILE}; move the older one away.")
    if lora.is_file():
        return read_lora(lora)
    if not config.is_file():
        raise DiffTuneError(f"There is no adapter in {folder}: it has neither {CONFIG_FILE} nor {LORA_FILE}.")
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        settings = AdapterSettings.from_dict(content["adapter"])
        saved = SavedAdapter(settings, content["component"], content["model_class"], content["pipeline"])
        check_facts(saved)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DiffTuneError(f"{config} cannot be read: {what_is_wrong(error)}.") from error
    return saved, read_tensors(folder / TENSOR_FILE)


def check_facts(saved: SavedAdapter) -> None:
    """Refuses what a file says of an adapter or its pipeline and cannot be."""
    prediction_type, names = saved.pipeline.get("prediction_type"), saved.pipeline.get("id2label", {})
    for name, value, holds in (
        ("component", saved.component, isinstance(saved.component, str)),
        ("model_class", saved.model_class, isinstance(saved.model_class, str | None)),
        ("prediction_type", prediction_type, prediction_type in (None, "epsilon", "v_prediction", "sample")),
        ("id2label", names, all(key.isdecimal() and isinstance(label, str) for key, label in names.items())),
    ):
        if not holds:
            raise DiffTuneError(f"Its {name} is {quoted(value)}.")


def read_lora(file: Path) -> tuple[SavedAdapter, dict[str, torch.Tensor]]:
    """Reads what [`write_lora`] wrote; see [`read_adapter`]."""
    tensors = read_tensors(file)
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        facts = {tuple(name.split(".", 1)): value for name, value in json.loads(metadata[LORA_METADATA]).items()}
        (component,) = {name[0] for name in facts}
        settings = AdapterSettings.from_dict(
            {
                "kind": "dora" if facts[component, "use_dora"] else "lora",
                "rank": facts[component, "r"],
                "alpha": facts[component, "lora_alpha"],
                "dropout": facts[component, "lora_dropout"],
                "target_modules": sorted(facts[component, "target_modules"]),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DiffTuneError(
            f"{file} does not say of what rank and for which modules it is, as other programs' files do not; load it with"
            " pipeline.load_lora_weights."
        ) from error
    try:
        saved = SavedAdapter(settings, component, pipeline=json.loads(metadata.get(PIPELINE_METADATA, "{}")))
        check_facts(saved)
    except (ValueError, AttributeError, RecursionError) as error:
        raise DiffTuneError(f"{file} cannot be read: {what_is_wrong(error)}.") from error
    return saved, {peft_name(name.removeprefix(f"{component}.")): tensor for name, tensor in tensors.items()}


def peft_name(name: str) -> str:
    """The name in PEFT's layers of a tensor in a file for `load_lora_weights`."""
    # DoRA's is a module in PEFT and a tensor in the file.
    return f"{name}.weight" if name.endswith(".lora_magnitude_vector") else name


def what_is_wrong(error: Exception) -> str:
    """The end of a sentence about a file whose values are not what was written."""
    return first_sentence(error) if isinstance(error, DiffTuneError) else "it is not what was written"


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors in a file."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DiffTuneError(f"{file} is missing or damaged: {first_sentence(error)}.") from error
