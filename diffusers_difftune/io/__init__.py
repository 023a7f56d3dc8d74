# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent, remembered hashes, locks, plain JSON, seeded random numbers, and folders of shards. Knows no model."""
