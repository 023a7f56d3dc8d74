# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The flags: dataclasses, and how a command line and a YAML file become one of them."""
