# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The data that a command names."""

import argparse
import logging
from pathlib import Path

from ..backbones import Backbone
from ..config import ClassConditionalConfig, ControlNetConfig, DataConfig
from ..data.dataset import TargetData, load_target_data
from ..data.source import ANY, HELD_OUT
from ..errors import DiffTuneError
from ..evaluation.finetuned import Finetuned
from .conditions import LIKE_HUB_ID
from .flags import DATA_FLAGS


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
    if Path(name).exists():
        config.train_data_dir = name
    elif LIKE_HUB_ID.fullmatch(name):
        config.dataset_name = name
    else:
        raise DiffTuneError(
            f"{flag} {name}: there is no such folder or file, and no data set on the Hub is so called."
        )
    data = load_target_data(config, 0, arguments.cache_dir, HELD_OUT if flag == "DATA" else ANY, flag)
    data.report.tell(logging.getLogger(__name__))
    return data
