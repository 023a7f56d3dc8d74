# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Opens what a flag names as target data: one file a layout, and what of a folder is read and what is not."""
