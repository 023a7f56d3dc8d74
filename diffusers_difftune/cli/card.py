# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune card`"""

import argparse

from ..config import RunConfig
from .flags import add_flags


def add_parser(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `card`."""
    card = subcommands.add_parser(
        "card", help="write the model card of a run again, from its files", allow_abbrev=False
    )
    card.add_argument("folder", help="The run folder: the output_dir of a training script.")
    card.add_argument("--repo_id", help="Where the result is on the Hub, or will be, for the example in the card.")
    add_flags(card, RunConfig, "hub_token")
    card.set_defaults(run=card_run)


def card_run(arguments: argparse.Namespace) -> int:
    """`difftune card`"""
    from ..publishing.card import write_run_card

    print(write_run_card(arguments.folder, arguments.repo_id, arguments.hub_token))
    return 0
