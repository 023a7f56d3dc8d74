# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""From a command line and a YAML file to a config."""

import argparse
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..errors import DiffTuneError
from .base import Config, flags_of
from .parser import Parser
from .recipes import flags_file
from .shared import BANK_FLAGS


AnyConfig = TypeVar("AnyConfig", bound=Config)
NOT_GIVEN: Any = object()
# Flags that decide one thing in several ways. What is decided on the command line (by a flag, or by one of the values beside
# it) takes the place of what the flags after it say in a file.
ADAPTER_FLAGS = ("adapter", "rank", "lora_alpha", "lora_dropout", "lora_target_modules")
DECISIONS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("train_data_dir",): ("dataset_name", "dataset_config_name"),
    ("dataset_name",): ("train_data_dir", "dataset_config_name"),
    ("train_parameters",): ADAPTER_FLAGS,
    ("adapter",): ("train_parameters",),
    ("knowledge_bank",): tuple(BANK_FLAGS),
    ("objective", "standard"): ("knowledge_bank", "retention_target"),
    ("num_train_epochs",): ("max_train_steps",),
    ("validation_epochs",): ("validation_steps",),
}


def parse_config(
    config_class: type[AnyConfig], argv: list[str] | None = None, description: str | None = None
) -> AnyConfig:
    """Reads the flags of a script.

    Args:
        config_class (`type`): A dataclass that inherits the groups of flags it takes.
        argv (`list[str]`, *optional*): The arguments; `None` takes those of the process.
        description (`str`, *optional*): Shown by `--help`.

    Returns:
        An instance of `config_class`.

    Raises:
        DiffTuneError: A flag or a key of the YAML file is unknown, or its value has the wrong type.
    """
    parser = Parser(config_class, description)
    parser.set_defaults(**dict.fromkeys(flags_of(config_class), NOT_GIVEN))
    typed = vars(parser.parse_args(argv))
    yaml_file = typed.pop("config")
    typed = {name: value for name, value in typed.items() if value is not NOT_GIVEN}
    written = {} if yaml_file is None else read_yaml(flags_file(yaml_file), parser)
    notes = replace_choices(typed, written, yaml_file)
    config = config_class(**written | typed)
    config.notes = tuple(notes)
    return config


def replace_choices(typed: dict[str, Any], written: dict[str, Any], yaml_file: str | None) -> list[str]:
    """Takes what the command line has decided otherwise out of the flags of a YAML file.

    Args:
        typed (`dict[str, Any]`): The flags on the command line.
        written (`dict[str, Any]`): The flags in the file; changed in place.
        yaml_file (`str`, *optional*): The file.

    Returns:
        `list[str]`: A sentence for each decision that was replaced.
    """
    notes = []
    for (name, *values), others in DECISIONS.items():
        if name not in typed or typed[name] == written.get(name) or (values and typed[name] not in values):
            continue
        replaced = [other for other in others if other not in typed and written.get(other) is not None]
        if replaced:
            told = ", ".join(f"{other}: {written.pop(other)}" for other in replaced)
            value = " ".join(typed[name]) if isinstance(typed[name], list) else typed[name]
            notes.append(f"--{name} {value} on the command line replaces {told} of --config {yaml_file}.")
    return notes


def read_yaml(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The flags in a YAML file, converted as the command line would convert them."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DiffTuneError(f"--config {path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise DiffTuneError(f"--config {path} holds a {type(values).__name__}; it must hold lines of `flag: value`.")
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    unknown = sorted(set(values) - set(actions) | ({"config", "help"} & set(values)))
    if unknown:
        raise DiffTuneError(f"--config {path} sets {', '.join(unknown)}, which this script has no flag for.")
    return {key: convert(value, actions[key], path) for key, value in values.items()}


def convert(value: Any, action: argparse.Action, path: Path) -> Any:
    if value is None:
        return None
    if action.nargs == "+" and not isinstance(value, list):
        value = [value]
    if isinstance(value, list) != (action.nargs == "+"):
        raise DiffTuneError(f"--config {path} gives {action.dest} a list; it takes one value.")
    read: Any = action.type
    try:
        converted = [read(str(v)) for v in value] if isinstance(value, list) else read(str(value))
    except (ValueError, argparse.ArgumentTypeError) as error:
        kind = getattr(action.type, "__name__", "value")
        raise DiffTuneError(
            f"--config {path} sets {action.dest} to {value!r}, which is not a valid {kind}."
        ) from error
    if action.choices is not None and converted not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise DiffTuneError(f"--config {path} sets {action.dest} to {value!r}; it must be one of {choices}.")
    return converted
