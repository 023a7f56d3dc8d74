# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""OpenCV, by which control images are computed without a model. It is an extra: nothing else needs it."""

from ..errors import DiffTuneError, first_sentence


try:
    import cv2
except ImportError as error:
    raise DiffTuneError(
        "Edges, sketches and the control images of drawings are computed with OpenCV, which cannot be imported"
        f' ({first_sentence(error)}); install it with `pip install "diffusers-difftune[control]"`.'
    ) from error

__all__ = ["cv2"]
