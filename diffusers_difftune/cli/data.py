# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The data that a command names."""

import argparse
import logging

import torch

from ..backbones import Backbone
from ..config import ClassConditionalConfig, ControlNetConfig, DataConfig
from ..data.dataset import TargetData, load_target_data
from ..data.source import ANY, HELD_OUT
from ..errors import DiffTuneError
from ..evaluation import FEWEST_IMAGES
from ..evaluation.finetuned import Finetuned
from ..evaluation.real_images import drawn_rows, read_images
from .flags import DATA_FLAGS, MOST_IMAGES, name_data


def open_data(
    arguments: argparse.Namespace, flag: str, name: str, backbone: Backbone, finetuned: Finetuned | None = None
) -> TargetData:
    """Images with captions; with labels, where the model is class-conditional; of a fine-tuned ControlNet, with control
    images.

    Of data with several splits, what is measured by is the held-out one, and everything else the one named train.
    """
    values = {each: getattr(arguments, each) for each in DATA_FLAGS}
    config: DataConfig
    if finetuned is not None and finetuned.kind == "controlnet":
        columns = {each: getattr(arguments, each) for each in ("caption_column", "conditioning_image_column")}
        config = ControlNetConfig(**columns, **values)
    elif backbone.classes is not None:
        config = ClassConditionalConfig(label_column=arguments.label_column, **values)
    else:
        config = DataConfig(caption_column=arguments.caption_column, **values)
    name_data(config, flag, name)
    data = load_target_data(config, 0, arguments.cache_dir, HELD_OUT if flag == "DATA" else ANY, flag)
    data.report.tell(logging.getLogger(__name__))
    return data


def num_compared(arguments: argparse.Namespace, data: TargetData) -> int:
    """How many held-out images are compared with as many samples."""
    count = arguments.num_images or min(len(data), MOST_IMAGES)
    if count > len(data):
        raise DiffTuneError(
            f"--num_images is {count}, and DATA {arguments.data} has {len(data)} rows; give at most as many."
        )
    return count


def floor_images(
    arguments: argparse.Namespace,
    backbone: Backbone,
    data: TargetData,
    rows: list[int],
    count: int,
    resolution: int,
    interpolation: str = "lanczos",
) -> torch.Tensor | None:
    """Other real images, uint8, for the floor: those of `--floor_data`, or the rest of the held-out data; `None` where there
    are too few of these. `rows` are all of the held-out data in the order they are drawn in, of which the first `count` are
    compared.
    """
    if arguments.floor_data is not None:
        more = open_data(arguments, "--floor_data", arguments.floor_data, backbone)
        if len(more) < FEWEST_IMAGES // 2:
            raise DiffTuneError(
                f"--floor_data {arguments.floor_data} has {len(more)} rows; give at least {FEWEST_IMAGES // 2}."
            )
        return read_images(more, drawn_rows(more, min(count, len(more))), resolution, interpolation)
    return read_images(data, rows[count : 2 * count], resolution, interpolation) if len(rows) >= 2 * count else None
