# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Two methods compared over pairs of runs that share condition and seed."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.convergence import Crossing


RESAMPLES = 10_000
# With fewer an interval would promise what it cannot keep: of two or three values a bootstrap sees little but their ends.
LEAST_PAIRS = 4
LEAST_CONDITIONS = 3


@dataclass(frozen=True)
class Pair:
    """The crossings of two runs that differ in their objective alone.

    Attributes:
        condition (`str`): Kind of condition of both.
        seed (`int`): Seed of both.
        standard ([`Crossing`]): Of standard training.
        difftune ([`Crossing`]): Of Diff-Tuning.
    """

    condition: str
    seed: int
    standard: Crossing
    difftune: Crossing

    @property
    def reduction(self) -> float:
        """1 − Diff-Tuning's steps / standard's: 0.24 is 24 % fewer steps."""
        if self.standard.step <= 0:
            raise DiffTuneError(
                f"Standard training with {self.condition} and seed {self.seed} is below the threshold at step 0 already;"
                " choose a lower one."
            )
        return 1 - self.difftune.step / self.standard.step


def compare(pairs: Sequence[Pair], seed: int = 0) -> dict[str, Any]:
    """How many steps Diff-Tuning saves, per condition and overall.

    The mean reduction is the mean over conditions of the mean over seeds of [`Pair.reduction`]. Its 95 % interval is the
    percentile interval of a bootstrap in two stages: conditions are drawn with replacement, and for each of those
    drawn its seeds are. With few seeds such an interval is on the narrow side; of too few there is none (see
    [`mean_interval`]).

    Args:
        pairs (`Sequence[Pair]`): The pairs, at least one.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.

    Returns:
        `dict[str, Any]`: `mean_step_reduction`, `ci95` (`[low, high]` or `None`), `num_pairs`, `never_crossed` (how many
        runs of each method), and `conditions`: of each the same over its own seeds, with `standard_steps` and
        `difftune_steps`, medians over seeds, and the `pairs`.

    Raises:
        DiffTuneError: There are no pairs, or one whose standard run needs no steps at all.
    """
    if not pairs:
        raise DiffTuneError(
            "There is nothing to compare: no two runs share condition and seed and differ in objective."
        )
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.condition, []).append(pair)
    reductions = [np.array([pair.reduction for pair in group]) for group in groups.values()]
    return {
        **summary(pairs, reductions, seed),
        "conditions": {
            condition: {
                "standard_steps": statistics.median(pair.standard.step for pair in group),
                "difftune_steps": statistics.median(pair.difftune.step for pair in group),
                **summary(group, [values], seed),
                "pairs": [
                    {
                        "seed": pair.seed,
                        "standard_steps": pair.standard.step,
                        "standard_crossed": pair.standard.crossed,
                        "difftune_steps": pair.difftune.step,
                        "difftune_crossed": pair.difftune.crossed,
                        "step_reduction": pair.reduction,
                    }
                    for pair in group
                ],
            }
            for (condition, group), values in zip(groups.items(), reductions, strict=True)
        },
    }


def summary(pairs: Sequence[Pair], reductions: list[np.ndarray], seed: int) -> dict[str, Any]:
    """The mean reduction with its interval, over conditions that have these reductions."""
    return {
        "mean_step_reduction": float(np.mean([values.mean() for values in reductions])),
        "ci95": mean_interval(reductions, seed),
        "num_pairs": len(pairs),
        "never_crossed": {
            "standard": sum(not pair.standard.crossed for pair in pairs),
            "difftune": sum(not pair.difftune.crossed for pair in pairs),
        },
    }


def mean_interval(groups: list[np.ndarray], seed: int = 0) -> list[float] | None:
    """The 95 % interval of the mean of group means, where there is enough for one.

    Args:
        groups (`list[np.ndarray]`): A value for each pair, by condition (or target set).
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.

    Returns:
        `list[float]` or `None`: Low and high; `None` with fewer than four pairs, or with two conditions, which say
        nothing about others. (One condition speaks for itself alone.)
    """
    if sum(map(len, groups)) < LEAST_PAIRS or 1 < len(groups) < LEAST_CONDITIONS:
        return None
    return bootstrap_interval(groups, seed)


def bootstrap_interval(groups: list[np.ndarray], seed: int, resamples: int = RESAMPLES) -> list[float]:
    """The 95 % percentile interval of the mean of group means, groups and members drawn with replacement."""
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(groups), size=(resamples, len(groups)))
    means = np.empty(chosen.shape)
    for index, values in enumerate(groups):
        drawn = chosen == index
        members = generator.integers(len(values), size=(drawn.sum(), len(values)))
        means[drawn] = values[members].mean(1)
    return np.quantile(means.mean(1), [0.025, 0.975]).tolist()
