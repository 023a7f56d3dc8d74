# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""From a pipeline's own scheduler, which samples, to the [`DDPMScheduler`] that noises what it trains on.

Any scheduler class can be made from any config, because keys that are not its own are ignored and those that are missing
have defaults. So that a class of another kind is not read as DDPM with linear betas, every class is in one of two tables
here, one that is in neither is refused, and the noise levels of both schedulers are compared whenever a pipeline is opened.
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

FLOW = "is for flow matching"
CONTINUOUS = "has continuous noise levels"
DISTILLED = "samples from distilled models, which training with the denoising loss makes forget their few steps"
TOKENS = "is for models of tokens"
OTHER_LEVELS = "has other noise levels than DDPM"
NOT_FROM_NOISE = "does not make images from noise"

# Why the others of diffusers are not trained with.
OTHERS: dict[str, str] = {
    "AmusedScheduler": TOKENS,
    "BlockRefinementScheduler": TOKENS,
    "CMStochasticIterativeScheduler": DISTILLED,
    "CogVideoXDDIMScheduler": OTHER_LEVELS,
    "CogVideoXDPMScheduler": OTHER_LEVELS,
    "ConsistencyDecoderScheduler": OTHER_LEVELS,
    "CosineDPMSolverMultistepScheduler": CONTINUOUS,
    "DDIMInverseScheduler": NOT_FROM_NOISE,
    "DDPMWuerstchenScheduler": CONTINUOUS,
    "DPMSolverMultistepInverseScheduler": NOT_FROM_NOISE,
    "DiscreteDDIMScheduler": TOKENS,
    "EDMDPMSolverMultistepScheduler": CONTINUOUS,
    "EDMEulerScheduler": CONTINUOUS,
    "EntropyBoundScheduler": TOKENS,
    "FlowMapEulerDiscreteScheduler": FLOW,
    "FlowMatchEulerDiscreteScheduler": FLOW,
    "FlowMatchHeunDiscreteScheduler": FLOW,
    "FlowMatchLCMScheduler": FLOW,
    "HeliosDMDScheduler": FLOW,
    "HeliosScheduler": FLOW,
    "IPNDMScheduler": OTHER_LEVELS,
    "KarrasVeScheduler": CONTINUOUS,
    "LCMScheduler": DISTILLED,
    "LTXEulerAncestralRFScheduler": FLOW,
    "MiniMaxH3Scheduler": FLOW,
    "PiflowScheduler": FLOW,
    "RFD4ProteinaScheduler": OTHER_LEVELS,
    "RePaintScheduler": NOT_FROM_NOISE,
    "SCMScheduler": DISTILLED,
    "ScoreSdeVeScheduler": CONTINUOUS,
    "ScoreSdeVpScheduler": CONTINUOUS,
    "TCDScheduler": DISTILLED,
    "UnCLIPScheduler": OTHER_LEVELS,
    "VQDiffusionScheduler": TOKENS,
}

# Settings that mean another model than DDPM's where a scheduler takes them, with the value that means none.
UNSET: dict[str, Any] = {"use_flow_sigmas": False, "timestep_type": "discrete"}
WORKS = "give a pipeline with a scheduler of diffusion type, such as DDIMScheduler or DPMSolverMultistepScheduler"


def check_scheduler_class(name: object, where: str | Path) -> None:
    """Refuses a class of schedulers that training has no noise levels for.

    Args:
        name: The class' name, as `model_index.json` or `scheduler_config.json` has it.
        where (`str` or `Path`): What messages call the place it is in.

    Raises:
        DiffTuneError: It is not one of `DIFFUSION`.
    """
    if isinstance(name, str) and name in DIFFUSION:
        return
    why = OTHERS.get(name, "is not known here") if isinstance(name, str) else "is no class of diffusers"
    raise DiffTuneError(
        f"The scheduler of {where} is {name if name in OTHERS else quoted(name)}, which {why}; {WORKS}."
    )


def load_scheduler(folder: Path) -> tuple[DDPMScheduler, str]:
    """The scheduler to train with: the noise levels and the prediction type of a pipeline's own scheduler.

    Args:
        folder (`Path`): The pipeline. Its `model_index.json` names the class that samples; see [`check_scheduler_class`].

    Returns:
        `tuple[DDPMScheduler, str]`: The scheduler, whose `alphas_cumprod` are those of the pipeline's own, and the name of
        that one's class.

    Raises:
        DiffTuneError: The scheduler is of another kind, cannot be made, or does not have the noise levels of its config.
    """
    name = json.loads((folder / "model_index.json").read_text())["scheduler"][1]
    check_scheduler_class(name, folder)
    return training_scheduler(folder / "scheduler", name), name


def training_scheduler(folder: Path, name: str | None = None) -> DDPMScheduler:
    """[`load_scheduler`] of a folder with a `scheduler_config.json`.

    Args:
        folder (`Path`): The folder.
        name (`str`, *optional*): The class that samples with it. Default: the one that its config names.
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
    except ImportError as error:  # it needs a package that is not installed
        raise DiffTuneError(f"{place} cannot be made: {first_sentence(error)}; install that, or {WORKS}.") from error
    except NotImplementedError as error:
        raise DiffTuneError(
            f"{place} has beta_schedule {quoted(config.get('beta_schedule'))}, which it does not know; {WORKS}."
        ) from error
    check_prediction(own.config.prediction_type, name, place)
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


def check_prediction(prediction_type: object, name: str, place: str) -> None:
    """Refuses a prediction type that a scheduler does not sample from."""
    known = DIFFUSION[name]
    if prediction_type not in known:
        raise DiffTuneError(
            f"{place} has prediction_type {quoted(prediction_type)}, and that scheduler samples from models of"
            f" {', '.join(known)} only; change one of them."
        )
