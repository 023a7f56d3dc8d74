# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What can be found wrong with flags alone, before anything is loaded."""

import importlib.util
import math
import os
from pathlib import Path
from typing import Any

from ..errors import DiffTuneError, quoted
from .base import Config, Flag, flags_of
from .controlnet import ControlNetConfig
from .shared import EmaConfig, TrainingConfig
from .text_to_image import TextToImageConfig


# Flags that are not choices of the parser, because they are not in diffusers' scripts either.
ONE_OF = {
    "lr_scheduler": ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "report_to": (
        *("all", "none", "aim", "tensorboard", "wandb", "trackio", "comet_ml", "mlflow", "clearml", "dvclive"),
        "swanlab",
    ),
}
# Flags without use, each with the flag that would give it one and what that is.
NEEDS = {
    "evaluation_steps": ("evaluation_data", "the rows to measure on"),
    "evaluation_clip_model": ("evaluation_data", "the rows to measure on"),
    "control_evaluation_steps": ("control_evaluation_data", "the rows to measure on"),
    "ema_decay": ("use_ema", "the moving average it is of"),
    "ema_warmup": ("use_ema", "the moving average it is of"),
    "hub_strategy": ("push_to_hub", "because it says when to upload"),
    "condition_model": ("condition_kind", "which says what the control images are"),
    "condition_revision": ("condition_kind", "which says what the control images are"),
    "control_evaluation_data": ("condition_kind", "which says what the control images are"),
}
# The kinds of adapters that a flag is for.
KINDS = {
    "rank": ("lora", "dora", "loha", "lokr", "oft", "boft"),
    "lora_alpha": ("lora", "dora", "loha", "lokr"),
    "lora_dropout": ("lora", "dora"),
    "lora_target_modules": ("lora", "dora", "loha", "lokr", "oft", "boft"),
}
# The packages that flags need which are true or not empty.
PACKAGES = {
    "use_8bit_adam": "bitsandbytes",
    "enable_xformers_memory_efficient_attention": "xformers",
    "evaluation_data": "torchmetrics",
}
UPLOADS_COMMAND_LINE = ("all", "wandb", "comet_ml", "clearml", "swanlab")  # trackers that send it, or may
MAY_BE_EMPTY = ("validation_prompt", "validation_prompts")  # that is a prompt, too
LEAST_SHARE = 1e-6  # of source rows, but for none: the objective divides by it
TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "a string"}


def check_flags(config: TrainingConfig) -> None:
    """Stops on the first flag of a task that is missing, out of range, or conflicts with another one."""
    if not config.pretrained_model_name_or_path:
        raise DiffTuneError(
            "--pretrained_model_name_or_path is missing; give a pipeline folder or a model id on the Hub."
        )
    if config.dataset_name is None and config.train_data_dir is None:
        raise DiffTuneError("There is no data to train on; give --dataset_name or --train_data_dir.")
    check_values(config)
    check_needs(config)
    check_source_rows(config)
    check_adapter(config)
    check_conflicts(config)
    if isinstance(config, ControlNetConfig):
        check_controlnet(config)
    check_installed(config)
    check_output_dir(Path(config.output_dir))


def check_values(config: Config) -> None:
    """Stops on the first flag whose value is none that it takes, whatever the other flags are."""
    for name, known in flags_of(type(config)).items():
        check_flag(known, getattr(config, name))


def check_flag(known: Flag, value: Any) -> None:
    """Stops if a flag does not take what it is, or one of several values that it is."""
    if value is None:
        return
    name = known.name
    if known.several != isinstance(value, (list, tuple)):
        wanted = "a list of values" if known.several else "one value"
        raise DiffTuneError(f"--{name} is {quoted(value)}; it must be {wanted}.")
    for each in value if known.several else [value]:
        check_value(known, each)


def check_value(known: Flag, value: Any) -> None:
    name = known.name
    fits = isinstance(value, (int, float) if known.type is float else known.type)
    if not fits or (isinstance(value, bool) and known.type is not bool):
        raise DiffTuneError(f"--{name} is {quoted(value)}; it must be {TYPES[known.type]}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise DiffTuneError(f"--{name} is {value}; it must be a finite number.")
    if isinstance(value, int) and abs(value) >= 2**31 and name != "seed":
        raise DiffTuneError(f"--{name} is {quoted(value)}; it must be below 2**31.")
    if isinstance(value, str) and "\0" in value:
        raise DiffTuneError(f"--{name} has a null character in it.")
    if value == "" and name not in MAY_BE_EMPTY:
        raise DiffTuneError(f"--{name} is empty; give a value or leave it out.")
    choices = known.choices or ONE_OF.get(name)
    if choices is not None and value not in choices:
        raise DiffTuneError(f"--{name} is '{value}'; it must be one of {', '.join(choices)}.")
    if isinstance(value, (int, float)) and value not in known.limits:
        raise DiffTuneError(f"--{name} is {value}; it must be {known.limits}.")


def check_needs(config: TrainingConfig) -> None:
    """Stops on a flag that has no use without another one."""
    flags = flags_of(type(config))
    for name, (needed, what) in NEEDS.items():
        if name in flags and getattr(config, name) != flags[name].default and not getattr(config, needed):
            raise DiffTuneError(f"--{name} needs --{needed}, {what}.")


def check_source_rows(config: TrainingConfig) -> None:
    """Stops on what is at odds with the share of source rows."""
    if 0 < config.source_share < LEAST_SHARE:
        raise DiffTuneError(f"--source_share is {config.source_share}; it must be 0 or at least {LEAST_SHARE}.")
    if config.uses_bank:
        return
    if config.knowledge_bank is not None:
        why = "--objective standard" if config.objective == "standard" else "--source_share 0"
        raise DiffTuneError(f"--knowledge_bank has no use with {why}; leave one of them out.")
    if config.retention_target == "pretrained":
        raise DiffTuneError("--retention_target pretrained needs source rows; set --source_share above 0.")


def check_conflicts(config: TrainingConfig) -> None:
    """Stops on flags of models, data, folders and trackers that cannot be together."""
    model = config.pretrained_model_name_or_path
    if isinstance(config, TextToImageConfig) and config.non_ema_revision and Path(model).is_dir():
        raise DiffTuneError(
            f"--non_ema_revision is a revision on the Hub, and {model} is a folder; leave it out, or give the model id."
        )
    if config.streaming and config.max_train_steps is None:
        raise DiffTuneError("--streaming does not know how long an epoch is; give --max_train_steps.")
    if config.streaming and config.verify_cache:
        raise DiffTuneError("--verify_cache has no use with --streaming, which caches nothing; leave one of them out.")
    if config.overwrite_output_dir and config.resume_from_checkpoint is not None:
        raise DiffTuneError(
            "--overwrite_output_dir removes the run that is there, and --resume_from_checkpoint goes on with a run; leave one"
            " of them out."
        )
    if config.report_to in UPLOADS_COMMAND_LINE and config.hub_token is not None:
        raise DiffTuneError(
            f"--report_to {config.report_to} would upload --hub_token with the settings; log in with `hf auth login` and leave it out."
        )


def check_adapter(config: TrainingConfig) -> None:
    """Stops on flags that do not fit what trains."""
    for name, kinds in KINDS.items():
        if config.was_given(name) and config.adapter not in kinds:
            use = "needs --adapter" if config.adapter is None else f"has no use with --adapter {config.adapter}"
            raise DiffTuneError(f"--{name} {use}; it is a setting of {', '.join(kinds)}.")
    if config.adapter is None and config.train_parameters is None:
        return
    part = "--train_parameters" if config.adapter is None else f"--adapter {config.adapter}"
    if config.adapter is not None and config.train_parameters is not None:
        by_default = not config.was_given("adapter")
        other = ", which train_text_to_image_difftune.py does not have by default" if by_default else ""
        raise DiffTuneError(f"--train_parameters says what trains, and so does {part}{other}; leave one of them out.")
    if isinstance(config, EmaConfig) and config.use_ema:
        raise DiffTuneError(f"--use_ema averages a model of which all weights train; leave it out with {part}.")
    if isinstance(config, TextToImageConfig) and config.non_ema_revision:
        raise DiffTuneError(
            f"--non_ema_revision trains from other weights than the pipeline's own, on which what {part} trains is loaded"
            " again; give that revision as --revision instead."
        )


def check_controlnet(config: ControlNetConfig) -> None:
    """Stops on flags of ControlNet training that do not fit together."""
    prompts, images = config.validation_prompt or [], config.validation_image or []
    if bool(prompts) != bool(images):
        given, missing = ("prompt", "image") if prompts else ("image", "prompt")
        raise DiffTuneError(f"--validation_{given} is given without --validation_{missing}; give both or neither.")
    if len(prompts) != len(images) and 1 not in (len(prompts), len(images)):
        raise DiffTuneError(
            f"--validation_prompt has {len(prompts)} values and --validation_image {len(images)}; give as many of both,"
            " or a single one of either."
        )
    if config.retention_condition is not None and not config.uses_bank:
        raise DiffTuneError("--retention_condition needs source rows; set --source_share above 0.")
    if config.retention_condition == "extracted" and config.condition_kind is None:
        raise DiffTuneError(
            "--retention_condition extracted needs --condition_kind, which says what to extract; or use blank."
        )


def check_installed(config: TrainingConfig) -> None:
    """Stops on a flag that needs a package which is not installed."""
    wanted = {f"--{name}": package for name, package in PACKAGES.items() if config.flags().get(name)}
    if config.tracker not in (None, "all"):
        wanted[f"--report_to {config.tracker}"] = config.tracker
    for name, package in wanted.items():
        if importlib.util.find_spec(package) is None:
            with_it = "'diffusers-difftune[tensorboard]'" if package == "tensorboard" else package
            raise DiffTuneError(f"{name} needs the package {package}; install it with `pip install {with_it}`.")


def check_output_dir(output_dir: Path) -> None:
    """Stops if nothing can be written to a folder."""
    existing = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        what = "is a file" if existing.is_file() else "cannot be written to"
        which = "" if existing == output_dir else f": {existing}"
        raise DiffTuneError(f"--output_dir {output_dir}{which} {what}; choose a folder you can write to.")
