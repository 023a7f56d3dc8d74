# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What `accelerate launch` can be told about sharding and these scripts cannot do is refused in a sentence."""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from diffusers_difftune.config import TextToImageConfig, TextToImageLoraConfig
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.training import launch
from diffusers_difftune.training.launch import check_launch, check_processes


# What `accelerate launch --use_fsdp --fsdp_version 2` says, defaults included.
ASKED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_MIN_NUM_PARAMS": "100000000",
    "FSDP_FORWARD_PREFETCH": "false",
    "FSDP_USE_ORIG_PARAMS": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_SYNC_MODULE_STATES": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "false",
}


def asked(stage: int, **more: str) -> dict[str, str]:
    """What `accelerate launch --use_deepspeed --zero_stage` says."""
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)} | more


def as_file(**content: object) -> dict[str, str]:
    """What `accelerate launch` says of a DeepSpeed config in a file; it takes its text, too."""
    content = {"zero_optimization": {"stage": 2}} | content
    return asked(2, ACCELERATE_DEEPSPEED_CONFIG_FILE=json.dumps(content))


FSDP = [
    (ASKED | {"FSDP_VERSION": "1"}, {}, "asks for FSDP version 1, and these scripts shard with version 2 only"),
    ({"ACCELERATE_USE_FSDP": "true"}, {}, "use `accelerate launch --use_fsdp --fsdp_version 2`."),
    (ASKED | {"FSDP_OFFLOAD_PARAMS": "true"}, {}, "has --fsdp_offload_params, which these scripts do not"),
    (ASKED | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, "give --gradient_checkpointing to the script."),
    (ASKED | {"FSDP_IGNORED_MODULES": "conv_in"}, {}, "has fsdp_ignored_modules, whose gradients nobody sums"),
    (ASKED | {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, {}, "has --use_parallelism_config, which these"),
    (ASKED, {"train_parameters": ["conv_in.*"]}, "all weights train, and --train_parameters trains few of them"),
    (ASKED, {"adapter": "lora"}, "all weights train, and --adapter lora trains few of them; leave FSDP out"),
    (ASKED, {"use_ema": True, "offload_ema": True}, "--offload_ema does not go with FSDP"),
    (ASKED, {"use_8bit_adam": True}, "--use_8bit_adam does not go with FSDP, whose states cannot be sharded"),
    ({"ACCELERATE_USE_MEGATRON_LM": "true"}, {}, "to shard a model use `accelerate launch --use_fsdp"),
]
DEEPSPEED = [
    (asked(3), {}, "ZeRO stage 3; these scripts take 1 and 2, and spread the parameters, too, with FSDP2"),
    (asked(0), {}, "ZeRO stage 0; these scripts take 1 and 2"),
    (as_file(zero_optimization={}), {}, "ZeRO stage 0; these scripts take 1 and 2"),
    (
        asked(2),
        {"adapter": "lora"},
        "DeepSpeed shards a model of which all weights train, and --adapter lora trains few",
    ),
    (asked(2), {"train_parameters": ["conv_in.*"]}, "and --train_parameters trains few of them; leave DeepSpeed"),
    (asked(2), {"use_8bit_adam": True}, "--use_8bit_adam does not go with DeepSpeed, whose states cannot be"),
    (
        asked(2, ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE="cpu"),
        {},
        "has offload_optimizer in zero_optimization, which these scripts do not",
    ),
    (asked(2, ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE="cpu"), {}, "has offload_param in zero_optimization"),
    (as_file(optimizer={"type": "AdamW"}), {}, "The DeepSpeed config has optimizer, which these scripts do"),
    (as_file(scheduler={"type": "WarmupLR"}), {}, "The DeepSpeed config has scheduler, which these scripts"),
    (as_file(bf16={"enabled": True}), {}, "The DeepSpeed config has bf16, which these scripts do not take"),
    (as_file(train_batch_size=8), {}, "The DeepSpeed config has train_batch_size, which these scripts do"),
    (
        asked(2, ACCELERATE_GRADIENT_CLIPPING="0.5"),
        {},
        "has gradient_clipping 0.5, and --max_grad_norm is 1.0; leave the former out",
    ),
    (
        asked(2, ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4"),
        {"gradient_accumulation_steps": 2},
        "has gradient_accumulation_steps 4, and --gradient_accumulation_steps is 2; leave the former out",
    ),
    (
        as_file(zero_optimization={"stage": 2, "round_robin_gradients": True}),
        {},
        "has round_robin_gradients in zero_optimization, which these scripts do not support",
    ),
    (asked(2, ACCELERATE_DEEPSPEED_CONFIG_FILE="nowhere.json"), {}, "The DeepSpeed config cannot be read: "),
    (as_file(zero_optimization=[1]), {}, "The DeepSpeed config cannot be read: "),
    (asked(2, ACCELERATE_USE_PARALLELISM_CONFIG="true"), {}, "has --use_parallelism_config, which these scripts"),
]


def refusal(monkeypatch, variables: dict[str, str], **flags: object) -> str:
    """What is said about a script's flags in an environment."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = (TextToImageLoraConfig if flags.get("adapter") else TextToImageConfig)(**flags)
    with pytest.raises(DiffTuneError) as refused:
        check_launch(config)
    return str(refused.value)


@pytest.mark.parametrize(("variables", "flags", "sentence"), [*FSDP, *DEEPSPEED])
def test_what_cannot_be_had_is_refused(variables, flags, sentence, monkeypatch):
    assert sentence in refusal(monkeypatch, variables, **flags)


def test_what_can_be_had_is_not(monkeypatch):
    check_launch(TextToImageConfig(use_8bit_adam=True, train_parameters=["conv_in.*"]))  # nobody asked for anything
    for name, value in ASKED.items():
        monkeypatch.setenv(name, value)
    check_launch(TextToImageConfig(use_ema=True, gradient_checkpointing=True))


@pytest.mark.parametrize("version", [None, "0.15.4"])
def test_a_deepspeed_that_is_missing_or_old_is_told(version, monkeypatch):
    found = None if version is None else object()
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: found if name == "deepspeed" else find_spec(name))
    monkeypatch.setattr(launch.importlib.metadata, "version", lambda _: version)
    assert "needs the package deepspeed, 0.19.8 or newer; install it with" in refusal(monkeypatch, asked(2))


def test_an_old_torch_is_told(monkeypatch):
    monkeypatch.setattr(launch.importlib.metadata, "version", lambda _: "2.7.1+cu128")
    assert "asks for FSDP, which needs torch 2.8 or newer in these scripts; this is 2.7.1" in refusal(
        monkeypatch, ASKED
    )


@pytest.mark.parametrize("by", ["FSDP", "DeepSpeed"])
def test_processes_that_cannot_shard_are_refused(by, monkeypatch):
    for name, value in (ASKED if by == "FSDP" else asked(2)).items():
        monkeypatch.setenv(name, value)
    one = {"is_fsdp2": False, "num_processes": 1, "mixed_precision": "bf16", "device": torch.device("cuda")}
    with pytest.raises(DiffTuneError, match=rf"asks for {by}, and accelerate does not shard here: it found 1 process"):
        check_processes(SimpleNamespace(**one))
    with pytest.raises(DiffTuneError, match=f"--mixed_precision fp16 does not go with {by}, which has no loss scaler"):
        check_processes(SimpleNamespace(**one | {"mixed_precision": "fp16"}))
    check_processes(SimpleNamespace(**one | {"is_fsdp2": by == "FSDP", "num_processes": 2}))
