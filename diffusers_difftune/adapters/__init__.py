# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters: PEFT's layers and parameter subsets, their files, and loading and merging them."""

from .adapter import Adapter
from .loading import load_adapter, merge_adapter
from .settings import AdapterSettings


__all__ = [
    "Adapter",
    "AdapterSettings",
    "load_adapter",
    "merge_adapter",
]
