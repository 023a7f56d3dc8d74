# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Absurd values of every flag that is a number or a word, found in the config classes themselves: a value is taken, and
then works, or is told in one sentence that names the flag."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from diffusers import DDPMScheduler

from diffusers_difftune.config.parse import config_parser
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.objective import DiffTuningObjective
from tests.flag_lab import SCRIPTS
from tests.training.runs import check_flags


NEVER = ["nan", "inf", "-inf", "1e400", "", "1" * 5000]
NEVER_WHOLE = [str(10**30), str(-(10**30)), str(2**31)]  # of flags that count something
MAYBE = ["0", "-1", "-0.0", "0.5", "1e30", "-1e30", "1e-320", str(2**31 - 1)]
CONFIGS = [config for _, config in SCRIPTS.values()]
OF_THE_OBJECTIVE = set(inspect.signature(DiffTuningObjective).parameters)


def flags_of(config_class: type, *kinds: type) -> list[str]:
    """The flags of a script that take a value of these types."""
    hints = get_type_hints(config_class)
    return [
        field.name
        for field in dataclasses.fields(config_class)
        if hints[field.name] in kinds or set(get_args(hints[field.name])) & set(kinds)
    ]


class Checked:
    """A script's parser and checks; `Checked(flag=value)` is the config, or raises."""

    def __init__(self, config_class: type, folder: Path) -> None:
        self.config_class, self.parser = config_class, config_parser(config_class)
        self.always = {"pretrained_model_name_or_path": "model", "train_data_dir": "data", "output_dir": str(folder)}
        self.always["report_to"] = "none"

    def __call__(self, flag: str, value: str) -> Any:
        given = {**self.always, flag: value}
        values = vars(self.parser.parse_args([f"--{name}={each}" for name, each in given.items()]))
        del values["config"]
        config = self.config_class(**values)
        check_flags(config)
        return config


def works(config: Any) -> None:
    """What the flags of the objective make of a batch is numbers."""
    options = {name: getattr(config, name) for name in OF_THE_OBJECTIVE if hasattr(config, name)}
    objective = DiffTuningObjective(DDPMScheduler(), **options | {"variance_loss": None})
    latents, is_source = torch.zeros(4, 1, 2, 2), torch.tensor([True, False, False, False])
    noisy = objective.add_noise(latents, is_source, generator=torch.Generator().manual_seed(0))
    assert objective.weights.isfinite().all() and not noisy.timesteps.isnan().any()
    assert not objective.loss(noisy.target, noisy).total.isnan()


@pytest.mark.parametrize("config_class", CONFIGS, ids=lambda config: config.__name__)
def test_a_number_works_or_is_refused_in_one_sentence(config_class: type, tmp_path: Path) -> None:
    checked = Checked(config_class, tmp_path / "run")
    flags = flags_of(config_class, int, float)
    assert len(flags) > 25
    for flag in flags:
        for value in (*NEVER, *MAYBE):
            try:
                config = checked(flag, value)
            except DiffTuneError as error:
                sentence = str(error)
                assert f"--{flag}" in sentence and sentence.endswith(".") and len(sentence) < 6000, sentence
                continue
            assert value in MAYBE, f"--{flag} {value} was taken"
            if flag in OF_THE_OBJECTIVE:
                works(config)


@pytest.mark.parametrize("config_class", CONFIGS, ids=lambda config: config.__name__)
def test_an_empty_word_is_refused_unless_it_is_a_prompt(config_class: type, tmp_path: Path) -> None:
    checked = Checked(config_class, tmp_path / "run")
    for flag in flags_of(config_class, str, list[str]):
        for value in ("", "a\0b"):
            if value == "" and flag.startswith("validation_prompt"):
                continue
            with pytest.raises(DiffTuneError, match=f"--{flag}"):
                checked(flag, value)
