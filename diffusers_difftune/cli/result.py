# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune card` and `difftune push`: what is done with the folder of a run."""

import argparse

from ..config import RunConfig
from .flags import Subcommands, add_flags


def add_parser(subcommands: Subcommands) -> None:
    """Adds `card` and `push`."""
    card = subcommands.add_parser("card", help="write the model card of a run again, from its files")
    card.add_argument("folder", help="The run folder: the output_dir of a training script.")
    card.add_argument("--repo_id", help="Where the result is on the Hub, or will be, for the example in the card.")
    add_flags(card, RunConfig, "hub_token")
    card.set_defaults(run=write_card)

    push = subcommands.add_parser("push", help="upload the result of a run to the Hub")
    push.add_argument("folder", help="The run folder: the output_dir of a training script.")
    push.add_argument("repo_id", help="Id of the model repository, made if it is not there.")
    add_flags(push, RunConfig, "hub_token")
    push.set_defaults(run=push_result)


def write_card(arguments: argparse.Namespace) -> int:
    """`difftune card`"""
    from ..publishing.card import write_run_card

    print(write_run_card(arguments.folder, arguments.repo_id, arguments.hub_token))
    return 0


def push_result(arguments: argparse.Namespace) -> int:
    """`difftune push`"""
    from ..publishing import create_repo, upload
    from ..publishing.card import renew_card

    repo_id = create_repo(arguments.repo_id, arguments.folder, arguments.hub_token)
    renew_card(arguments.folder, repo_id, arguments.hub_token)
    print(upload(arguments.folder, repo_id, arguments.hub_token))
    return 0
