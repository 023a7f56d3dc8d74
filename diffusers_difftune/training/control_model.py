# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The ControlNet to start from: finding it and what belongs to it, checking that it fits the pipeline, loading it."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ..adapters import AdapterSettings
from ..backbones import Backbone
from ..backbones.pipeline_files import check_tensors, tensors_in
from ..errors import DiffTuneError, first_sentence
from ..trainables.control import ALWAYS_TRAINED
from .adapter import adapter_settings, check_fit
from .pretrained import save_memory


# What a ControlNet must have in common with the denoiser whose layers it feeds.
SHARED_CONFIG = (
    *("in_channels", "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim"),
    *("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim", "encoder_hid_dim_type"),
)


def find_control_parts(config: Any, backbone: Backbone) -> AdapterSettings | None:
    """Finds the tokenizer, the ControlNet and the adapter that the flags name, and checks that they fit; loads no weights.

    Args:
        config ([`ControlNetConfig`]): The flags.
        backbone ([`Backbone`]): Gets the tokenizer.

    Returns:
        [`AdapterSettings`] or `None`: The adapter on the ControlNet; `None` if all of it trains.

    Raises:
        DiffTuneError: The pipeline's family has no ControlNet, or what a flag names does not exist or does not fit.
    """
    if not hasattr(backbone, "controlnet_class"):
        raise DiffTuneError(
            f"--pretrained_model_name_or_path is a {backbone.pipeline_class.__name__}, for which there is no ControlNet"
            " training."
        )
    pretrained_type = backbone.noise_scheduler.config.prediction_type
    if config.prediction_type not in (None, pretrained_type):
        raise DiffTuneError(
            f"--prediction_type is {config.prediction_type}, but the denoiser is frozen and by its scheduler predicts"
            f" {pretrained_type}, as it will wherever the ControlNet is used; leave the flag out."
        )
    where = {"cache_dir": config.cache_dir, "token": config.hub_token}
    if config.tokenizer_name is not None:
        backbone.set_tokenizer(find_tokenizer(config.tokenizer_name, backbone, revision=config.revision, **where))
    if config.controlnet_model_name_or_path is not None:
        check_controlnet(config.controlnet_model_name_or_path, backbone, **where)
    adapter = adapter_settings(config, backbone, ALWAYS_TRAINED)
    if adapter is not None:
        with torch.device("meta"):
            empty = backbone.new_controlnet(backbone.empty_denoiser())
        check_fit(config, adapter, empty, "ControlNet")
    return adapter


def find_tokenizer(name: str, backbone: Backbone, **where: Any) -> PreTrainedTokenizerBase:
    """The tokenizer that `--tokenizer_name` names, if the text encoder can read what it writes."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where)
    except (OSError, ValueError) as error:
        raise DiffTuneError(f"--tokenizer_name {name} cannot be loaded: {first_sentence(error)}.") from error
    reader = AutoConfig.from_pretrained(backbone.folder / "text_encoder", trust_remote_code=False)
    for what, has, most in (
        ("knows {} tokens", len(tokenizer), reader.vocab_size),
        ("cuts prompts at {} tokens", tokenizer.model_max_length, reader.max_position_embeddings),
    ):
        if has > most:
            raise DiffTuneError(
                f"--tokenizer_name {name} {what.format(has)}, and the model's text encoder takes {most}; give one that"
                " was made for this text encoder."
            )
    return tokenizer


def check_controlnet(name: str, backbone: Backbone, **where: Any) -> None:
    """Checks by its config that a ControlNet belongs to the pipeline."""
    try:
        file = Path(name, "config.json")
        if not Path(name).is_dir():
            file = Path(hf_hub_download(name, "config.json", **where))
        found = dict(json.loads(file.read_text()))
    except Exception as error:  # the Hub client and requests raise a dozen unrelated classes here
        raise DiffTuneError(
            f"--controlnet_model_name_or_path {name} is neither a folder with a ControlNet nor one that can be had from"
            f" the Hub: {first_sentence(error)}."
        ) from error
    expected = backbone.controlnet_class.__name__
    if found.get("_class_name") != expected:
        raise DiffTuneError(
            f"--controlnet_model_name_or_path {name} is a {found.get('_class_name', 'model without a class')}; this"
            f" pipeline needs a {expected}."
        )
    denoiser = backbone.empty_denoiser().config
    for key in SHARED_CONFIG:
        ours, theirs = denoiser[key], found.get(key, denoiser[key])
        if json.dumps(ours) != json.dumps(theirs):
            raise DiffTuneError(
                f"--controlnet_model_name_or_path {name} belongs to another model: its {key} is {theirs}, and the"
                f" {backbone.denoiser_name}'s is {ours}."
            )
    factor = 2 ** (len(found.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)) - 1)
    if factor != backbone.vae_scale_factor:
        raise DiffTuneError(
            f"--controlnet_model_name_or_path {name} belongs to another model: it makes control images {factor} times"
            f" smaller, and the VAE makes images {backbone.vae_scale_factor} times smaller."
        )
    if found.get("conditioning_channels", 3) != 3:
        raise DiffTuneError(
            f"--controlnet_model_name_or_path {name} takes control images of {found['conditioning_channels']} channels;"
            " these are of 3."
        )
    if Path(name).is_dir():
        try:
            with torch.device("meta"):
                empty: Any = backbone.controlnet_class
                empty = empty.from_config(found)
            check_tensors(Path(name), tensors_in(Path(name)), empty)
        except DiffTuneError as error:
            raise DiffTuneError(f"--controlnet_model_name_or_path: {error}") from error


def empty_controlnet(config: Any, backbone: Backbone, denoiser: torch.nn.Module) -> torch.nn.Module:
    """The ControlNet that is to be trained, without its weights."""
    name = config.controlnet_model_name_or_path
    with torch.device("meta"):
        if name is None:
            return backbone.new_controlnet(denoiser)
        controlnet_class: Any = backbone.controlnet_class
        where = {"cache_dir": config.cache_dir, "token": config.hub_token}
        return controlnet_class.from_config(controlnet_class.load_config(name, **where))


def load_controlnet(config: Any, backbone: Backbone, seed: int) -> torch.nn.Module:
    """Loads the ControlNet that `--controlnet_model_name_or_path` names, or makes one from the denoiser.

    Args:
        config ([`ControlNetConfig`]): The flags.
        backbone ([`Backbone`]): The pretrained pipeline.
        seed (`int`): Draws what a new one has beside its copy of the denoiser.

    Returns:
        `torch.nn.Module`: The ControlNet, float32, with the memory savers that the flags ask for.
    """
    name = config.controlnet_model_name_or_path
    if name is None:
        torch.manual_seed(seed)  # its layers for the control image start at random
        controlnet = backbone.new_controlnet(backbone.load_denoiser())
    else:
        try:
            controlnet = backbone.controlnet_class.from_pretrained(
                name, dtype=torch.float32, use_safetensors=True, cache_dir=config.cache_dir, token=config.hub_token
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise DiffTuneError(
                f"--controlnet_model_name_or_path {name} cannot be loaded: {first_sentence(error)}."
            ) from error
    save_memory(controlnet, config)
    return controlnet
