# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Flags that do nothing are told, whichever script has them."""

import dataclasses

import pytest

from diffusers_difftune.training.parse import parse_config
from diffusers_difftune.training.unused import RULES, unused_flags
from tests.flag_lab import CLASS, CONTROL, FULL, LORA, SCRIPTS


def said(script: str, flags: str) -> str | None:
    return unused_flags(parse_config(SCRIPTS[script][1], flags.split()))


@pytest.mark.parametrize(
    ("script", "flags", "told"),
    [
        (FULL, "", None),
        (
            FULL,
            "--objective standard --source_share 0.2 --bank_steps 25",
            "--source_share, --bank_steps with --objective st",
        ),
        (CLASS, "--source_share 0 --retention_weight 0.5", "--retention_weight with --source_share 0"),
        (CONTROL, "--source_share 0.5 --retention_weight 0.5 --bank_steps 9", None),
        (LORA, "--center_crop --crops_per_image 8", "--crops_per_image with --center_crop"),
        (CLASS, "--no_cache --crops_per_image 8", "--crops_per_image with --no_cache"),
        (FULL, "--streaming --crops_per_image 8", "--crops_per_image with --streaming"),
        (FULL, "--offload_ema", "--offload_ema without --use_ema"),
        (CLASS, "--offload_ema --use_ema", None),
        (FULL, "--dream_detail_preservation 1.0", "--dream_detail_preservation without --dream_training"),
        (
            CONTROL,
            "--lr_num_cycles 2 --lr_power 2 --lr_scheduler cosine",
            "cosine_with_restarts; --lr_power without --lr_sch",
        ),
        (CONTROL, "--lr_power 2 --lr_scheduler polynomial", None),
        (LORA, "--max_train_steps 5 --num_train_epochs 2", "--num_train_epochs with --max_train_steps"),
        (FULL, "--validation_steps 5 --validation_epochs 2", "--validation_epochs with --validation_steps"),
        (FULL, "--evaluation_samples 64", "--evaluation_samples without --evaluation_data"),
        (CONTROL, "--control_evaluation_samples 64", "--control_evaluation_samples without --control_evaluation_data"),
        (LORA, "--hub_model_id mine", "--hub_model_id without --push_to_hub"),
    ],
)
def test_flags_without_use_are_told(script: str, flags: str, told: str | None) -> None:
    found = said(script, flags)
    assert found is None if told is None else f"These flags have no use here: {told}" in found or told in found


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_rule_can_be_asked_of_every_script_that_has_its_flags(script: str) -> None:
    config = SCRIPTS[script][1]()
    names = {field.name for field in dataclasses.fields(config)}
    for flags, is_useless, _ in RULES:
        if names.intersection(flags):
            assert is_useless(config) in (True, False)
    assert unused_flags(config) is None, "nothing was given"


def test_flags_of_a_file_and_of_python_count_and_defaults_that_are_given(tmp_path) -> None:
    config = SCRIPTS[FULL][1]
    file = tmp_path / "flags.yaml"
    file.write_text("offload_ema: true\n")
    argv = ["--config", str(file), "--dream_detail_preservation", "1.0"]
    told = "--offload_ema without --use_ema; --dream_detail_preservation without --dream_training."
    assert unused_flags(parse_config(config, argv)) == f"These flags have no use here: {told}"
    assert unused_flags(config(offload_ema=True)) == "These flags have no use here: --offload_ema without --use_ema."
