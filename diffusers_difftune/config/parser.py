# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The command line of a config class."""

import argparse

from ..errors import DiffTuneError
from .base import Config, Flag, flags_of


# In the order of `--help`; what is not listed comes last but for Diff-Tuning.
GROUPS = (
    *("model", "target data", "training", "full fine-tuning", "class-conditional fine-tuning", "ControlNet"),
    *("control conditions", "what trains", "validation", "evaluation"),
)
LAST = "Diff-Tuning"
TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


class Parser(argparse.ArgumentParser):
    """A parser for the flags of a config class, in groups. What it takes is what transformers' `HfArgumentParser` takes:
    `--some_flag` and `--some-flag`, and for what is true or false `--flag` and `--flag false`.

    Args:
        config_class (`type`): The class.
        description (`str`, *optional*): Shown by `--help`.
    """

    def __init__(self, config_class: type[Config], description: str | None = None) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # it would turn --validation_prompt into --validation_prompts without a word
        )
        flags = flags_of(config_class).values()
        for title in sorted({flag.group for flag in flags}, key=place_of):
            group = self.add_argument_group(title)
            for flag in flags:
                if flag.group == title:
                    add_flag(group, flag)
        self.add_argument(
            "--config",
            metavar="FILE",
            help="A YAML file of flags, or the name of a recipe; the command line wins over it.",
        )

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raises what argparse has to say as a [`DiffTuneError`]."""
        raise DiffTuneError(message[:1].upper() + message[1:].rstrip(".") + ".")


def place_of(group: str) -> tuple[bool, int, str]:
    """Where a group comes in `--help`."""
    return group == LAST, GROUPS.index(group) if group in GROUPS else len(GROUPS), group


def add_flag(group: argparse._ArgumentGroup, flag: Flag) -> None:
    """Adds a flag to a group of a parser."""
    names = dict.fromkeys((f"--{flag.name}", f"--{flag.name.replace('_', '-')}"))
    options: dict = {"default": flag.default, "help": flag.help.replace("%", "%%"), "type": flag.type}
    if flag.choices is not None:
        options["choices"] = flag.choices
    if flag.several:
        options["nargs"] = "+"
    if flag.type is bool:
        options |= {"type": true_or_false, "nargs": "?", "const": True}
    group.add_argument(*names, **options)


def true_or_false(word: str) -> bool:
    """What a word such as `yes` or `false` says."""
    if word.lower() not in TRUE + FALSE:
        pairs = ", ".join(map("/".join, zip(TRUE, FALSE, strict=True)))
        raise argparse.ArgumentTypeError(f"it is {word!r}, and must be true or false, or one of {pairs}")
    return word.lower() in TRUE
