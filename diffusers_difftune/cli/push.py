# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""`difftune push`"""

import argparse

from ..training.config import RunConfig
from .flags import add_flags


def add_parser(rooms: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `push`."""
    push = rooms.add_parser("push", help="upload the result of a run to the Hub", allow_abbrev=False)
    push.add_argument("folder", help="The run folder: the output_dir of a training script.")
    push.add_argument("repo_id", help="Id of the model repository, made if it is not there.")
    add_flags(push, RunConfig, "hub_token")
    push.set_defaults(run=push_run)


def push_run(arguments: argparse.Namespace) -> int:
    """`difftune push`"""
    from ..hub import create_repo, upload
    from ..model_card import renew_card

    repo_id = create_repo(arguments.repo_id, arguments.folder, arguments.hub_token)
    renew_card(arguments.folder, repo_id, arguments.hub_token)
    print(upload(arguments.folder, repo_id, arguments.hub_token))
    return 0
