# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""One file per model family; everything that differs between families lives there and nowhere else."""

from .auto import family_of, family_of_pipeline, load_backbone, pipeline_folder
from .base import Backbone


__all__ = ["Backbone", "family_of", "family_of_pipeline", "load_backbone", "pipeline_folder"]
