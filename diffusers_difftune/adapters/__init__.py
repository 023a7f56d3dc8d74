# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What trains: every weight of the denoiser, or an adapter on it; [`ControlBranch`] in control.py is the third. Each knows
how to call what it trains, and how to save it, in a checkpoint and as a result."""

from .adapter import Adapter
from .denoiser import AdaptedDenoiser
from .full import FullDenoiser
from .loading import load_adapter, merge_adapter
from .settings import AdapterSettings
from .trained import Trained


__all__ = [
    "AdaptedDenoiser",
    "Adapter",
    "AdapterSettings",
    "FullDenoiser",
    "Trained",
    "load_adapter",
    "merge_adapter",
]
