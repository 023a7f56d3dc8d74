# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What was learned, what was forgotten, and how surely we know."""

# Figures of fewer images say nothing: KID needs random halves of two images, and its floor two sets of that.
FEWEST_IMAGES = 8
