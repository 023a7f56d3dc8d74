# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The kinds of control images, and the extractor of each."""

from typing import TYPE_CHECKING

from ..errors import DiffTuneError
from .extractor import Extractor


if TYPE_CHECKING:
    import torch

KINDS = ("edge", "sketch", "depth", "normal", "segmentation")
MODEL_KINDS = ("depth", "normal", "segmentation")

# The value of the model flag that asks for the extractors of drawings on a white ground, which need no model.
DRAWING = "drawing"


def make_extractor(
    kind: str,
    model: str | None = None,
    revision: str | None = None,
    device: "str | torch.device" = "cpu",
    cache_dir: str | None = None,
    token: str | None = None,
) -> Extractor:
    """Makes the extractor of a kind of control images.

    `edge` (Canny) and `sketch` (XDoG, a line drawing) never need a model. `depth`, `normal` and `segmentation` are
    estimated by a model, or, for drawings on a white ground, computed without one (`model="drawing"`).

    Args:
        kind (`str`): One of `KINDS`.
        model (`str`, *optional*):
            For `depth`, `normal` and `segmentation`: `"drawing"`, a folder, or the id of a model on the Hub. `None` is
            the kind's default model.
        revision (`str`, *optional*):
            Revision of the model on the Hub: a branch, a tag or a commit. `None` is the newest, but of a default model
            one commit that is fixed in this library.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Where the model runs. It is there from the first call until [`Extractor`] is told to release it.
        cache_dir (`str`, *optional*): Where downloaded models are kept. `None` is the Hub's own cache.
        token (`str`, *optional*): Token for the Hub. `None` is the one you logged in with.

    Returns:
        [`Extractor`]: The extractor.

    Raises:
        DiffTuneError: There is no such kind, its library is not installed, or the model cannot be had or is one for another
            task.
    """
    check_kind(kind, model, revision)
    check_libraries(kind, model)
    if kind not in MODEL_KINDS:
        from .lines import line_extractor

        return line_extractor(kind)
    if model == DRAWING:
        from .shapes import drawing_extractor

        return drawing_extractor(kind)
    from .models import model_extractor

    return model_extractor(kind, model, revision, device, cache_dir, token)


def check_kind(kind: str, model: str | None = None, revision: str | None = None) -> None:
    """Refuses what [`make_extractor`] cannot make; looks at no model."""
    if kind not in KINDS:
        raise DiffTuneError(f"'{kind}' is no kind of control images; the kinds are {', '.join(KINDS)}.")
    if kind not in MODEL_KINDS and (model is not None or revision is not None):
        flag = f"model is '{model}'" if model is not None else f"revision is '{revision}'"
        raise DiffTuneError(f"The {flag}, but {kind} is computed without a model; leave it out.")
    if model == DRAWING and revision is not None:
        raise DiffTuneError(f"The revision is '{revision}', but '{DRAWING}' is no model; leave the revision out.")


def check_libraries(kind: str, model: str | None = None) -> None:
    """Refuses a kind whose library is not installed."""
    if kind not in MODEL_KINDS or model == DRAWING:
        from .opencv import cv2  # noqa: F401
