# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune push`"""

import argparse

from ..config import RunConfig
from .flags import add_flags


def add_parser(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `push`."""
    push = subcommands.add_parser("push", help="upload the result of a run to the Hub", allow_abbrev=False)
    push.add_argument("folder", help="The run folder: the output_dir of a training script.")
    push.add_argument("repo_id", help="Id of the model repository, made if it is not there.")
    add_flags(push, RunConfig, "hub_token")
    push.set_defaults(run=push_run)


def push_run(arguments: argparse.Namespace) -> int:
    """`difftune push`"""
    from ..publishing import create_repo, upload
    from ..publishing.card import renew_card

    repo_id = create_repo(arguments.repo_id, arguments.folder, arguments.hub_token)
    renew_card(arguments.folder, repo_id, arguments.hub_token)
    print(upload(arguments.folder, repo_id, arguments.hub_token))
    return 0
