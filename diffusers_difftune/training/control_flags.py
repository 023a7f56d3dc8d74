# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The flags of ControlNet training: what can be found wrong with them before anything is opened."""

from typing import Any

from PIL import Image

from .. import errors
from ..controls import check_kind
from ..data.images.decode import UnreadableImage, decode
from ..errors import DiffTuneError
from .checks import uses_bank


def check_control_flags(config: Any) -> None:
    """Stops on the first flag of ControlNet training that cannot work.

    Args:
        config: The config of the script.

    Raises:
        DiffTuneError: A flag is missing, out of range, or conflicts with another one.
    """
    prompts, images = config.validation_prompt or [], config.validation_image or []
    if bool(prompts) != bool(images):
        given, missing = ("prompt", "image") if prompts else ("image", "prompt")
        raise DiffTuneError(f"--validation_{given} is given without --validation_{missing}; give both or neither.")
    if len(prompts) != len(images) and 1 not in (len(prompts), len(images)):
        raise DiffTuneError(
            f"--validation_prompt has {len(prompts)} values and --validation_image {len(images)}; give as many of both,"
            " or a single one of either."
        )
    for path in images:
        open_control_image(path)
    for name in ("condition_model", "condition_revision", "control_evaluation_data"):
        if getattr(config, name) is not None and config.condition_kind is None:
            raise DiffTuneError(f"--{name} needs --condition_kind, which says what the control images are.")
    if config.condition_kind is not None:
        with errors.flag(f"--condition_kind {config.condition_kind}"):
            check_kind(config.condition_kind, config.condition_model, config.condition_revision)
    if config.retention_condition is not None and not uses_bank(config):
        raise DiffTuneError("--retention_condition needs source rows; set --source_share above 0.")
    if config.retention_condition == "extracted" and config.condition_kind is None:
        raise DiffTuneError(
            "--retention_condition extracted needs --condition_kind, which says what to extract; or use blank."
        )
    if config.lr_power <= 0:
        raise DiffTuneError(f"--lr_power is {config.lr_power}; it must be above 0 and finite.")


def open_control_image(path: str) -> Image.Image:
    """A file of `--validation_image`."""
    try:
        return decode({"bytes": None, "path": path})
    except UnreadableImage as error:
        raise DiffTuneError(f"--validation_image {path} cannot be read: {error.reason}.") from None


def retention_condition(config: Any) -> str | None:
    """The control images of source rows: `"extracted"`, `"blank"`, or `None` for a run without source rows."""
    if not uses_bank(config):
        return None
    return config.retention_condition or "blank"
