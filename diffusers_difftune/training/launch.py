# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What `accelerate launch` was told about sharding, by its flags or its config file, and whether these scripts can do it.

It hands everything on in the environment.
"""

import importlib.metadata
import importlib.util
import os
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, compare_versions

from ..config.shared import EmaConfig, TrainingConfig
from ..errors import DiffTuneError, first_sentence


TRIED_DEEPSPEED = "0.19.8"  # it leaves steps out whose gradient is not finite, also in float32
LEAST_TORCH = "2.8"  # of which FSDP2 needs a method here, see `stay_gathered`
# What else `accelerate launch` can be told: by the name in the environment, the flag, and what to do instead.
UNSUITABLE = {
    "FSDP_OFFLOAD_PARAMS": ("--fsdp_offload_params", "leave it out"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "--fsdp_activation_checkpointing",
        "give --gradient_checkpointing to the script",
    ),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("--use_parallelism_config", "leave it out"),
}
# What a DeepSpeed config may say, and which flag of the scripts has the same to say.
SAID_BY_FLAGS = {
    "gradient_clipping": "max_grad_norm",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "train_micro_batch_size_per_gpu": "train_batch_size",
}
# How ZeRO goes about it; no figure depends on these.
ZERO_SETTINGS = (
    "allgather_partitions",
    "allgather_bucket_size",
    "contiguous_gradients",
    "overlap_comm",
    "reduce_bucket_size",
    "reduce_scatter",
)
WITHOUT_EFFECT = ("steps_per_print", "wall_clock_breakdown", "zero_allow_untested_optimizer")


def says(name: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")


def sharded_by() -> str | None:
    """What is to shard the model, or its optimiser: `"FSDP"`, `"DeepSpeed"` or nothing."""
    if says("ACCELERATE_USE_FSDP"):
        return "FSDP"
    return "DeepSpeed" if says("ACCELERATE_USE_DEEPSPEED") else None


def check_launch(config: TrainingConfig) -> None:
    """Raises a [`DiffTuneError`] for the first flag, of the script or of `accelerate launch`, that cannot work with
    sharding, and where something else than FSDP2 or DeepSpeed is to shard."""
    if says("ACCELERATE_USE_MEGATRON_LM"):
        raise DiffTuneError(
            "The accelerate config asks for Megatron-LM, which these scripts do not support; to shard a model use"
            " `accelerate launch --use_fsdp --fsdp_version 2`."
        )
    by = sharded_by()
    if by is None:
        return
    for name, (flag, instead) in UNSUITABLE.items():
        if says(name):
            raise DiffTuneError(f"The accelerate config has {flag}, which these scripts do not support; {instead}.")
    if config.adapter or config.train_parameters:
        part = f"--adapter {config.adapter}" if config.adapter else "--train_parameters"
        raise DiffTuneError(
            f"{by} shards a model of which all weights train, and {part} trains few of them; leave {by} out: plain"
            " multi-GPU training keeps little beside the model itself."
        )
    if config.use_8bit_adam:
        raise DiffTuneError(
            f"--use_8bit_adam does not go with {by}, whose states cannot be sharded; leave one of them out."
        )
    if by == "DeepSpeed":
        check_deepspeed(config)
        return
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise DiffTuneError(
            f"The accelerate config asks for FSDP version {version}, and these scripts shard with version 2 only; use"
            " `accelerate launch --use_fsdp --fsdp_version 2`."
        )
    if compare_versions("torch", "<", LEAST_TORCH):
        raise DiffTuneError(
            f"The accelerate config asks for FSDP, which needs torch {LEAST_TORCH} or newer in these scripts; this is"
            f" {importlib.metadata.version('torch')}."
        )
    if os.environ.get("FSDP_IGNORED_MODULES"):
        raise DiffTuneError(
            "The accelerate config has fsdp_ignored_modules, whose gradients nobody sums over the processes; leave it out."
        )
    if isinstance(config, EmaConfig) and config.offload_ema:
        raise DiffTuneError(
            "--offload_ema does not go with FSDP, and the moving average is sharded already; leave one of them out."
        )


def check_deepspeed(config: TrainingConfig) -> None:
    """Stops on the first thing in a DeepSpeed config, or among the flags of `accelerate launch`, that cannot be had."""
    given = deepspeed_config()
    for name, value in given.items():
        is_off = isinstance(value, dict) and value.get("enabled") in (False, "auto")  # as in "bf16", "fp16" and others
        if name == "zero_optimization" or name in WITHOUT_EFFECT or value == "auto" or is_off:
            continue
        flag = SAID_BY_FLAGS.get(name)
        if flag is None:
            raise DiffTuneError(
                f"The DeepSpeed config has {name}, which these scripts do not take from it; leave it out, their flags say"
                " what there is to be said."
            )
        # 1 is what accelerate fills in where nobody says anything.
        if value != getattr(config, flag) and not (name == "gradient_accumulation_steps" and value == 1):
            raise DiffTuneError(
                f"The DeepSpeed config has {name} {value}, and --{flag} is {getattr(config, flag)}; leave the former out."
            )
    zero = given["zero_optimization"]
    stage = zero.get("stage", 0)
    if stage not in (1, 2):
        raise DiffTuneError(
            f"The accelerate config asks for ZeRO stage {stage}; these scripts take 1 and 2, and spread the parameters, too,"
            " with FSDP2: `accelerate launch --use_fsdp --fsdp_version 2`."
        )
    for name, value in zero.items():
        # An "offload_param" is a dictionary.
        is_off = value.get("device", "none") == "none" if isinstance(value, dict) else not value
        if name not in ("stage", *ZERO_SETTINGS) and not name.startswith("stage3_") and not is_off:
            raise DiffTuneError(
                f"The DeepSpeed config has {name} in zero_optimization, which these scripts do not support; leave it out."
            )
    if importlib.util.find_spec("deepspeed") is None or compare_versions("deepspeed", "<", TRIED_DEEPSPEED):
        raise DiffTuneError(
            f"The accelerate config asks for DeepSpeed, which needs the package deepspeed, {TRIED_DEEPSPEED} or newer;"
            f" install it with `pip install 'deepspeed>={TRIED_DEEPSPEED}'`."
        )


def deepspeed_config() -> dict[str, Any]:
    """What `accelerate launch` was told about DeepSpeed, by flags or in a file, as a DeepSpeed config."""
    try:
        given = DeepSpeedPlugin().deepspeed_config
        if not isinstance(given["zero_optimization"], dict):
            raise ValueError("zero_optimization is not an object")
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise DiffTuneError(f"The DeepSpeed config cannot be read: {first_sentence(error)}.") from error
    return given


def zero_settings() -> dict[str, Any]:
    """What of a DeepSpeed config is taken."""
    zero = deepspeed_config()["zero_optimization"]
    return {name: zero[name] for name in ("stage", *ZERO_SETTINGS) if zero.get(name, "auto") != "auto"}


def check_processes(accelerator: Accelerator) -> None:
    """Makes sure that the processes are what was asked for; accelerate goes on without a word where it cannot do that.

    Raises:
        DiffTuneError: The model is not sharded, or would be in a precision that sharded runs do not have; the precision
            does not exist on a processor; or processes that a launcher started together do not know of each other, so that
            each would train the whole run and write it into the same folder.
    """
    by, precision, device = sharded_by(), accelerator.mixed_precision, accelerator.device.type
    if by is not None and precision not in ("no", "bf16"):
        raise DiffTuneError(
            f"--mixed_precision {precision} does not go with {by}, which has no loss scaler here; use bf16 or no."
        )
    if by is not None and not (accelerator.is_fsdp2 if by == "FSDP" else accelerator.num_processes > 1):
        raise DiffTuneError(
            f"The accelerate config asks for {by}, and accelerate does not shard here: it found {accelerator.num_processes}"
            f" process(es) on {device}; start one process per GPU with `accelerate launch`, or leave {by} out."
        )
    if precision == "fp16" and device == "cpu":  # accelerate neither casts nor scales the loss
        raise DiffTuneError(
            "--mixed_precision is fp16 (the flag's, or that of `accelerate config`), which trains on a GPU only, and this run"
            " is on the processor; use bf16 or no."
        )
    started = os.environ.get("WORLD_SIZE", "1")
    if "LOCAL_RANK" in os.environ and started.isdecimal() and int(started) > accelerator.num_processes:
        raise DiffTuneError(
            f"WORLD_SIZE is {started}, and each of these processes would train by itself, because accelerate finds no GPU and"
            " does not join processes on processors unasked; set ACCELERATE_USE_CPU=true to train on processors."
        )
