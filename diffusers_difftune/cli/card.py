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
"""`difftune card`"""

import argparse

from ..training.config import RunConfig
from .flags import add_flags


def add_parser(rooms: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `card`."""
    card = rooms.add_parser("card", help="write the model card of a run again, from its files", allow_abbrev=False)
    card.add_argument("folder", help="The run folder: the output_dir of a training script.")
    card.add_argument("--repo_id", help="Where the result is on the Hub, or will be, for the example in the card.")
    add_flags(card, RunConfig, "hub_token")
    card.set_defaults(run=card_run)


def card_run(arguments: argparse.Namespace) -> int:
    """`difftune card`"""
    from ..model_card import write_run_card

    print(write_run_card(arguments.folder, arguments.repo_id, arguments.hub_token))
    return 0
