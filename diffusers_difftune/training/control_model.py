# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The ControlNet to start from: finding it and what belongs to it, checking that it fits the pipeline, loading it."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .. import errors
from ..backbones import Backbone
from ..backbones.controlnet import ControlNetFamily
from ..backbones.pipeline_files import check_tensors, tensors_in
from ..config import ControlNetConfig
from ..errors import DiffTuneError, first_sentence
from ..io.hub import pinned


def control_family(backbone: Backbone) -> ControlNetFamily:
    """The ControlNet of a pipeline's family; raises a [`DiffTuneError`] if it has none."""
    if backbone.controlnet is None:
        raise DiffTuneError(
            f"--pretrained_model_name_or_path is a {backbone.pipeline_class.__name__}, for which there is no ControlNet"
            " training."
        )
    return backbone.controlnet


def find_tokenizer(config: ControlNetConfig) -> PreTrainedTokenizerBase | None:
    """The tokenizer that `--tokenizer_name` names, if it is given."""
    name = config.tokenizer_name
    if name is None:
        return None
    try:
        return AutoTokenizer.from_pretrained(
            name, trust_remote_code=False, revision=config.revision, **download_options(config)
        )
    except (OSError, ValueError) as error:
        raise DiffTuneError(f"--tokenizer_name {name} cannot be loaded: {first_sentence(error)}.") from error


def download_options(config: ControlNetConfig) -> dict[str, Any]:
    return {"cache_dir": config.cache_dir, "token": config.hub_token}


def check_controlnet(config: ControlNetConfig, backbone: Backbone) -> None:
    """Checks by its config that a ControlNet belongs to the pipeline."""
    name = config.controlnet_model_name_or_path
    try:
        file, _ = pinned(name, **download_options(config))
        found = dict(json.loads(file.read_text()))
    except Exception as error:  # the Hub client and requests raise a dozen unrelated classes here
        raise DiffTuneError(
            f"--controlnet_model_name_or_path {name} is neither a folder with a ControlNet nor one that can be had from"
            f" the Hub: {first_sentence(error)}."
        ) from error
    family = control_family(backbone)
    if (reason := family.mismatch(found, backbone.empty_denoiser())) is not None:
        raise DiffTuneError(f"--controlnet_model_name_or_path {name} {reason}.")
    if Path(name).is_dir():
        with errors.flag("--controlnet_model_name_or_path"):
            with torch.device("meta"):
                model_class: Any = family.model_class
                empty = model_class.from_config(found)
            check_tensors(Path(name), tensors_in(Path(name)), empty)


def empty_controlnet(config: ControlNetConfig, backbone: Backbone, denoiser: torch.nn.Module) -> torch.nn.Module:
    """The ControlNet that is to be trained, without its weights."""
    name = config.controlnet_model_name_or_path
    with torch.device("meta"):
        if name is None:
            return control_family(backbone).new(denoiser)
        model_class: Any = control_family(backbone).model_class
        return model_class.from_config(model_class.load_config(name, **download_options(config)))


def load_controlnet(config: ControlNetConfig, backbone: Backbone, seed: int) -> torch.nn.Module:
    """Loads the ControlNet that `--controlnet_model_name_or_path` names, in float32, or makes one from the denoiser, whose
    layers for the control image are drawn with the seed."""
    name = config.controlnet_model_name_or_path
    if name is None:
        torch.manual_seed(seed)
        return control_family(backbone).new(backbone.load_denoiser())
    model_class: Any = control_family(backbone).model_class
    try:
        return model_class.from_pretrained(name, dtype=torch.float32, use_safetensors=True, **download_options(config))
    except (OSError, ValueError, RuntimeError) as error:
        raise DiffTuneError(
            f"--controlnet_model_name_or_path {name} cannot be loaded: {first_sentence(error)}."
        ) from error
