# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""From a pipeline's own scheduler, which samples, to the [`DDPMScheduler`] that noises what it trains on.

Any scheduler class can be made from any config, because keys that are not its own are ignored and those that are missing
have defaults. So that a class of another kind is not read as DDPM with linear betas, a class that is not in the table here is
refused, and the noise levels of both schedulers are compared whenever a pipeline is opened.
"""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, SchedulerMixin

from ..errors import DiffTuneError, first_sentence, quoted


# Schedulers on the noise levels of DDPM, each with what a model may predict that it samples from.
DIFFUSION: dict[str, tuple[str, ...]] = {
    "DDIMParallelScheduler": ("epsilon", "v_prediction", "sample"),
    "DDIMScheduler": ("epsilon", "v_prediction", "sample"),
    "DDPMParallelScheduler": ("epsilon", "v_prediction", "sample"),
    "DDPMScheduler": ("epsilon", "v_prediction", "sample"),
    "DEISMultistepScheduler": ("epsilon", "v_prediction", "sample"),
    "DPMSolverMultistepScheduler": ("epsilon", "v_prediction", "sample"),
    "DPMSolverSDEScheduler": ("epsilon", "v_prediction"),
    "DPMSolverSinglestepScheduler": ("epsilon", "v_prediction", "sample"),
    "EulerAncestralDiscreteScheduler": ("epsilon", "v_prediction"),
    "EulerDiscreteScheduler": ("epsilon", "v_prediction", "sample"),
    "HeunDiscreteScheduler": ("epsilon", "v_prediction", "sample"),
    "KDPM2AncestralDiscreteScheduler": ("epsilon", "v_prediction"),
    "KDPM2DiscreteScheduler": ("epsilon", "v_prediction"),
    "LMSDiscreteScheduler": ("epsilon", "v_prediction", "sample"),
    "PNDMScheduler": ("epsilon", "v_prediction"),
    "SASolverScheduler": ("epsilon", "v_prediction", "sample"),
    "UniPCMultistepScheduler": ("epsilon", "v_prediction", "sample"),
}

# Settings that mean another model than DDPM's where a scheduler takes them, with the value that means none.
UNSET: dict[str, Any] = {"use_flow_sigmas": False, "timestep_type": "discrete"}
WORKS = "give a pipeline with a scheduler of diffusion type, such as DDIMScheduler or DPMSolverMultistepScheduler"


def check_scheduler_class(name: object, where: str | Path) -> None:
    """Refuses a class of schedulers, by the name that a config has, that is not one of `DIFFUSION`."""
    if not isinstance(name, str) or name not in DIFFUSION:
        raise DiffTuneError(
            f"The scheduler of {where} is {quoted(name)}, whose noise levels are not those of DDPM (it may be for flow matching,"
            f" continuous levels, distilled models or tokens); {WORKS}."
        )


def load_scheduler(folder: Path) -> tuple[DDPMScheduler, str]:
    """The scheduler to train with, of the noise levels and the prediction type of a pipeline's own, and the name of that one's
    class, which samples."""
    name = json.loads((folder / "model_index.json").read_text())["scheduler"][1]
    check_scheduler_class(name, folder)
    return training_scheduler(folder / "scheduler", name), name


def training_scheduler(folder: Path, name: str | None = None) -> DDPMScheduler:
    """The scheduler to train with, by the `scheduler_config.json` in a folder.

    Args:
        folder (`Path`): The folder.
        name (`str`, *optional*): The class that samples with it. Default: the one that its config names.

    Raises:
        DiffTuneError: The scheduler is of another kind, cannot be made, or does not have the noise levels of its config.
    """
    config: dict[str, Any] = DDPMScheduler.load_config(folder)
    written_by = config.get("_class_name", name or "DDPMScheduler")
    check_scheduler_class(written_by, folder)
    name = name or written_by
    place = f"The {name} of {folder.parent}"
    own_class: type[SchedulerMixin] = getattr(importlib.import_module("diffusers"), name)
    taken = inspect.signature(own_class.__init__).parameters
    for key in ("rescale_betas_zero_snr", "trained_betas"):
        if config.get(key) and key not in taken:
            raise DiffTuneError(
                f"{place} does not know {key}, which its config sets, so it would sample from other noise levels than"
                " those; take the setting out, or give a pipeline with a DDIMScheduler."
            )
    for key, unset in UNSET.items():
        if config.get(key) not in (unset, None):
            raise DiffTuneError(f"{place} has {key} {quoted(config[key])}, which is not of diffusion type; {WORKS}.")
    try:
        own: Any = own_class.from_config(config)
    except (ImportError, NotImplementedError) as error:  # for a package that is not installed, or a beta_schedule
        raise DiffTuneError(f"{place} cannot be made: {first_sentence(error)}; {WORKS}.") from error
    predicted, known = own.config.prediction_type, DIFFUSION[name]
    if predicted not in known:
        raise DiffTuneError(
            f"{place} has prediction_type {quoted(predicted)}, and that scheduler samples from models of {', '.join(known)}"
            " only; change one of them."
        )
    settings = {
        key: own.config[key] for key in inspect.signature(DDPMScheduler.__init__).parameters if key in own.config
    }
    try:
        scheduler = DDPMScheduler(**settings)
        same = torch.equal(without_terminal(scheduler), without_terminal(own))
    except NotImplementedError:  # a beta_schedule that only this class knows
        same = False
    if not same:
        raise DiffTuneError(
            f"{place} has noise levels of its own (beta_schedule {quoted(own.config.beta_schedule)}), which training would"
            f" not have; {WORKS}."
        )
    return scheduler


def without_terminal(scheduler: Any) -> torch.Tensor:
    """The noise levels to compare. With a terminal signal-to-noise ratio of zero, samplers that divide by the signal put a
    tiny number in its place; the model sees the same noise."""
    levels = scheduler.alphas_cumprod
    return levels[:-1] if scheduler.config.get("rescale_betas_zero_snr") else levels
