# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Standard training and Diff-Tuning by kind of condition: thresholds from tuning runs, pairs of runs, and the sweep of thresholds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paired import Pair, compare

from diffusers_difftune.evaluation.convergence import Curve, Group, broken_rules, crossing, threshold


FRACTIONS = tuple(tenth / 10 for tenth in range(1, 10))


@dataclass(frozen=True)
class TunedGroup(Group):
    """A group whose threshold comes from standard training.

    Attributes:
        step0_error (`float`): What the threshold is reckoned from.
        final_errors (`list[float]`): Final errors of standard training that it is reckoned from.
        threshold_from (`str`): Where it comes from, in words.
    """

    step0_error: float
    final_errors: list[float]
    threshold_from: str

    @property
    def sweep(self) -> dict[float, float]:
        """The thresholds of the sweep, by how far down they are."""
        return {fraction: threshold(self.step0_error, self.final_errors, fraction) for fraction in FRACTIONS}


def make_group(condition: str, metric: str, curves: list[Curve], tuning: list[Curve]) -> TunedGroup:
    """A group with the threshold of its tuning runs, or, without any, of the standard runs among those compared.

    Raises:
        DiffTuneError: Standard training did not bring the error down.
    """
    references = tuning or [curve for curve in curves if curve.objective == "standard"]
    step0_error = statistics.median(curve.errors[0] for curve in references)
    final_errors = [curve.final_error for curve in references]
    source = "tuning runs" if tuning else "the runs compared"
    level = threshold(step0_error, final_errors)
    return TunedGroup(condition, metric, curves, level, step0_error, final_errors, source)


def pairs(groups: Sequence[TunedGroup], fraction: float | None = None) -> list[Pair]:
    """Pairs of runs with the same condition and seed, one of each objective; runs without a partner are left out.

    Args:
        groups (`Sequence[TunedGroup]`): The groups.
        fraction (`float`, *optional*): The threshold of the sweep to take instead of the group's own.
    """
    found = []
    for group in groups:
        level = group.threshold if fraction is None else group.sweep[fraction]
        runs = {(curve.seed, curve.objective): curve for curve in group.curves}
        for seed in sorted({curve.seed for curve in group.curves}):
            if (seed, "standard") in runs and (seed, "difftune") in runs:
                steps = [crossing(runs[seed, objective], level) for objective in ("standard", "difftune")]
                found.append(Pair(group.condition, seed, *steps))
    return found


def report(groups: Sequence[TunedGroup]) -> dict[str, Any]:
    """Everything that was found, JSON-able.

    Returns:
        `dict[str, Any]`: `conditions` (metric and threshold of each), `comparison` (see [`~paired.compare`]; `None` without pairs),
        `sweep` (the mean step reduction by threshold) and `notes` (where the rule was not kept).
    """
    notes = []
    for group in groups:
        if group.threshold_from == "the runs compared":
            notes.append(f"{group.condition}: threshold taken from the runs compared.")
        standard = [curve for curve in group.curves if curve.objective == "standard"]
        notes += [f"{group.condition}: {sentence}" for sentence in broken_rules(standard, group.threshold)]
    paired = pairs(groups)
    return {
        "conditions": {
            group.condition: {
                "metric": group.metric,
                "threshold": group.threshold,
                "threshold_from": group.threshold_from,
                "step0_error": group.step0_error,
                "final_errors": group.final_errors,
            }
            for group in groups
        },
        "comparison": compare(paired) if paired else None,
        "sweep": {f"{fraction:g}": point for fraction, point in sweep_report(groups).items()},
        "notes": notes,
    }


def sweep_report(groups: Sequence[TunedGroup]) -> dict[float, dict[str, Any]]:
    """The comparison at each threshold of the sweep, by how far down it is.

    Pairs whose standard run is below such a threshold at step 0 are left out.
    """
    found = {}
    for fraction in FRACTIONS:
        paired = [pair for pair in pairs(groups, fraction) if pair.standard.step > 0]
        if paired:
            comparison = compare(paired)
            kept = ("mean_step_reduction", "ci95", "never_crossed", "num_pairs")
            found[fraction] = {name: comparison[name] for name in kept}
    return found
