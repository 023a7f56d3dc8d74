# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What the plan's figures are, of measured runs: frontiers, equal accuracy, the choice of rates, the winner, the test."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from benchmarks.glyphs.methods import FACTORIAL


EQUAL = 0.95  # of standard fine-tuning's accuracy
AS_GOOD = 0.02  # two methods whose share of recognised samples differs by less are one to the choice of the winner
FIGURES = ("source recognised", "drift")


@dataclass(frozen=True)
class AtAccuracy:
    """A run where it is as accurate as is asked for.

    Attributes:
        figures (`dict[str, float]`): The share of source samples that are recognised, and the drift.
        alpha (`float`, *optional*): Where on the frontier that is; `None` if the run does not reach the accuracy and the
            figures are those of standard fine-tuning.
        short_by (`float`): How far the run falls short of the accuracy.
    """

    figures: dict[str, float]
    alpha: float | None
    short_by: float = 0.0


def wanted_accuracy(standard: Mapping[str, Any]) -> float:
    """Equal accuracy: 95 % of what the run of standard fine-tuning has without a blend."""
    return EQUAL * standard["by_alpha"]["1"]["target recognised"]


def at_accuracy(run: Mapping[str, Any], accuracy: float) -> AtAccuracy | None:
    """A run's figures where its accuracy is `accuracy`, between two neighbouring blends or at the smallest one.

    Args:
        run (`Mapping[str, Any]`): A measured run.
        accuracy (`float`): The share of target samples that must be recognised.

    Returns:
        [`AtAccuracy`]: `None` if no blend reaches it.
    """
    frontier = sorted((float(alpha), found) for alpha, found in run["by_alpha"].items())
    below: tuple[float, Mapping[str, float]] | None = None
    for alpha, found in frontier:
        if found["target recognised"] >= accuracy:
            if below is None:  # already the smallest blend does
                return AtAccuracy({name: found[name] for name in FIGURES}, alpha)
            first, before = below
            step = accuracy - before["target recognised"]
            part = step / (found["target recognised"] - before["target recognised"])
            figures = {name: before[name] + part * (found[name] - before[name]) for name in FIGURES}
            return AtAccuracy(figures, first + part * (alpha - first))
        below = (alpha, found)
    return None


def compared(run: Mapping[str, Any], standard: Mapping[str, Any]) -> AtAccuracy:
    """A run at equal accuracy with standard fine-tuning on the same target, images and seed.

    A run that does not reach it counts as standard fine-tuning there, and says how far it falls short.
    """
    accuracy = wanted_accuracy(standard)
    if found := at_accuracy(run, accuracy):
        return found
    own = at_accuracy(standard, accuracy)
    assert own is not None  # it reaches 95 % of its own accuracy
    best = max(found["target recognised"] for found in run["by_alpha"].values())
    return AtAccuracy(own.figures, None, accuracy - best)


def best_standard_rate(runs: Mapping[float, Mapping[str, Any]]) -> float:
    """The rate of standard fine-tuning, of runs by their rates: that of the highest accuracy."""
    return max(runs, key=lambda rate: runs[rate]["by_alpha"]["1"]["target recognised"])


def best_setting(runs: Mapping[float, Mapping[str, Any]], standard: Mapping[str, Any]) -> float:
    """The rate (or strength) of a method, of runs by it: that of the most recognised source samples at equal accuracy."""
    return max(runs, key=lambda setting: compared(runs[setting], standard).figures["source recognised"])


def winner(scores: Mapping[str, float]) -> str:
    """The best of the factorial.

    Args:
        scores (`Mapping[str, float]`): The share of source samples recognised at equal accuracy, a mean over tuning targets
            and regimes, of every method of the factorial.
    """
    best = max(scores.values())
    good = [name for name in scores if name in FACTORIAL and scores[name] >= best - AS_GOOD]
    return min(good, key=lambda name: (FACTORIAL[name].departures, -scores[name]))


def mean_difference(of_target: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The primary test: a mean over seeds for each target, then over targets, with a 95 % t-interval.

    Args:
        of_target (`Mapping[str, Sequence[float]]`): Of every target, the difference from standard fine-tuning of each seed.
    """
    means = [statistics.fmean(values) for values in of_target.values()]
    mean = statistics.fmean(means)
    if len(means) < 2:
        return {"mean": mean, "ci95": None, "targets": len(means)}
    half = stats.t.ppf(0.975, len(means) - 1) * statistics.stdev(means) / len(means) ** 0.5
    return {"mean": mean, "ci95": [mean - half, mean + half], "targets": len(means)}
