# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The version, on its own so that packaging can read it without importing anything."""

__version__ = "0.1.0.dev0"
