# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The pretrained pipeline of a run: finding it, and loading its denoiser."""

from typing import Any

import torch

from .. import errors
from ..backbones import Backbone, load_backbone, pipeline_folder
from ..config.shared import TrainingConfig
from ..errors import DiffTuneError, first_sentence
from ..io.hub import folder_of


def find_backbone(config: TrainingConfig, conditioned_on: str, **settings: Any) -> Backbone:
    """Finds (or downloads) the pretrained pipeline and reads its configs, no weights.

    Args:
        config: The config of a task.
        conditioned_on (`str`): What the task's models are conditioned on, `"prompts"` or `"classes"`.
        settings: Arguments of [`Backbone`] that only some tasks have flags for.

    Raises:
        DiffTuneError: There is no such pipeline, it is damaged, or it is of another kind.
    """
    if config.pretrained_vae_model_name_or_path is not None:
        with errors.flag("--pretrained_vae_model_name_or_path"):
            vae = config.pretrained_vae_model_name_or_path
            settings["vae"] = folder_of(vae, "a VAE", cache_dir=config.cache_dir, token=config.hub_token)
    with errors.flag(
        "--pretrained_model_name_or_path",
        vae="--pretrained_vae_model_name_or_path",
        tokenizer="--tokenizer_name",
        resolution="--resolution",
        prediction_type="--prediction_type",
    ):
        folder = pipeline_folder(
            config.pretrained_model_name_or_path, config.revision, config.variant, config.cache_dir, config.hub_token
        )
        backbone = load_backbone(
            folder,
            config.variant,
            resolution=config.resolution if config.was_given("resolution") else None,
            prediction_type=config.prediction_type,
            **settings,
        )
    if backbone.conditioned_on != conditioned_on:
        raise DiffTuneError(
            f"--pretrained_model_name_or_path is a {backbone.pipeline_class.__name__}, which is conditioned on"
            f" {backbone.conditioned_on}; this script trains models that are conditioned on {conditioned_on}."
        )
    return backbone


def load_denoiser(
    config: TrainingConfig, backbone: Backbone, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> torch.nn.Module:
    """Loads the pretrained denoiser, with the memory savers that the flags ask for.

    Args:
        config: The config of a task.
        backbone ([`Backbone`]): The pretrained pipeline.
        dtype (`torch.dtype`, *optional*, defaults to float32): Its precision; what is trained must be float32.
        revision (`str`, *optional*): `--non_ema_revision`: the revision on the Hub of other weights than the pipeline's.

    Returns:
        `torch.nn.Module`: The denoiser.
    """
    if revision is None:
        denoiser = backbone.load_denoiser(dtype=dtype)
    else:
        name = config.pretrained_model_name_or_path
        try:
            denoiser = backbone.load_denoiser(
                name, dtype, revision=revision, cache_dir=config.cache_dir, token=config.hub_token
            )
        except OSError as error:
            raise DiffTuneError(
                f"--non_ema_revision {revision} of {name} cannot be loaded: {first_sentence(error)}."
            ) from error
    save_memory(denoiser, config)
    return denoiser


def save_memory(model: torch.nn.Module, config: TrainingConfig) -> None:
    """Switches on the memory savers that the flags ask for."""
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if config.enable_xformers_memory_efficient_attention:
        model.enable_xformers_memory_efficient_attention()
