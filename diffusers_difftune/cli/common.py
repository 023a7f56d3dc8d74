# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What commands that build something begin with."""

import argparse
import logging
from typing import TYPE_CHECKING, Any

from .. import errors


logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..backbones import Backbone


def new_accelerator(mixed_precision: str | None = None) -> "Accelerator":
    """The processes and the precision of a command. The main process says what it does from here on, without the bars of
    libraries that load weights."""
    import diffusers
    import transformers
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from ..console import log_to_terminal

    AcceleratorState._reset_state()  # an earlier run of this process may have used another precision
    accelerator = Accelerator(mixed_precision=mixed_precision)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    if accelerator.is_main_process:
        log_to_terminal("%(message)s")
        logging.getLogger("diffusers_difftune").setLevel(logging.INFO)
    return accelerator


def show_summary(accelerator: "Accelerator", rows: list[tuple[str, str]], result: object = None) -> None:
    """Prints, on the main process, what a command of minutes is about to do, on what, and where the result goes."""
    from ..console import labelled_block, terminal_width
    from ..training.summary import machine_words

    rows = [*rows, ("computes", machine_words(accelerator))]
    if result is not None:
        rows.append(("result", str(result)))
    if accelerator.is_main_process:
        logger.info(labelled_block("What this command does", rows, terminal_width()))


def open_pipeline(
    model: str, revision: str | None, arguments: argparse.Namespace, resolution: int | None = None
) -> "Backbone":
    """The backbone of a pipeline, which is downloaded if need be; loads no weights.

    `arguments` has `--pretrained_vae_model_name_or_path`, `--variant`, `--cache_dir` and `--hub_token`. Of no resolution, it is
    the model's own.
    """
    from ..backbones import load_backbone, pipeline_folder
    from ..io.hub import folder_of

    settings: dict[str, Any] = {"resolution": resolution}
    vae = arguments.pretrained_vae_model_name_or_path
    if vae is not None:
        with errors.flag("--pretrained_vae_model_name_or_path"):
            settings["vae"] = folder_of(vae, "a VAE", cache_dir=arguments.cache_dir, token=arguments.hub_token)
    folder = pipeline_folder(model, revision, arguments.variant, arguments.cache_dir, arguments.hub_token)
    with errors.flag(resolution="--resolution", vae="--pretrained_vae_model_name_or_path"):
        return load_backbone(folder, arguments.variant, **settings)


def fingerprint(backbone: "Backbone", arguments: argparse.Namespace) -> str:
    """The fingerprint of a pipeline's weights, remembered in the cache of `--cache_dir`."""
    from ..data.cache.place import difftune_cache_dir

    return backbone.fingerprint(difftune_cache_dir(arguments.cache_dir))


def find_resolution(wanted: int | None, *pipelines: "Backbone") -> int:
    """The side of the images that all pipelines are to make, in pixels: the one that is wanted, or the first one's own."""
    resolution = wanted or pipelines[0].native_resolution
    with errors.flag(resolution="--resolution"):
        for backbone in pipelines:
            backbone.image_side(resolution)
    return resolution
