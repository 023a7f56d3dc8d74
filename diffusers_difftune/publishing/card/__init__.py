# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The model card: what was tuned on what with which objective and figures, pictures, code, and metadata for the Hub."""

from .card import OF_THE_BANK, model_card
from .run import inherited_license, renew_card, run_card, write_run_card


__all__ = ["OF_THE_BANK", "inherited_license", "model_card", "renew_card", "run_card", "write_run_card"]
