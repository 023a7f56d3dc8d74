# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Flags of `difftune` that the training scripts have too, or that several of its subcommands have."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..config import ClassConditionalConfig, DataConfig, ModelConfig, RunConfig
from ..config.base import Config, flag, flags_of
from ..config.parse import add_flag
from ..errors import DiffTuneError
from ..evaluation import FEWEST_IMAGES


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
    for each in added:
        if each.type is bool:
            parser.add_argument(f"--{each.name}", action="store_true", help=each.help.replace("%", "%%"))
        else:
            add_flag(parser, each).required = each.default is None and not each.optional
    parser.set_defaults(flags=[*(parser.get_default("flags") or ()), *added])


def name_data(config: DataConfig, argument: str, name: str) -> None:
    """Makes a config read what a flag or an argument names: a folder, a file, or a data set on the Hub."""
    if Path(name).exists():
        config.train_data_dir = name
    elif LIKE_HUB_ID.fullmatch(name):
        config.dataset_name = name
    else:
        raise DiffTuneError(
            f"{argument} {name}: there is no such folder or file, and no data set on the Hub is so called."
        )


@dataclass(kw_only=True)
class SamplingFlags(Config):
    """The flags of commands that sample, and compare the samples with the real images of DATA."""

    num_images: int | None = flag(
        "How many samples are compared with as many real images. Default: as many as DATA has, at most"
        f" {MOST_IMAGES}.",
        least=FEWEST_IMAGES,
    )
    resolution: int | None = flag("Side of the images in pixels. Default: the (first) pipeline's own.", least=1)
    floor_data: str | None = flag(
        "More real images of the same kind, such as the training set, for the floor. Default: the rest of DATA; if that is"
        " too little, one half of what is compared against the other."
    )
    features: str = flag(
        "What images are compared by: inception, dinov2, clip, efficientnet, a vision model of transformers (a folder or"
        " an id on the Hub), or the .safetensors file of a projection.",
        "dinov2",
    )
    guidance_scale: float = flag("Classifier-free guidance.", 3.0, least=1.0)
    steps: int = flag("Sampling steps of DPM-Solver++.", 20, least=1)
    seed: int = flag("Seed of all noise.", 0, least=0)
    batch_size: int = flag("Images at once.", 16, least=1)


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Adds [`SamplingFlags`], and those of training that say what is sampled and how data are read."""
    add_flags(parser, SamplingFlags)
    add_flags(parser, DataConfig, "caption_column", *DATA_FLAGS)
    add_flags(parser, ClassConditionalConfig, "label_column")
    add_flags(parser, ModelConfig, "revision", "pretrained_vae_model_name_or_path", "variant", "cache_dir")
    add_flags(parser, RunConfig, "mixed_precision", "hub_token")
