# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The 27 methods of the plan: a factorial of 24, and standard fine-tuning, L2-SP and ψ without retention beside it."""

import itertools
from dataclasses import dataclass, field
from typing import Any


SOURCE_SHARE = 0.2
STRENGTHS = (
    0.003,
    0.01,
    0.03,
)  # of L2-SP: the part of the way back to the source weights that a step at the full rate goes

# The levels of each factor, and their flags. The first of each is Diff-Tuning as published.
CONDITIONS = {"null": {"retention_prompts": "empty"}, "own": {"retention_prompts": "sampled"}}
SOURCE_LEVELS = {"low": {"retention_power": 1.0}, "all": {"retention_power": 0.0}}
WEIGHTS = {f"w{weight:g}": {"retention_weight": weight} for weight in (0.1, 0.3, 1.0)}
TARGET_LEVELS = {"psi": {"reconsolidation_power": 1.0}, "flat": {"reconsolidation_power": 0.0}}
FACTORS = (CONDITIONS, SOURCE_LEVELS, WEIGHTS, TARGET_LEVELS)


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        flags (`dict[str, Any]`): What it sets of the training script's flags.
        departures (`int`, *optional*): In how many factors it differs from Diff-Tuning as published.
        pulls (`bool`): Whether it is L2-SP, which has a strength.
    """

    flags: dict[str, Any] = field(default_factory=dict)
    departures: int | None = None
    pulls: bool = False

    @property
    def needs_bank(self) -> bool:
        """Whether it trains on samples of the source model."""
        return bool(self.flags.get("source_share"))


def factorial() -> dict[str, Method]:
    """The 24 combinations, by names such as `null-low-w0.1-psi`."""
    found = {}
    for levels in itertools.product(*FACTORS):
        flags = {"source_share": SOURCE_SHARE, "coefficients": "sampled"}
        for factor, level in zip(FACTORS, levels):
            flags |= factor[level]
        departures = sum(level != next(iter(factor)) for factor, level in zip(FACTORS, levels))
        found["-".join(levels)] = Method(flags, departures)
    return found


STANDARD, L2SP, PSI_ALONE = "standard", "l2sp", "psi-alone"
PUBLISHED, PRIOR_PRESERVATION = "null-low-w0.1-psi", "own-all-w1-flat"
FACTORIAL = factorial()
METHODS = {
    STANDARD: Method({"objective": "standard"}),
    L2SP: Method({"objective": "standard"}, pulls=True),
    PSI_ALONE: Method({"source_share": 0.0, "reconsolidation_power": 1.0}),
    **FACTORIAL,
}
