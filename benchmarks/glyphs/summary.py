# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of the plan, of measured runs: the tuning, and the comparison with standard fine-tuning on the targets."""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from . import plan
from .frontier import FIGURES, AtAccuracy, compared, mean_difference, winner
from .measure import rounded
from .methods import FACTORIAL, STANDARD
from .plan import Run, Runs
from .scripts import TUNING_TARGETS
from .settings import LARGE, SMALL


WHOLE = (
    "target recognised",
    "source recognised",
    "drift",
    "copied",
    "loss of source letters",
    "loss of source letters, null class",
    "loss of target letters",
    "loss of target letters, null class",
)  # figures of a run without a blend that stand beside the primary ones


def tuning_of(found: Runs) -> dict[str, Any]:
    """What was chosen for every method, and the scores by which the winner was.

    Args:
        found (`Mapping[str, Mapping[str, Any]]`): All runs of the tuning, by their names.
    """
    chosen, scores = plan.settings(found), plan.scores(found)
    table = {}
    for method, setting in chosen.items():
        runs = [
            plan.tuning_run(method, target, images, setting) for images in (LARGE, SMALL) for target in TUNING_TARGETS
        ]
        places = [at_equal_accuracy(found, run, chosen[STANDARD]) for run in runs]
        table[method] = dataclasses.asdict(setting) | mean_figures(places)
    best = winner(scores)
    return rounded({"winner": best, "departures": FACTORIAL[best].departures, "methods": table})


def summary_of(found: Runs, runs: Sequence[Run]) -> dict[str, Any]:
    """The primary figures and tests of each regime, with the secondary figures beside them.

    Args:
        found (`Mapping[str, Mapping[str, Any]]`): Measured runs by their names, those of `runs` and of the tuning.
        runs (`Sequence[Run]`): What to compare; a run without its run of standard fine-tuning is left out.
    """
    standard = plan.settings(found)[STANDARD]
    summary: dict[str, Any] = {}
    for images in (LARGE, SMALL):
        places: dict[str, dict[str, list[AtAccuracy]]] = defaultdict(lambda: defaultdict(list))
        differences: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(
            lambda: {name: defaultdict(list) for name in FIGURES}
        )
        whole: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for run in runs:
            reference = standard_run(run, standard)
            if run.images != images or reference.name not in found:
                continue
            place, own = (compared(found[one.name], found[reference.name]) for one in (run, reference))
            places[run.method][run.target].append(place)
            whole[run.method].append(found[run.name]["by_alpha"]["1"])
            for name in FIGURES:
                differences[run.method][name][run.target].append(place.figures[name] - own.figures[name])
        summary[f"{images} images"] = {
            method: mean_figures([place for of_target in by_target.values() for place in of_target])
            | {"less standard": {name: mean_difference(of) for name, of in differences[method].items()}}
            | {"without a blend": {name: mean_of(whole[method], name) for name in WHOLE}}
            for method, by_target in places.items()
        }
        for figures in summary[f"{images} images"].values():
            own = summary[f"{images} images"][STANDARD]
            figures["times standard"] = {name: figures[name] / own[name] if own[name] else None for name in FIGURES}
    return rounded(summary)


def standard_run(run: Run, setting: plan.Setting) -> Run:
    """The run of standard fine-tuning on the same target, images and seed."""
    return dataclasses.replace(run, method=STANDARD, rate=setting.rate, strength=None)


def at_equal_accuracy(found: Runs, run: Run, standard: plan.Setting) -> AtAccuracy:
    """A run where it is as accurate as standard fine-tuning of the same target, images and seed."""
    return compared(found[run.name], found[standard_run(run, standard).name])


def mean_figures(places: Sequence[AtAccuracy]) -> dict[str, Any]:
    """Means over runs, and how many of them do not reach the accuracy."""
    short = [place.short_by for place in places if place.alpha is None]
    return {
        **{name: statistics.fmean(place.figures[name] for place in places) for name in FIGURES},
        "runs": len(places),
        "not as accurate": len(short),
        "short by": statistics.fmean(short) if short else 0.0,
    }


def mean_of(figures: Sequence[dict[str, Any]], name: str) -> Any:
    """The mean of a figure of runs, near the data for a loss."""
    values = [one[name]["near"] if isinstance(one[name], dict) else one[name] for one in figures]
    return statistics.fmean(values)
