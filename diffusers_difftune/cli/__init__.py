# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The `difftune` command. Only argparse is imported before it is known what there is to do."""

import argparse
from collections.abc import Sequence

from ..config.checks import check_flag
from ..config.parse import Parser
from ..mistakes import exit_code
from ..version import __version__
from . import bank, cache, conditions, convergence, evaluate, forgetting, result, train


COMMANDS = (bank, cache, result, conditions, convergence, evaluate, forgetting, train)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments. `None` takes those of the process.

    Returns:
        `int`: The exit code; see [`~diffusers_difftune.mistakes.exit_code`].
    """

    def run() -> int:
        arguments = make_parser().parse_args(argv)
        for flag in getattr(arguments, "flags", ()):
            check_flag(flag, getattr(arguments, flag.name))
        return arguments.run(arguments)

    return exit_code(run, "difftune")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command and its subcommands."""
    parser = Parser("difftune", description="Fine-tune diffusion models with less forgetting.")
    parser.add_argument("--version", action="version", version=f"diffusers-difftune {__version__}")
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subcommands)
    return parser
