# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The training scripts. In the package they are `diffusers_difftune.scripts`: that folder is a link to this one."""
