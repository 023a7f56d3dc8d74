# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What can be found wrong with the flags alone, before a dataset or a model is touched."""

import dataclasses
import importlib.util
import math
import os
from pathlib import Path
from typing import Any

from accelerate.utils import LoggerType
from diffusers.optimization import SchedulerType

from .. import errors
from ..adapters.settings import PEFT_KINDS, WITH_ALPHA, WITH_DROPOUT
from ..bank.prompts import read_prompts
from ..bank.settings import BankSettings
from ..config.flags import was_given
from ..data.dataset import check_data_flags
from ..errors import DiffTuneError, quoted
from ..evaluation import FEWEST_IMAGES
from ..objective.objective import LEAST_SHARE
from .launch import check_launch


EXTRAS = ("tensorboard",)  # what this package can be installed with, by the same name
# Trackers that send the command line, too, or may.
UPLOADS_COMMAND_LINE = ("all", "wandb", "comet_ml", "clearml", "swanlab")
AT_LEAST_ONE = (
    "train_batch_size",
    "num_train_epochs",
    "max_train_steps",
    "gradient_accumulation_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "rank",
    "validation_epochs",
    "validation_steps",
    "control_evaluation_steps",
    "control_evaluation_samples",
    "control_evaluation_inference_steps",
    "evaluation_steps",
    "evaluation_inference_steps",
    "lr_num_cycles",
)
AT_LEAST_ZERO = (
    "num_validation_images",
    "lr_warmup_steps",
    "noise_offset",
    "input_perturbation",
    "learning_rate",
    "adam_weight_decay",
    "adam_epsilon",
    "retention_weight",
    "reconsolidation_power",
    "retention_power",
)
MAY_BE_EMPTY = ("validation_prompt", "validation_prompts")  # that is a prompt, too
# The kinds of adapters that a flag is for.
FLAGS_OF_KINDS = {
    "rank": PEFT_KINDS,
    "lora_alpha": WITH_ALPHA,
    "lora_dropout": WITH_DROPOUT,
    "lora_target_modules": PEFT_KINDS,
}


def check_flags(config: Any) -> None:
    """Stops on the first flag that cannot work.

    Args:
        config: The config of a script.

    Raises:
        DiffTuneError: A flag is missing, out of range, or conflicts with another one.
    """
    if not config.pretrained_model_name_or_path:
        raise DiffTuneError(
            "--pretrained_model_name_or_path is missing; give a pipeline folder or a model id on the Hub."
        )
    if config.dataset_name is None and config.train_data_dir is None:
        raise DiffTuneError("There is no data to train on; give --dataset_name or --train_data_dir.")
    check_values(config)
    check_data_flags(config)
    check_ranges(config)
    check_conflicts(config)
    check_adapter(config)
    check_installed(config)
    check_output_dir(Path(config.output_dir))


def check_values(config: Any) -> None:
    """What no flag can be: a number that is not finite or larger than anything is counted to, an empty word."""
    for entry in dataclasses.fields(config):
        given = getattr(config, entry.name)
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, float) and not math.isfinite(value):
                raise DiffTuneError(f"--{entry.name} is {value}; it must be a finite number.")
            if isinstance(value, int) and abs(value) >= 2**31 and entry.name != "seed":
                raise DiffTuneError(f"--{entry.name} is {quoted(value)}; it must be below 2**31.")
            if isinstance(value, str) and "\0" in value:
                raise DiffTuneError(f"--{entry.name} has a null character in it.")
            if value == "" and entry.name not in MAY_BE_EMPTY:
                raise DiffTuneError(f"--{entry.name} is empty; give a value or leave it out.")


def check_ranges(config: Any) -> None:
    for names, least in ((AT_LEAST_ONE, 1), (AT_LEAST_ZERO, 0)):
        for name in names:
            value = getattr(config, name, None)  # a script has some of these flags, not all
            if value is not None and value < least:
                raise DiffTuneError(f"--{name} is {value}; it must be at least {least}.")
    if config.seed is not None and not 0 <= config.seed < 2**32:
        raise DiffTuneError(f"--seed is {config.seed}; it must be at least 0 and below 2**32.")
    BankSettings.from_flags(config, 1 if config.bank_samples is None else config.bank_samples, resolution=1)
    if not 0 <= config.source_share < 1:
        raise DiffTuneError(f"--source_share is {config.source_share}; it must be at least 0 and below 1.")
    if 0 < config.source_share < LEAST_SHARE:
        raise DiffTuneError(f"--source_share is {config.source_share}; it must be 0 or at least {LEAST_SHARE}.")
    for name in ("class_dropout_prob", "proportion_empty_prompts"):  # the second is the first one of classes
        value = getattr(config, name, 0.0)
        if not 0 <= value <= 1:
            raise DiffTuneError(f"--{name} is {value}; it must be at least 0 and at most 1.")
    if config.snr_gamma is not None and config.snr_gamma <= 0:
        raise DiffTuneError(f"--snr_gamma is {config.snr_gamma}; it must be above 0 (5.0 is recommended).")
    if config.max_grad_norm <= 0:
        raise DiffTuneError(f"--max_grad_norm is {config.max_grad_norm}; it must be above 0.")
    for name in ("adam_beta1", "adam_beta2", "lora_dropout"):
        value = getattr(config, name, 0.0)
        if not 0 <= value < 1:
            raise DiffTuneError(f"--{name} is {value}; it must be at least 0 and below 1.")
    for name in ("dream_detail_preservation", "lora_alpha"):
        value = getattr(config, name, None)
        if value is not None and not value > 0:
            raise DiffTuneError(f"--{name} is {value}; it must be above 0.")
    schedules = [schedule.value for schedule in SchedulerType if schedule.value != "piecewise_constant"]
    if config.lr_scheduler not in schedules:
        raise DiffTuneError(f"--lr_scheduler is '{config.lr_scheduler}'; it must be one of {', '.join(schedules)}.")
    if getattr(config, "evaluation_samples", FEWEST_IMAGES) < FEWEST_IMAGES:
        raise DiffTuneError(
            f"--evaluation_samples is {config.evaluation_samples}; it must be at least {FEWEST_IMAGES}."
        )
    for name in ("evaluation_guidance_scale", "control_evaluation_guidance_scale"):
        value = getattr(config, name, 1.0)
        if value < 1:
            raise DiffTuneError(f"--{name} is {value}; it must be at least 1.0 and finite.")
    if config.prediction_type not in (None, "epsilon", "v_prediction", "sample"):
        raise DiffTuneError(
            f"--prediction_type is '{config.prediction_type}'; it must be epsilon, v_prediction or sample."
        )


def check_conflicts(config: Any) -> None:
    if config.knowledge_bank is not None and not uses_bank(config):
        why = "--objective standard" if config.objective == "standard" else "--source_share 0"
        raise DiffTuneError(f"--knowledge_bank has no use with {why}; leave one of them out.")
    if config.retention_target == "pretrained" and not uses_bank(config):
        raise DiffTuneError("--retention_target pretrained needs source rows; set --source_share above 0.")
    if config.streaming and config.max_train_steps is None:
        raise DiffTuneError("--streaming does not know how long an epoch is; give --max_train_steps.")
    if config.streaming and config.verify_cache:
        raise DiffTuneError("--verify_cache has no use with --streaming, which caches nothing; leave one of them out.")
    if getattr(config, "non_ema_revision", None) and Path(config.pretrained_model_name_or_path).is_dir():
        raise DiffTuneError(
            f"--non_ema_revision is a revision on the Hub, and {config.pretrained_model_name_or_path} is a folder; leave"
            " it out, or give the model id."
        )
    for name in ("evaluation", "control_evaluation"):
        if getattr(config, f"{name}_steps", None) is not None and getattr(config, f"{name}_data") is None:
            raise DiffTuneError(f"--{name}_steps needs --{name}_data, the rows to measure on.")
    if getattr(config, "evaluation_clip_model", None) is not None and config.evaluation_data is None:
        raise DiffTuneError("--evaluation_clip_model needs --evaluation_data, the rows to measure on.")
    if config.overwrite_output_dir and config.resume_from_checkpoint is not None:
        raise DiffTuneError(
            "--overwrite_output_dir removes the run that is there, and --resume_from_checkpoint goes on with a run; leave one"
            " of them out."
        )
    if config.hub_strategy != "end" and not config.push_to_hub:
        raise DiffTuneError(f"--hub_strategy {config.hub_strategy} says when to upload, and needs --push_to_hub.")
    if config.report_to in UPLOADS_COMMAND_LINE and config.hub_token is not None:
        raise DiffTuneError(
            f"--report_to {config.report_to} would upload --hub_token with the settings; log in with `hf auth login` and leave it out."
        )
    check_average(config)
    check_launch(config)
    own = "classes" if hasattr(config, "label_column") else "captions"
    if config.bank_prompts != own:
        with errors.flag("--bank_prompts"):
            read_prompts(config.bank_prompts, own)


def check_average(config: Any) -> None:
    decay, warmup = getattr(config, "ema_decay", None), getattr(config, "ema_warmup", "ramp")
    for name, given in (("ema_decay", decay is not None), ("ema_warmup", warmup != "ramp")):
        if given and not config.use_ema:
            raise DiffTuneError(
                f"--{name} is {getattr(config, name)} and needs --use_ema, the moving average it is of."
            )
    if decay is not None and not 0 <= decay < 1:
        raise DiffTuneError(f"--ema_decay is {decay}; it must be at least 0 and below 1.")


def check_adapter(config: Any) -> None:
    given = {field.name for field in dataclasses.fields(config) if was_given(config, field.name)}
    for name, kinds in FLAGS_OF_KINDS.items():
        if name in given and config.adapter not in kinds:
            use = "needs --adapter" if config.adapter is None else f"has no use with --adapter {config.adapter}"
            raise DiffTuneError(f"--{name} {use}; it is a setting of {', '.join(kinds)}.")
    if config.adapter is None and config.train_parameters is None:
        return
    part = "--train_parameters" if config.adapter is None else f"--adapter {config.adapter}"
    if config.adapter is not None and config.train_parameters is not None:
        other = "" if "adapter" in given else ", which train_text_to_image_difftune.py does not have by default"
        raise DiffTuneError(f"--train_parameters says what trains, and so does {part}{other}; leave one of them out.")
    if getattr(config, "use_ema", False):
        raise DiffTuneError(f"--use_ema averages a model of which all weights train; leave it out with {part}.")
    if getattr(config, "non_ema_revision", None):
        raise DiffTuneError(
            f"--non_ema_revision trains from other weights than the pipeline's own, on which what {part} trains is loaded"
            " again; give that revision as --revision instead."
        )


def check_installed(config: Any) -> None:
    wanted = []
    if config.use_8bit_adam:
        wanted.append(("--use_8bit_adam", "bitsandbytes"))
    if config.enable_xformers_memory_efficient_attention:
        wanted.append(("--enable_xformers_memory_efficient_attention", "xformers"))
    if getattr(config, "evaluation_data", None) is not None:
        wanted.append(("--evaluation_data", "torchmetrics"))
    if config.report_to not in ("all", "none"):
        trackers = [name for name in LoggerType.list() if name != "all"]
        if config.report_to not in trackers:
            choices = ", ".join(["all", "none", *trackers])
            raise DiffTuneError(f"--report_to is '{config.report_to}'; it must be one of {choices}.")
        if tracker_of(config) is not None:
            wanted.append((f"--report_to {config.report_to}", config.report_to))
    for name, package in wanted:
        if importlib.util.find_spec(package) is None:
            with_it = f"'diffusers-difftune[{package}]'" if package in EXTRAS else package
            raise DiffTuneError(f"{name} needs the package {package}; install it with `pip install {with_it}`.")


def tracker_of(config: Any) -> str | None:
    """The tracker that a run reports to; `None` for none, also where `--report_to` was not given and its default is not
    installed: as upstream, such a run goes on without it.

    Args:
        config: The config of a script.
    """
    is_missing = config.report_to == "tensorboard" and importlib.util.find_spec("tensorboard") is None
    return (
        None if config.report_to == "none" or (is_missing and not was_given(config, "report_to")) else config.report_to
    )


def check_output_dir(output_dir: Path) -> None:
    existing = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        what = "is a file" if existing.is_file() else "cannot be written to"
        which = "" if existing == output_dir else f": {existing}"
        raise DiffTuneError(f"--output_dir {output_dir}{which} {what}; choose a folder you can write to.")


def uses_bank(config: Any) -> bool:
    """Whether a run trains on source rows."""
    return config.objective == "difftune" and config.source_share > 0
