# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The command line of a config class, and from a command line and a YAML file to a config."""

import argparse
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..errors import DiffTuneError
from .base import Config, Flag, flags_of
from .checks import check_flag
from .shared import BANK_FLAGS


AnyConfig = TypeVar("AnyConfig", bound=Config)
NOT_GIVEN: Any = object()
RECIPES = Path(__file__).parents[1] / "scripts" / "recipes"  # files of flags that come with the package
# The groups in the order of `--help`; what is not listed comes last but for Diff-Tuning.
GROUPS = (
    *("model", "target data", "training", "full fine-tuning", "class-conditional fine-tuning", "ControlNet"),
    *("control conditions", "what trains", "validation", "evaluation"),
)
LAST = "Diff-Tuning"
TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
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


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, which would turn --validation_prompt into --validation_prompts without a word, and
    raises what it has to say as a [`DiffTuneError`]."""

    def __init__(self, prog: str | None = None, **options: Any) -> None:
        super().__init__(prog, allow_abbrev=False, **options)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise DiffTuneError(message[:1].upper() + message[1:].rstrip(".") + ".")


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
        DiffTuneError: A flag or a key of the YAML file is unknown, or its value is none that the flag takes.
    """
    parser = config_parser(config_class, description)
    parser.set_defaults(**dict.fromkeys(flags_of(config_class), NOT_GIVEN))
    typed = vars(parser.parse_args(argv))
    yaml_file = typed.pop("config")
    typed = {name: value for name, value in typed.items() if value is not NOT_GIVEN}
    written = {} if yaml_file is None else read_yaml(flags_file(yaml_file), config_class)
    notes = replace_choices(typed, written, yaml_file)
    config = config_class(**written | typed)
    config.notes = tuple(notes)
    return config


def config_parser(config_class: type[Config], description: str | None = None) -> Parser:
    """A parser for the flags of a config class, in groups. What it takes is what transformers' `HfArgumentParser` takes:
    `--some_flag` and `--some-flag`, and for what is true or false `--flag` and `--flag false`."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags = flags_of(config_class).values()
    for title in sorted({flag.group for flag in flags}, key=place_of):
        group = parser.add_argument_group(title)
        for flag in flags:
            if flag.group == title:
                add_flag(group, flag)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="A YAML file of flags, or the name of a recipe; the command line wins over it.",
    )
    return parser


def place_of(group: str) -> tuple[bool, int, str]:
    """Where a group comes in `--help`."""
    return group == LAST, GROUPS.index(group) if group in GROUPS else len(GROUPS), group


def add_flag(group: argparse._ActionsContainer, flag: Flag) -> argparse.Action:
    """Adds a flag to a parser or a group of one."""
    names = dict.fromkeys((f"--{flag.name}", f"--{flag.name.replace('_', '-')}"))
    options: dict = {"default": flag.default, "help": flag.help.replace("%", "%%"), "type": flag.type}
    if flag.choices is not None:
        options["choices"] = flag.choices
    if flag.several:
        options["nargs"] = "+"
    if flag.type is bool:
        options |= {"type": true_or_false, "nargs": "?", "const": True}
    return group.add_argument(*names, **options)


def true_or_false(word: str) -> bool:
    """What a word such as `yes` or `false` says."""
    if word.lower() not in TRUE + FALSE:
        pairs = ", ".join(map("/".join, zip(TRUE, FALSE, strict=True)))
        raise argparse.ArgumentTypeError(f"it is {word!r}, and must be true or false, or one of {pairs}")
    return word.lower() in TRUE


def flags_file(name: str) -> Path:
    """The file that `--config` means: a path, or the name of a recipe; a file of that name comes first."""
    recipe = RECIPES / f"{name}.yaml"
    return recipe if not Path(name).exists() and recipe.is_file() else Path(name)


def read_yaml(path: Path, config_class: type[Config]) -> dict[str, Any]:
    """The flags in a YAML file, converted as the command line would convert them."""
    values = yaml_content("--config", path) or {}
    if not isinstance(values, dict):
        raise DiffTuneError(f"--config {path} holds a {type(values).__name__}; it must hold lines of `flag: value`.")
    flags = flags_of(config_class)
    unknown = sorted(map(str, values.keys() - flags.keys()))
    if unknown:
        raise DiffTuneError(f"--config {path} sets {', '.join(unknown)}, which this script has no flag for.")
    read = {}
    for name, value in values.items():
        if flags[name].several and value is not None and not isinstance(value, list):
            value = [value]
        read[name] = None if value is None else converted(flags[name], value)
        try:
            check_flag(flags[name], read[name])
        except DiffTuneError as error:
            raise DiffTuneError(f"--config {path}: {error}") from error
    return read


def yaml_content(flag: str, path: Path) -> Any:
    """What is in the YAML file that a flag names."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DiffTuneError(f"{flag} {path} cannot be read: {' '.join(str(error).split())}.") from error


def converted(flag: Flag, value: Any) -> Any:
    """A value of a YAML file as the command line would have read it; as it is where that cannot be."""
    if isinstance(value, list):
        return [converted(flag, each) for each in value]
    try:
        return true_or_false(str(value)) if flag.type is bool else flag.type(str(value))
    except (ValueError, argparse.ArgumentTypeError):
        return value


def replace_choices(typed: dict[str, Any], written: dict[str, Any], yaml_file: str | None) -> list[str]:
    """Takes what the command line has decided otherwise out of the flags of a YAML file, in place; returns a sentence for
    each decision that was replaced."""
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
