# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Images: decoding, value ranges, colour profiles, and the check that they can be used."""
