# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What flags of ControlNet training name: the control images of validation, what extracts conditions."""

from PIL import Image

from .. import errors
from ..config import ControlNetConfig
from ..controls import check_kind
from ..data.images.decode import UnreadableImage, decode
from ..errors import DiffTuneError


def check_control_flags(config: ControlNetConfig) -> None:
    """Stops if an image of `--validation_image` cannot be read, or the condition model does not fit the kind of condition.

    Args:
        config ([`ControlNetConfig`]): The flags.

    Raises:
        DiffTuneError: So it is.
    """
    for path in config.validation_image or []:
        open_control_image(path)
    if config.condition_kind is not None:
        with errors.flag(f"--condition_kind {config.condition_kind}"):
            check_kind(config.condition_kind, config.condition_model, config.condition_revision)


def open_control_image(path: str) -> Image.Image:
    """A file of `--validation_image`."""
    try:
        return decode({"bytes": None, "path": path})
    except UnreadableImage as error:
        raise DiffTuneError(f"--validation_image {path} cannot be read: {error.reason}.") from None


def retention_condition(config: ControlNetConfig) -> str | None:
    """The control images of source rows: `"extracted"`, `"blank"`, or `None` for a run without source rows."""
    if not config.uses_bank:
        return None
    return config.retention_condition or "blank"
