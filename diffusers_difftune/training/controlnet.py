# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What only ControlNet training needs around its run: its flags, the ControlNet to start from, and control images for
the knowledge bank."""

import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .. import errors
from ..adapters import AdapterSettings
from ..backbones import Backbone
from ..backbones.controlnet import ControlNetFamily
from ..backbones.pipeline_files import check_tensors, tensors_in
from ..bank.bank import KnowledgeBank
from ..controls import check_kind
from ..data.dataset import TargetData
from ..data.images.decode import ImageTransform, UnreadableImage, control_crop, decode
from ..errors import DiffTuneError, first_sentence
from .adapter import adapter_settings, check_fit
from .checks import uses_bank
from .run import Run, save_memory


if TYPE_CHECKING:
    from ..controls import Extractor
    from ..controls.bank import BankConditions

logger = logging.getLogger(__name__)


def check_control_flags(config: Any) -> None:
    """Stops on the first flag of ControlNet training that cannot work.

    Args:
        config: The config of the script.

    Raises:
        DiffTuneError: A flag is missing, out of range, or conflicts with another one.
    """
    prompts, images = config.validation_prompt or [], config.validation_image or []
    if bool(prompts) != bool(images):
        given, missing = ("prompt", "image") if prompts else ("image", "prompt")
        raise DiffTuneError(f"--validation_{given} is given without --validation_{missing}; give both or neither.")
    if len(prompts) != len(images) and 1 not in (len(prompts), len(images)):
        raise DiffTuneError(
            f"--validation_prompt has {len(prompts)} values and --validation_image {len(images)}; give as many of both,"
            " or a single one of either."
        )
    for path in images:
        open_control_image(path)
    for name in ("condition_model", "condition_revision", "control_evaluation_data"):
        if getattr(config, name) is not None and config.condition_kind is None:
            raise DiffTuneError(f"--{name} needs --condition_kind, which says what the control images are.")
    if config.condition_kind is not None:
        with errors.flag(f"--condition_kind {config.condition_kind}"):
            check_kind(config.condition_kind, config.condition_model, config.condition_revision)
    if config.retention_condition is not None and not uses_bank(config):
        raise DiffTuneError("--retention_condition needs source rows; set --source_share above 0.")
    if config.retention_condition == "extracted" and config.condition_kind is None:
        raise DiffTuneError(
            "--retention_condition extracted needs --condition_kind, which says what to extract; or use blank."
        )


def open_control_image(path: str) -> Image.Image:
    """A file of `--validation_image`."""
    try:
        return decode({"bytes": None, "path": path})
    except UnreadableImage as error:
        raise DiffTuneError(f"--validation_image {path} cannot be read: {error.reason}.") from None


def validation_pairs(config: Any, resolution: int) -> tuple[list[str], list[Image.Image]]:
    """A prompt and a control image for each validation image; a single one of either goes with all of the other.

    Control images are resized and cropped as those of the target data are.
    """
    prompts, images = config.validation_prompt or [], config.validation_image or []
    count = max(len(prompts), len(images))
    transform = ImageTransform(resolution, config.image_interpolation_mode)
    opened = [control_crop(open_control_image(path), transform) for path in images]
    prompts, opened = (values * count if len(values) == 1 else values for values in (prompts, opened))
    repeated = [
        (p, image) for p, image in zip(prompts, opened, strict=True) for _ in range(config.num_validation_images)
    ]
    return [prompt for prompt, _ in repeated], [image for _, image in repeated]


def find_control_parts(run: Run, backbone: Backbone) -> AdapterSettings | None:
    """Finds the ControlNet and the adapter that the flags name, and checks that they fit; loads no weights.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.

    Returns:
        [`AdapterSettings`] or `None`: The adapter on the ControlNet; `None` if all of it trains.

    Raises:
        DiffTuneError: The pipeline's family has no ControlNet, or what a flag names does not exist or does not fit.
    """
    config = run.config
    family = control_family(backbone)
    pretrained_type = backbone.pretrained_prediction_type
    if config.prediction_type not in (None, pretrained_type):
        raise DiffTuneError(
            f"--prediction_type is {config.prediction_type}, but the denoiser is frozen and by its scheduler predicts"
            f" {pretrained_type}, as it will wherever the ControlNet is used; leave the flag out."
        )
    if config.controlnet_model_name_or_path is not None:
        where = {"cache_dir": config.cache_dir, "token": config.hub_token}
        check_controlnet(config.controlnet_model_name_or_path, backbone, **where)
    adapter = adapter_settings(config, backbone, family.always_trained)
    if adapter is not None:
        with torch.device("meta"):
            empty = family.new(backbone.empty_denoiser())
        check_fit(config, adapter, empty, "ControlNet")
    return adapter


def control_family(backbone: Backbone) -> ControlNetFamily:
    """The ControlNet of a pipeline's family.

    Raises:
        DiffTuneError: It has none.
    """
    if backbone.controlnet is None:
        raise DiffTuneError(
            f"--pretrained_model_name_or_path is a {backbone.pipeline_class.__name__}, for which there is no ControlNet"
            " training."
        )
    return backbone.controlnet


def find_tokenizer(config: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer that `--tokenizer_name` names, if it is given."""
    name = config.tokenizer_name
    if name is None:
        return None
    where = {"revision": config.revision, "cache_dir": config.cache_dir, "token": config.hub_token}
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where)
    except (OSError, ValueError) as error:
        raise DiffTuneError(f"--tokenizer_name {name} cannot be loaded: {first_sentence(error)}.") from error


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
    family = control_family(backbone)
    if (reason := family.mismatch(found, backbone.empty_denoiser())) is not None:
        raise DiffTuneError(f"--controlnet_model_name_or_path {name} {reason}.")
    if Path(name).is_dir():
        with errors.flag("--controlnet_model_name_or_path"):
            with torch.device("meta"):
                model_class: Any = family.model_class
                empty = model_class.from_config(found)
            check_tensors(Path(name), tensors_in(Path(name)), empty)


def load_controlnet(run: Run, backbone: Backbone) -> torch.nn.Module:
    """Loads the ControlNet that `--controlnet_model_name_or_path` names, or makes one from the denoiser.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.

    Returns:
        `torch.nn.Module`: The ControlNet, float32, with the memory savers that the flags ask for.
    """
    config = run.config
    name = config.controlnet_model_name_or_path
    if name is None:
        torch.manual_seed(run.seed)  # its layers for the control image start at random
        controlnet = control_family(backbone).new(backbone.load_denoiser())
    else:
        try:
            model_class: Any = control_family(backbone).model_class
            controlnet = model_class.from_pretrained(
                name, dtype=torch.float32, use_safetensors=True, cache_dir=config.cache_dir, token=config.hub_token
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise DiffTuneError(
                f"--controlnet_model_name_or_path {name} cannot be loaded: {first_sentence(error)}."
            ) from error
    save_memory(controlnet, config)
    return controlnet


def retention_condition(config: Any) -> str | None:
    """The control images of source rows: `"extracted"`, `"blank"`, or `None` for a run without source rows."""
    if not uses_bank(config):
        return None
    return config.retention_condition or "blank"


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
    """Extracts the control images of the knowledge bank, once for each bank; they are kept beside it.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): Decodes the samples.
        bank ([`KnowledgeBank`], *optional*): The source rows.
        extractor ([`Extractor`], *optional*): What extracts.

    Returns:
        [`BankConditions`] or `None`: The control images; `None` if source rows get blank ones, or there are none.
    """
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
        return [image for sample in latents for image in to_images(backbone.decode_latents(sample[None]))]

    return decode


def control_settings(run: Run, held_out: TargetData | None, extractor: "Extractor | None") -> dict[str, Any]:
    """What decides the course of a ControlNet run beside `run_settings`, so that a checkpoint is only resumed where it
    means the same.

    Args:
        run ([`Run`]): The run.
        held_out ([`TargetData`], *optional*): The rows it measures on; a run may begin or cease to measure.
        extractor ([`Extractor`], *optional*): What extracts conditions; its settings name the model's commit.

    Returns:
        `dict[str, Any]`: The settings.
    """
    config = run.config
    settings: dict[str, Any] = {
        "controlnet_model_name_or_path": config.controlnet_model_name_or_path,
        "retention_condition": retention_condition(config),
    }
    if extractor is not None:
        settings["extractor"] = extractor.settings
    if held_out is not None:
        settings["control_evaluation"] = {
            "data": held_out.content_key,
            "samples": config.control_evaluation_samples,
            "guidance_scale": config.control_evaluation_guidance_scale,
            "inference_steps": config.control_evaluation_inference_steps,
        }
    return settings


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Images in [0, 1] of shape (N, 3, H, W) as PIL images."""
    array = (pixels.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(np.ascontiguousarray(image)) for image in array.numpy()]
