# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What is said of flags that have no effect."""

import pytest

from diffusers_difftune.config import (
    ClassConditionalConfig,
    ControlNetConfig,
    TextToImageConfig,
    TextToImageLoraConfig,
)
from diffusers_difftune.config.idle_flags import RULES, idle_flags
from diffusers_difftune.config.parse import parse_config


FLAGS = [
    (
        TextToImageConfig,
        "--lr_warmup_steps 4",
        "--lr_warmup_steps 4 has no effect: the constant schedule does not warm up",
    ),
    (TextToImageConfig, "--lr_warmup_steps 4 --lr_scheduler linear", None),
    (
        ControlNetConfig,
        "--lr_num_cycles 3 --lr_scheduler cosine",
        "--lr_num_cycles 3 has no effect: it is for --lr_scheduler cosine_w",
    ),
    (
        ControlNetConfig,
        "--lr_power 2",
        "--lr_power 2.0 has no effect: it is for --lr_scheduler polynomial, and that is constant",
    ),
    (ControlNetConfig, "--lr_power 2 --lr_scheduler polynomial", None),
    (
        TextToImageLoraConfig,
        "--num_train_epochs 3 --max_train_steps 9",
        "--num_train_epochs 3 has no effect: --max_train_steps 9 says",
    ),
    (
        TextToImageConfig,
        "--validation_epochs 2",
        "--validation_epochs 2 has no effect: there is nothing to make validation images of",
    ),
    (
        ControlNetConfig,
        "--num_validation_images 2",
        "--num_validation_images 2 has no effect: there is nothing to make",
    ),
    (ClassConditionalConfig, "--validation_classes a --validation_epochs 2", None),
    (
        TextToImageConfig,
        "--validation_prompts a --validation_epochs 2 --validation_steps 3",
        "--validation_epochs 2 has no effect: --valid",
    ),
    (
        TextToImageConfig,
        "--validation_prompts a --validation_epochs 2 --streaming",
        "--validation_epochs 2 has no effect: --streaming does",
    ),
    (
        TextToImageConfig,
        "--evaluation_samples 9 --evaluation_guidance_scale 2",
        "--evaluation_samples 9, --evaluation_guidance_scale 2.0 h",
    ),
    (
        ControlNetConfig,
        "--control_evaluation_samples 9",
        "--control_evaluation_samples 9 has no effect: nothing is measured",
    ),
    (
        TextToImageConfig,
        "--objective standard --source_share 0.5",
        "--source_share 0.5 has no effect: it belongs to --objective difft",
    ),
    (
        ClassConditionalConfig,
        "--source_share 0 --retention_weight 1",
        "--retention_weight 1.0 has no effect: the run has no source rows",
    ),
    (
        TextToImageConfig,
        "--objective standard --bank_steps 25",
        "--bank_steps 25 has no effect: the run has no source rows",
    ),
    (ControlNetConfig, "--source_share 0.5 --retention_weight 0.5 --bank_steps 9", None),
    (TextToImageConfig, "--offload_ema", "--offload_ema has no effect: there is no moving average"),
    (ClassConditionalConfig, "--offload_ema --use_ema", None),
    (
        TextToImageConfig,
        "--dream_detail_preservation 1.0",
        "--dream_detail_preservation 1.0 has no effect: it is a setting of --dream",
    ),
    (TextToImageLoraConfig, "--crops_per_image 2 --center_crop", "--crops_per_image 2 has no effect"),
    (ClassConditionalConfig, "--crops_per_image 2 --no_cache", "--crops_per_image 2 has no effect"),
    (TextToImageConfig, "--crops_per_image 2 --streaming", "--crops_per_image 2 has no effect"),
    (TextToImageLoraConfig, "--hub_model_id me/it", "--hub_model_id me/it has no effect: nothing is uploaded"),
    (TextToImageConfig, "--report_to none --logging_dir here", "--logging_dir here has no effect"),
]
CONFIGS = (TextToImageConfig, TextToImageLoraConfig, ControlNetConfig, ClassConditionalConfig)


@pytest.mark.parametrize(("config_class", "argv", "told"), FLAGS)
def test_flags_without_effect_are_told(config_class, argv, told):
    found = idle_flags(parse_config(config_class, argv.split()))
    if told is None:
        assert found == []
    else:
        (sentence,) = found
        assert sentence.startswith(told) and sentence.endswith(".")


@pytest.mark.parametrize("config_class", CONFIGS)
def test_every_rule_can_be_asked_of_every_task_that_has_its_flags(config_class):
    config = config_class()
    for rule in RULES:
        if config.flags().keys() & set(rule.flags):
            assert rule.when(config) in (True, False)
    assert idle_flags(config) == [], "nothing was given"
    assert idle_flags(parse_config(config_class, ["--objective", "standard"])) == []


def test_a_default_that_was_given_counts_as_given(tmp_path):
    assert len(idle_flags(parse_config(TextToImageConfig, ["--lr_warmup_steps", "500"]))) == 1
    file = tmp_path / "run.yaml"
    file.write_text("lr_warmup_steps: 500\n")
    assert len(idle_flags(parse_config(TextToImageConfig, ["--config", str(file)]))) == 1
    assert len(idle_flags(TextToImageConfig(offload_ema=True))) == 1, "given in Python"
