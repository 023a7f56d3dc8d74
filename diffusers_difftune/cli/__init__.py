# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The `difftune` command. Only argparse is imported before it is known what there is to do."""

import argparse
from collections.abc import Sequence

from ..errors import DiffTuneError
from ..version import __version__
from . import bank, cache, card, conditions, convergence, evaluate, forgetting, push, train


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments. `None` takes those of the process.

    Returns:
        `int`: The exit code; 2 for a mistake of the user and 3 for an upload that failed, told in one sentence.
    """
    arguments = make_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except DiffTuneError as error:
        from ..mistakes import tell_mistake

        tell_mistake(f"difftune: {error}")
        return error.exit_code


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command and its subcommands."""
    parser = argparse.ArgumentParser("difftune", description="Fine-tune diffusion models with less forgetting.")
    parser.add_argument("--version", action="version", version=f"diffusers-difftune {__version__}")
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True)
    bank.add_parser(subcommands)
    cache.add_parser(subcommands)
    card.add_parser(subcommands)
    conditions.add_parser(subcommands)
    convergence.add_parser(subcommands)
    evaluate.add_parser(subcommands)
    forgetting.add_parser(subcommands)
    push.add_parser(subcommands)
    train.add_parser(subcommands)
    return parser
