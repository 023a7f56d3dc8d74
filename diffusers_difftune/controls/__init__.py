# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Control images from images: edge, sketch, depth, normal and segmentation."""

from .extractor import Extractor
from .make import DRAWING, KINDS, MODEL_KINDS, check_kind, check_libraries, make_extractor


__all__ = ["DRAWING", "KINDS", "MODEL_KINDS", "Extractor", "check_kind", "check_libraries", "make_extractor"]
