# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Configs by themselves: made in Python, checked without heavy libraries, and parsed as transformers' parser would."""

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
from accelerate.utils import LoggerType
from diffusers.optimization import SchedulerType
from transformers import HfArgumentParser

from diffusers_difftune import adapters, controls, evaluation
from diffusers_difftune.bank.solver import SOLVERS
from diffusers_difftune.config import (
    ClassConditionalConfig,
    ControlNetConfig,
    DataConfig,
    TextToImageConfig,
    TextToImageLoraConfig,
    checks,
    parse,
    shared,
)
from diffusers_difftune.config.base import flags_of
from diffusers_difftune.config.checks import check_flags
from diffusers_difftune.config.idle_flags import RULES, idle_flags
from diffusers_difftune.config.parse import config_parser, parse_config
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.objective import objective


CONFIGS = (TextToImageConfig, TextToImageLoraConfig, ControlNetConfig, ClassConditionalConfig)
ANY_FLAG = {name for config_class in CONFIGS for name in flags_of(config_class)}


def complete(config_class: type, folder: Path, **flags: Any) -> Any:
    """A config with what none can do without."""
    places = {"pretrained_model_name_or_path": "model", "train_data_dir": "data", "output_dir": folder / "run"}
    return config_class(**{**places, "report_to": "none", **flags})


def parser_of_transformers(config_class: type) -> HfArgumentParser:
    """What transformers makes of the same flags."""
    hints = get_type_hints(config_class)
    fields = []
    for name, flag in flags_of(config_class).items():
        options = {"help": flag.help} | ({"choices": flag.choices} if flag.choices else {})
        annotation = hints[name]
        if flag.choices:  # its Literal has other types for each choice, and the same words
            annotation = str | None if flag.optional else str
        fields.append((name, annotation, dataclasses.field(default=flag.default, metadata=options)))
    return HfArgumentParser(dataclasses.make_dataclass("Flags", fields), allow_abbrev=False)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_the_parser_takes_what_transformers_parser_takes(config_class: type) -> None:
    ours, theirs = config_parser(config_class), parser_of_transformers(config_class)
    known = {action.dest: action for action in theirs._actions}
    assert set(known) | {"config"} == {action.dest for action in ours._actions}
    for action in ours._actions:
        if action.dest in ("config", "help"):
            continue
        other = known[action.dest]
        for name in ("option_strings", "nargs", "const", "default", "choices", "required", "help", "metavar"):
            assert getattr(action, name) == getattr(other, name), f"--{action.dest}: {name}"
        if flags_of(config_class)[action.dest].type is not bool:
            assert action.type is other.type


@pytest.mark.parametrize("word", ["yes", "TRUE", "t", "y", "1", "no", "False", "f", "N", "0", "2", "maybe", ""])
def test_true_and_false_are_the_words_that_transformers_takes(word: str) -> None:
    theirs = parser_of_transformers(TextToImageConfig)
    try:
        expected = theirs.parse_args([f"--use_ema={word}"]).use_ema
    except SystemExit:
        with pytest.raises(DiffTuneError, match="--use-ema: it is '.*', and must be true or false"):
            parse_config(TextToImageConfig, [f"--use_ema={word}"])
    else:
        assert parse_config(TextToImageConfig, [f"--use_ema={word}"]).use_ema is expected
    assert parse_config(TextToImageConfig, ["--use-ema"]).use_ema is True


# Made in Python


def test_keyword_arguments_are_given_as_flags_are() -> None:
    argv = ["--lr_warmup_steps", "500", "--adapter", "lora", "--validation_prompts", "a", "b"]
    typed = parse_config(TextToImageConfig, argv)
    made = TextToImageConfig(lr_warmup_steps=500, adapter="lora", validation_prompts=["a", "b"], seed=None)
    assert made == typed and made.given == typed.given == {"lr_warmup_steps", "adapter", "validation_prompts"}
    assert idle_flags(made) == idle_flags(typed) != []
    assert made.was_given("adapter") and not made.was_given("rank") and not made.was_given("validation_image")
    made.rank = 8
    assert made.was_given("rank"), "set afterwards"
    assert copy.copy(made).given == copy.deepcopy(made).given == typed.given
    with pytest.raises(TypeError, match="no_such_flag"):
        TextToImageConfig(no_such_flag=1)


def test_a_config_with_one_flag_replaced_asks_for_no_other_one(tmp_path: Path) -> None:
    config = dataclasses.replace(complete(TextToImageConfig, tmp_path, seed=3), seed=4)
    assert config.seed == 4 and config.was_given("seed")
    assert not config.was_given("lora_dropout") and idle_flags(config) == []
    check_flags(config)  # --lora_dropout 0.0, given, would need an adapter


def test_paths_are_words_and_nothing_is_the_default(tmp_path: Path) -> None:
    config = DataConfig(train_data_dir=tmp_path, image_column=None, resolution=None)
    assert config.train_data_dir == str(tmp_path)
    assert (config.image_column, config.resolution) == ("image", None)


@pytest.mark.parametrize(
    ("config_class", "flags", "said"),
    [
        (TextToImageConfig, {"objective": "other"}, "--objective is 'other'; it must be one of difftune, standard."),
        (TextToImageConfig, {"resolution": "512"}, "--resolution is '512'; it must be a whole number."),
        (TextToImageConfig, {"resolution": 512.0}, "--resolution is 512.0; it must be a whole number."),
        (TextToImageConfig, {"seed": True}, "--seed is True; it must be a whole number."),
        (TextToImageConfig, {"learning_rate": "1e-4"}, "--learning_rate is '1e-4'; it must be a number."),
        (TextToImageConfig, {"use_ema": 1}, "--use_ema is 1; it must be True or False."),
        (TextToImageConfig, {"validation_prompts": "a cat"}, "--validation_prompts is 'a cat'; it must be a list of"),
        (TextToImageConfig, {"validation_prompts": [1]}, "--validation_prompts is 1; it must be a string."),
        (TextToImageConfig, {"report_to": ["wandb"]}, "--report_to is ['wandb']; it must be one value."),
        (TextToImageConfig, {"ema_decay": 0.9}, "--ema_decay needs --use_ema, the moving average it is of."),
        (ControlNetConfig, {"condition_model": "m"}, "--condition_model needs --condition_kind, which says what"),
        (ControlNetConfig, {"validation_image": ["a"]}, "--validation_image is given without --validation_prompt;"),
        (ControlNetConfig, {"lr_num_cycles": 0}, "--lr_num_cycles is 0; it must be at least 1."),
        (ClassConditionalConfig, {"class_dropout_prob": 2}, "--class_dropout_prob is 2; it must be at least 0 and at"),
        (TextToImageLoraConfig, {"lora_alpha": 0}, "--lora_alpha is 0; it must be above 0."),
        (TextToImageLoraConfig, {"adapter": "bitfit", "rank": 4}, "--rank has no use with --adapter bitfit"),
    ],
)
def test_what_no_command_line_could_say_is_refused(config_class: type, flags: dict, said: str, tmp_path: Path) -> None:
    if "rank" in flags:  # the default, given
        config = complete(config_class, tmp_path, **flags)
    else:
        config = complete(config_class, tmp_path)
        check_flags(config)
        for name, value in flags.items():
            setattr(config, name, value)
    with pytest.raises(DiffTuneError) as caught:
        check_flags(config)
    assert str(caught.value).startswith(said)


def test_whole_numbers_and_tuples_will_do(tmp_path: Path) -> None:
    check_flags(complete(TextToImageConfig, tmp_path, learning_rate=0, validation_prompts=("a", "b")))


def test_what_a_task_does_not_choose_is_fixed(tmp_path: Path) -> None:
    control, classes = ControlNetConfig(), ClassConditionalConfig()
    assert (control.center_crop, control.image_interpolation_mode, control.label_column) == (True, "bilinear", None)
    assert (classes.caption_column, classes.label_column, classes.streaming) == (None, "label", False)
    for config_class, name in ((ControlNetConfig, "center_crop"), (ClassConditionalConfig, "streaming")):
        assert name not in flags_of(config_class) and name not in config_class().flags()
        with pytest.raises(TypeError, match=name):
            config_class(**{name: True})
    assert ClassConditionalConfig(class_dropout_prob=0.3).unconditional_share == 0.3
    assert TextToImageConfig(proportion_empty_prompts=0.3).unconditional_share == 0.3


@pytest.mark.parametrize(
    ("config", "images"),
    [
        (TextToImageConfig(), None),
        (TextToImageConfig(validation_prompts=["a", "b"]), 2),
        (TextToImageLoraConfig(validation_prompt="a"), 4),
        (ControlNetConfig(validation_prompt=["a"], validation_image=["b", "c"]), 8),
        (ControlNetConfig(), None),
        (ClassConditionalConfig(validation_classes=["a"]), 1),
    ],
)
def test_validation_images_are_counted(config: Any, images: int | None) -> None:
    assert config.validation_images == images


# Tables


def test_every_flag_that_a_table_names_is_there() -> None:
    named = {*checks.ONE_OF, *checks.NEEDS, *checks.KINDS, *checks.PACKAGES, *checks.MAY_BE_EMPTY, *shared.BANK_FLAGS}
    named |= {needed for needed, _ in checks.NEEDS.values()} | {name for rule in RULES for name in rule.flags}
    named |= {name for (decided, *_), others in parse.DECISIONS.items() for name in (decided, *others)}
    assert named <= ANY_FLAG
    for config_class in CONFIGS:
        flags = flags_of(config_class)
        for name, (needed, _) in checks.NEEDS.items():
            assert name not in flags or needed in flags, "a flag that needs another one has no task without that"


def test_what_is_written_down_here_to_load_no_library_is_what_the_libraries_have() -> None:
    schedules = {schedule.value for schedule in SchedulerType} - {"piecewise_constant"}
    assert set(checks.ONE_OF["lr_scheduler"]) == schedules
    assert set(checks.ONE_OF["report_to"]) == {*LoggerType.list(), "none"}
    kinds = adapters.settings
    assert checks.KINDS == {
        "rank": kinds.PEFT_KINDS,
        "lora_alpha": kinds.WITH_ALPHA,
        "lora_dropout": kinds.WITH_DROPOUT,
        "lora_target_modules": kinds.PEFT_KINDS,
    }
    assert get_args(shared.AdapterKind) == kinds.KINDS
    assert checks.LEAST_SHARE == objective.LEAST_SHARE
    assert flags_of(TextToImageConfig)["evaluation_samples"].limits.least == evaluation.FEWEST_IMAGES
    assert flags_of(TextToImageConfig)["bank_solver"].choices == list(SOLVERS)
    assert flags_of(ControlNetConfig)["condition_kind"].choices == list(controls.KINDS)
    assert SimpleNamespace(**flags_of(ControlNetConfig)).lr_power.limits.above == 0
