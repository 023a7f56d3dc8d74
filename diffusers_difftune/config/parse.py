# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""From a command line and a YAML file to a config, and from a user's mistake to one line and an exit code."""

import argparse
import dataclasses
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser

from ..bank.manifest import BANK_FLAGS
from ..errors import DiffTuneError, Stopped
from ..mistakes import place_trouble, tell_mistake


Config = TypeVar("Config")
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


class Parser(HfArgumentParser):
    """A parser for the flags of a config class, one argument group for each of its bases."""

    def __init__(self, config_class: type, description: str | None = None) -> None:
        named = [base for base in config_class.__mro__ if "_argument_group_name" in vars(base)]
        # A script's own version of a shared group stands for the group.
        groups = [base for base in named if not any(issubclass(other, base) for other in named if other is not base)]
        super().__init__(
            groups,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # An abbreviation would turn --validation_prompt into --validation_prompts without a word.
            allow_abbrev=False,
        )
        self.add_argument("--config", metavar="FILE", help="A YAML file of flags; the command line wins over it.")
        # A script may give a flag of a shared group another default.
        self.set_defaults(
            **{f.name: f.default for f in dataclasses.fields(config_class) if f.default is not dataclasses.MISSING}
        )

    def error(self, message: str) -> None:
        raise DiffTuneError(message[:1].upper() + message[1:].rstrip(".") + ".")


def parse_config(config_class: type[Config], argv: list[str] | None = None, description: str | None = None) -> Config:
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
    argv = sys.argv[1:] if argv is None else argv
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    yaml_file = finder.parse_known_args(argv)[0].config
    defaults = {action.dest: action.default for action in parser._actions}
    parser.set_defaults(**dict.fromkeys(defaults, NOT_GIVEN))
    typed = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not NOT_GIVEN}
    typed.pop("config", None)
    written = {} if yaml_file is None else read_yaml(Path(yaml_file), parser)
    notes = replace_choices(typed, written, yaml_file)
    flags = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    config = config_class(**{name: value for name, value in defaults.items() if name in flags} | written | typed)
    given = frozenset(typed) | {name for name, value in written.items() if value is not None}
    for name, value in (("given", given), ("notes", tuple(notes))):
        setattr(config, name, value)
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
    try:
        converted = [action.type(str(v)) for v in value] if isinstance(value, list) else action.type(str(value))
    except (ValueError, argparse.ArgumentTypeError) as error:
        kind = getattr(action.type, "__name__", "value")
        raise DiffTuneError(
            f"--config {path} sets {action.dest} to {value!r}, which is not a valid {kind}."
        ) from error
    if action.choices is not None and converted not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise DiffTuneError(f"--config {path} sets {action.dest} to {value!r}; it must be one of {choices}.")
    return converted


class Terminated(KeyboardInterrupt):
    """SIGTERM, as Python tells of SIGINT."""


def reports_mistakes(main: Callable) -> Callable:
    """Makes a command print a [`DiffTuneError`], a full disk, or a signal that ends it as one line on stderr.

    It exits with code 2 (3 if only the last upload failed), on SIGINT with 130 and on SIGTERM with 143. (While a run trains,
    signals are its own business: see `stopping.py`.)
    """

    @functools.wraps(main)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            with terminated_as_interrupted():
                return main(*args, **kwargs)
        except DiffTuneError as error:
            tell_mistake(f"error: {error}")
            raise SystemExit(error.exit_code) from error
        except Stopped as stopped:
            if stopped.sentence is not None:
                print(f"\n{stopped.sentence}", file=sys.stderr)
            raise
        except KeyboardInterrupt as error:
            number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
            print(
                f"\nStopped by {number.name}; the same command goes on with what was finished, for training with"
                " --resume_from_checkpoint latest.",
                file=sys.stderr,
            )
            raise SystemExit(128 + number) from None
        except Exception as error:
            sentence = place_trouble(error)
            if sentence is None:
                raise
            tell_mistake(f"error: {sentence}")
            raise SystemExit(2) from error

    return wrapper


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """A context in which SIGTERM raises [`Terminated`], so that what is open is closed."""
    if threading.current_thread() is not threading.main_thread():  # no other one may handle signals
        yield
        return

    def terminate(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
