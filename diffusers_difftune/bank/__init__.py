# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The knowledge bank: sampling it, its files, reading it back, and the Hub."""
