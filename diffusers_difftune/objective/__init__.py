# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Diff-Tuning itself: clean latents in, two losses out. Knows torch and diffusers' schedulers only."""

from .noise_levels import NoiseLevels
from .objective import DiffTuningLoss, DiffTuningObjective, NoiseDraws, NoisyBatch


__all__ = ["DiffTuningLoss", "DiffTuningObjective", "NoiseDraws", "NoiseLevels", "NoisyBatch"]
