# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Flags of `difftune` that the training scripts have too, or that several of its subcommands have."""

import argparse
import math
import re
from pathlib import Path
from typing import TypeAlias

from ..config import ClassConditionalConfig, DataConfig, ModelConfig, RunConfig
from ..config.base import Config, flags_of
from ..config.parse import add_flag
from ..errors import DiffTuneError


Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
LIKE_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
MOST_IMAGES = 1000  # that are compared, if --num_images is not given
# What says how data are read, beside their place.
DATA_FLAGS = ("dataset_config_name", "image_column", "skip_bad_images")


def add_flags(parser: argparse.ArgumentParser, config_class: type[Config], *names: str) -> None:
    """Adds flags of a config class, all if none is named: those of training are what they are there. One that is true or false
    takes no value here, because that could be an argument."""
    known = flags_of(config_class)
    added = [known[name] for name in names or known]
    for flag in added:
        if flag.type is bool:
            parser.add_argument(f"--{flag.name}", action="store_true", help=flag.help.replace("%", "%%"))
        else:
            add_flag(parser, flag).required = flag.default is None and not flag.optional
    parser.set_defaults(flags=[*(parser.get_default("flags") or ()), *added])


def name_data(config: DataConfig, flag: str, name: str) -> None:
    """Makes a config read what a flag or an argument names: a folder, a file, or a data set on the Hub."""
    if Path(name).exists():
        config.train_data_dir = name
    elif LIKE_HUB_ID.fullmatch(name):
        config.dataset_name = name
    else:
        raise DiffTuneError(
            f"{flag} {name}: there is no such folder or file, and no data set on the Hub is so called."
        )


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of commands that sample and compare the samples with the real images of DATA."""
    parser.add_argument(
        "--num_images",
        type=int,
        help="How many samples are compared with as many real images. Default: as many as DATA has, at most"
        f" {MOST_IMAGES}.",
    )
    parser.add_argument(
        "--resolution", type=int, help="Side of the images in pixels. Default: the (first) pipeline's own."
    )
    parser.add_argument(
        "--floor_data",
        metavar="DATA",
        help="More real images of the same kind, such as the training set, for the floor. Default: the rest of DATA; if"
        " that is too little, one half of what is compared against the other.",
    )
    parser.add_argument(
        "--features",
        default="dinov2",
        help="What images are compared by: inception, dinov2, clip, efficientnet, a vision model of transformers (a"
        " folder or an id on the Hub), or the .safetensors file of a projection. Default: dinov2.",
    )
    parser.add_argument("--guidance_scale", type=float, default=3.0, help="Classifier-free guidance. Default: 3.0.")
    parser.add_argument("--steps", type=int, default=20, help="Sampling steps of DPM-Solver++. Default: 20.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of all noise. Default: 0.")
    parser.add_argument("--batch_size", type=int, default=16, help="Images at once. Default: 16.")
    add_flags(parser, DataConfig, "caption_column", *DATA_FLAGS)
    add_flags(parser, ClassConditionalConfig, "label_column")
    add_flags(parser, ModelConfig, "revision", "pretrained_vae_model_name_or_path", "variant", "cache_dir")
    add_flags(parser, RunConfig, "mixed_precision", "hub_token")


def check_sampling_flags(arguments: argparse.Namespace, **least: int) -> None:
    """Stops on the first flag of [`add_sampling_flags`], and of those beside it, that cannot work. `least` are the smallest
    values of a command's own flags."""
    for name, smallest in (least | {"steps": 1, "resolution": 1, "batch_size": 1, "seed": 0}).items():
        value = getattr(arguments, name)
        if value is not None and value < smallest:
            raise DiffTuneError(f"--{name} is {value}; it must be at least {smallest}.")
    if not 1 <= arguments.guidance_scale < math.inf:
        raise DiffTuneError(f"--guidance_scale is {arguments.guidance_scale}; it must be at least 1.0 and finite.")
