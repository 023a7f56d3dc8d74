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
"""Flags of the command that the training scripts have too."""

import argparse
import dataclasses
import typing


def add_flags(parser: argparse.ArgumentParser, config_class: type, *names: str) -> None:
    """Adds flags as the training scripts have them: same names, types, defaults and help."""
    entries = {entry.name: entry for entry in dataclasses.fields(config_class)}
    for name in names:
        entry = entries[name]
        value_type = next(iter(typing.get_args(entry.type)), entry.type)  # int of int | None
        if value_type is bool:
            parser.add_argument(f"--{name}", action="store_true", help=entry.metadata["help"].replace("%", "%%"))
            continue
        shown = "" if entry.default is None else f" Default: {entry.default}."
        parser.add_argument(
            f"--{name}",
            type=value_type,
            default=entry.default,
            choices=entry.metadata.get("choices"),
            required=name == "pretrained_model_name_or_path",
            help=(entry.metadata["help"] + shown).replace("%", "%%"),
        )
