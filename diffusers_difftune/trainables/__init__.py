# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What trains: every weight of the denoiser, an adapter on it, or a control branch beside it. Each knows how to call what it
trains, and how to save it, in a checkpoint and as a result."""

from .adapted import AdaptedDenoiser
from .base import Trainable
from .full import FullDenoiser


__all__ = ["AdaptedDenoiser", "FullDenoiser", "Trainable"]
