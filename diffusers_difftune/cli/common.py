# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What commands that build something begin with."""

import argparse
import logging
from typing import TYPE_CHECKING, NoReturn

from .. import errors
from ..errors import DiffTuneError


logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from ..backbones import Backbone


def refuse(message: str) -> NoReturn:
    """What a parser does with a mistake, in place of its usage and its exit."""
    raise DiffTuneError(f"{message[:1].upper()}{message[1:]}.")


def new_accelerator(mixed_precision: str | None = None) -> "Accelerator":
    """The processes and the precision of a command.

    Args:
        mixed_precision (`str`, *optional*): As `--mixed_precision`; `None` is what `accelerate config` says.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # an earlier run of this process may have used another precision
    return Accelerator(mixed_precision=mixed_precision)


def show_log(accelerator: "Accelerator") -> None:
    """Makes the main process say what it does, without the bars of libraries that load weights."""
    import diffusers
    import transformers

    from ..console import log_to_terminal

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    if accelerator.is_main_process:
        log_to_terminal("%(message)s")
        logging.getLogger("diffusers_difftune").setLevel(logging.INFO)


def show_summary(accelerator: "Accelerator", rows: list[tuple[str, str]]) -> None:
    """Prints, on the main process, what a command of minutes is about to do.

    Args:
        accelerator ([`Accelerator`]): The processes.
        rows (`list[tuple[str, str]]`): Labels and texts.
    """
    from ..console import labelled_block, terminal_width

    if accelerator.is_main_process:
        logger.info(labelled_block("What this command does", rows, terminal_width()))


def machine(accelerator: "Accelerator") -> str:
    """On what a command computes, in words."""
    from ..training.summary import machine_words

    return machine_words(accelerator)


def open_pipeline(
    model: str,
    revision: str | None,
    arguments: argparse.Namespace,
    resolution: int | None = None,
) -> "Backbone":
    """The backbone of a pipeline, which is downloaded if need be; loads no weights.

    Args:
        model (`str`): A folder, or an id on the Hub.
        revision (`str`, *optional*): Its revision on the Hub.
        arguments (`argparse.Namespace`): With `--variant`, `--cache_dir` and `--hub_token`.
        resolution (`int`, *optional*): Side of the images in pixels; `None` is the model's own.

    Returns:
        [`Backbone`]: The backbone.

    Raises:
        DiffTuneError: There is no such pipeline, or it is of an unsupported class.
    """
    from ..backbones import load_backbone, pipeline_folder

    folder = pipeline_folder(model, revision, arguments.variant, arguments.cache_dir, arguments.hub_token)
    with errors.flag(resolution="--resolution"):
        return load_backbone(folder, arguments.variant, resolution=resolution)


def fingerprint(backbone: "Backbone", arguments: argparse.Namespace) -> str:
    """The fingerprint of a pipeline's weights, remembered in the cache of `--cache_dir`."""
    from ..data.cache.place import difftune_cache_dir

    return backbone.fingerprint(difftune_cache_dir(arguments.cache_dir))


def precision(accelerator: "Accelerator") -> "torch.dtype":
    """The type that a command samples in."""
    from ..io.processes import frozen_dtype

    return frozen_dtype(accelerator)


def find_resolution(wanted: int | None, *pipelines: "Backbone") -> int:
    """The side of the images that all pipelines are to make, in pixels: the one that is wanted, or the first one's own."""
    resolution = wanted or pipelines[0].native_resolution
    with errors.flag(resolution="--resolution"):
        for backbone in pipelines:
            backbone.image_side(resolution)
    return resolution
