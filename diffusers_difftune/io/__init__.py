# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent, remembered hashes, locks, plain JSON, and seeded random numbers. Knows no model."""
