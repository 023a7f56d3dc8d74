# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune cache list | clean`"""

import argparse
import math
import os
import time
from pathlib import Path

from ..config import ModelConfig
from ..errors import DiffTuneError
from .flags import Subcommands, add_flags


CLEAN = """\
Say what of the cache is of no use any more and how much room it takes; with --yes, remove it. These are encodings of images
and prompts that the latest run on their data did not use, because they were edited or removed. What a running process uses
is left alone, and whatever is removed is made again when a run needs it.
"""


def add_parser(subcommands: Subcommands) -> None:
    """Adds `cache` and its commands."""
    cache = subcommands.add_parser("cache", help="encoded images and prompts, and copies of data")
    commands = cache.add_subparsers(metavar="COMMAND", required=True)

    shown = commands.add_parser("list", help="say what is in the cache and what it belongs to")
    add_flags(shown, ModelConfig, "cache_dir")
    shown.set_defaults(run=cache_list)

    clean = commands.add_parser("clean", help="remove what is of no use", description=CLEAN)
    add_flags(clean, ModelConfig, "cache_dir")
    clean.add_argument("--older_than", type=float, metavar="DAYS", help="Also what no run has used for so many days.")
    clean.add_argument(
        "--model", action="append", help="Only what this model encoded, and all of that. Can be given several times."
    )
    clean.add_argument("--yes", action="store_true", help="Remove it instead of only saying what would be removed.")
    clean.set_defaults(run=cache_clean)


def cache_list(arguments: argparse.Namespace) -> int:
    """`difftune cache list`"""
    from ..console import file_size
    from ..data.cache.cleaning import list_cache

    folder = cache_folder(arguments)
    found = list_cache(folder)
    print(f"{folder}: {file_size(sum(each.size for each in found))}")
    for each in found:
        used = "" if each.last_used is None else time.strftime("%Y-%m-%d", time.localtime(each.last_used))
        print(f"{file_size(each.size):>10}  {used:<10}  {each.title}")
    return 0


def cache_clean(arguments: argparse.Namespace) -> int:
    """`difftune cache clean`"""
    from ..console import file_size
    from ..data.cache.cleaning import clean_cache

    folder = cache_folder(arguments)
    days = arguments.older_than
    if days is not None and not (math.isfinite(days) and days >= 0):
        raise DiffTuneError(f"--older_than is {days}; it must be a number of days, 0 or more.")
    found = clean_cache(folder, days, named_models(arguments.model, folder), arguments.yes)
    removed, left = [each for each in found if not each.in_use], [each for each in found if each.in_use]
    if not found:
        print(f"There is nothing to remove in {folder}.")
    for each in removed:
        print(f"{file_size(each.size):>10}  {each.title}")
    for each in left:
        print(f"{file_size(each.size):>10}  {each.title}: left alone, because a running process uses it")
    if removed:
        freed = file_size(sum(each.size for each in removed))
        print(f"{freed} were freed." if arguments.yes else f"{freed} would be freed; --yes removes it.")
    return 0


def cache_folder(arguments: argparse.Namespace) -> Path:
    """This library's part of `--cache_dir`."""
    from ..data.cache.place import difftune_cache_dir

    folder = difftune_cache_dir(arguments.cache_dir)
    if not folder.is_dir():
        raise DiffTuneError(f"--cache_dir: there is no cache in {folder}.")
    return folder


def named_models(names: list[str] | None, cache_dir: Path) -> list[str] | None:
    """The models that `--model` names, by the names they have in the cache: ids, and paths of folders."""
    from ..data.cache.cleaning import stores

    if names is None:
        return None
    known = sorted({model for store in stores(cache_dir) for model in store.models})
    found = []
    for name in names:
        path = os.path.abspath(os.path.expanduser(name))
        if name not in known and path not in known:
            raise DiffTuneError(
                f"--model {name}: nothing in {cache_dir} belongs to it; the models there are {', '.join(known) or 'none'}."
            )
        found.append(name if name in known else path)
    return found
