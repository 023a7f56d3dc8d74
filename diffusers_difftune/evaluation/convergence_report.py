# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What `difftune convergence` reports: runs grouped by condition, each group with its threshold, as JSON and as a table."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DiffTuneError
from .convergence import (
    FRACTIONS,
    Crossing,
    Curve,
    broken_rules,
    crossing,
    default_metric,
    final_error,
    read_curve,
    threshold,
)
from .paired import Pair, compare


@dataclass(frozen=True)
class Group:
    """Runs on one kind of condition.

    Attributes:
        condition (`str`): The kind.
        metric (`str`): What the curves are of.
        curves (`list[Curve]`): The runs.
        step0_error (`float`, *optional*): What the threshold is reckoned from; `None` if it was given.
        final_errors (`list[float]`): Final errors of standard training that it is reckoned from.
        threshold (`float`): The threshold.
        threshold_from (`str`): Where it comes from, in words.
    """

    condition: str
    metric: str
    curves: list[Curve]
    step0_error: float | None
    final_errors: list[float]
    threshold: float
    threshold_from: str


def read_groups(
    runs: Sequence[str | Path],
    tuning: Sequence[str | Path] = (),
    metric: str | None = None,
    given_threshold: float | None = None,
) -> list[Group]:
    """Reads runs and finds the threshold of each kind of condition among them.

    Args:
        runs (`Sequence[str]`): Run folders.
        tuning (`Sequence[str]`, *optional*): Run folders of standard training, of other seeds, that the thresholds are
            reckoned from. Without them standard runs among `runs` are taken, and the group says so.
        metric (`str`, *optional*): `"mse"` or `"ssim"`. `None` takes each condition's own.
        given_threshold (`float`, *optional*): The threshold, instead; for one kind of condition.

    Returns:
        `list[Group]`: A group for each kind of condition, in the order of the runs.

    Raises:
        DiffTuneError: A folder has no curve, or there is no threshold to be had.
    """
    curves, tuning_curves = by_condition(runs, metric), by_condition(tuning, metric)
    if given_threshold is not None and len(curves) > 1:
        raise DiffTuneError(
            f"--threshold is for one kind of condition, but the runs have {', '.join(curves)}; name runs of one of them."
        )
    for condition in tuning_curves.keys() - curves.keys():
        raise DiffTuneError(f"There are --tuning runs with the condition {condition}, but no runs with it.")
    return [
        make_group(condition, metric or default_metric(condition), group, tuning_curves, given_threshold)
        for condition, group in curves.items()
    ]


def by_condition(runs: Sequence[str | Path], metric: str | None) -> dict[str, list[Curve]]:
    """The curves of run folders, by kind of condition."""
    folders = [Path(run).resolve() for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if folders.count(folder) > 1:
            raise DiffTuneError(f"{run} is named twice; name each run once.")
    found: dict[str, list[Curve]] = {}
    for curve in (read_curve(run, metric) for run in runs):
        found.setdefault(curve.condition, []).append(curve)
    return found


def make_group(
    condition: str, metric: str, curves: list[Curve], tuning: dict[str, list[Curve]], given_threshold: float | None
) -> Group:
    """A group, with the threshold that was given or that of its tuning runs."""
    if given_threshold is not None:
        if given_threshold <= 0:
            raise DiffTuneError(f"--threshold is an error above 0, not {given_threshold:g}.")
        return Group(condition, metric, curves, None, [], given_threshold, "--threshold")
    references, source = tuning.get(condition, []), "tuning runs"
    for curve in references:
        if curve.objective != "standard":
            raise DiffTuneError(
                f"{curve.run} was trained with --objective {curve.objective}; --tuning takes standard runs."
            )
        same = [other.run for other in curves if other.objective == "standard" and other.seed == curve.seed]
        if same:
            raise DiffTuneError(
                f"{curve.run} has the seed {curve.seed} of {same[0]}; --tuning takes runs of other seeds."
            )
    if not references:
        if any(tuning.values()):
            raise DiffTuneError(
                f"There is no --tuning run with the condition {condition}; name one for every condition."
            )
        references = [curve for curve in curves if curve.objective == "standard"]
        source = "the runs compared"
    if not references:
        raise DiffTuneError(
            f"There is no threshold for {condition}, because no run of standard training is named; name some of other"
            " seeds as --tuning, or give --threshold."
        )
    step0_error = statistics.median(curve.errors[0] for curve in references)
    final_errors = [final_error(curve) for curve in references]
    level = threshold(step0_error, final_errors)
    return Group(condition, metric, curves, step0_error, final_errors, level, source)


def thresholds(group: Group) -> dict[float, float]:
    """The thresholds of the sweep, by how far down they are; none if the threshold was given."""
    if group.step0_error is None:
        return {}
    return {fraction: threshold(group.step0_error, group.final_errors, fraction) for fraction in FRACTIONS}


def pairs(groups: Sequence[Group], fraction: float | None = None) -> list[Pair]:
    """Pairs of runs with the same condition and seed, one of each objective.

    Args:
        groups (`Sequence[Group]`): The groups.
        fraction (`float`, *optional*): The threshold of the sweep to take instead of the group's own.

    Returns:
        `list[Pair]`: The pairs; runs that have no partner, or several (see [`pairing_notes`]), are left out.
    """
    found = []
    for group in groups:
        level = group.threshold if fraction is None else thresholds(group)[fraction]
        for seed, standard, difftune in by_seed(group):
            if len(standard) == len(difftune) == 1:
                found.append(Pair(group.condition, seed, crossing(standard[0], level), crossing(difftune[0], level)))
    return found


def by_seed(group: Group) -> list[tuple[int, list[Curve], list[Curve]]]:
    """Of each seed the runs of standard training and those of Diff-Tuning."""

    def trained(seed: int, objective: str) -> list[Curve]:
        return [curve for curve in group.curves if (curve.seed, curve.objective) == (seed, objective)]

    seeds = sorted({curve.seed for curve in group.curves})
    return [(seed, trained(seed, "standard"), trained(seed, "difftune")) for seed in seeds]


def pairing_notes(group: Group) -> list[str]:
    """Which runs are left out because they have several partners, and which pairs are uneven, a sentence each."""
    found = []
    for seed, standard, difftune in by_seed(group):
        runs = [*standard, *difftune]
        if standard and difftune and len(runs) > 2:
            found.append(
                f"{group.condition}: of seed {seed} there are several runs of one objective, so the comparison leaves out"
                f" {', '.join(curve.run for curve in runs)}; name one of each objective."
            )
        elif standard and difftune and standard[0].budget != difftune[0].budget:
            found.append(
                f"{group.condition}: the runs of seed {seed} have different budgets, {standard[0].budget} steps (standard)"
                f" and {difftune[0].budget} (difftune), so one that never crosses does not count as the other would."
            )
    return found


def report(groups: Sequence[Group]) -> dict[str, Any]:
    """Everything that was found, JSON-able.

    Args:
        groups (`Sequence[Group]`): From [`read_groups`].

    Returns:
        `dict[str, Any]`: `conditions` (metric and threshold of each), `runs` (errors, crossing and sweep of each),
        `comparison` (see [`~diffusers_difftune.evaluation.paired.compare`]; `None` without pairs), `sweep` (the mean
        step reduction by threshold) and `notes` (where the rule was not kept, which runs were left out).
    """
    notes = []
    for group in groups:
        if group.threshold_from == "the runs compared":
            notes.append(f"{group.condition}: threshold taken from the runs compared; name others as --tuning.")
        standard = [curve for curve in group.curves if curve.objective == "standard"]
        notes += [f"{group.condition}: {sentence}" for sentence in broken_rules(standard, group.threshold)]
        notes += pairing_notes(group)
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
        "runs": [run_report(curve, group) for group in groups for curve in group.curves],
        "comparison": compare(paired) if paired else None,
        "sweep": {f"{fraction:g}": point for fraction, point in sweep_report(groups).items()},
        "notes": notes,
    }


def run_report(curve: Curve, group: Group) -> dict[str, Any]:
    """What is found about one run."""
    levels = thresholds(group)
    return {
        "run": curve.run,
        "objective": curve.objective,
        "condition": curve.condition,
        "seed": curve.seed,
        "budget": curve.budget,
        "step0_error": curve.errors[0],
        "final_error": final_error(curve),
        **asdict(crossing(curve, group.threshold)),
        "sweep": {f"{fraction:g}": asdict(crossing(curve, level)) for fraction, level in levels.items()},
    }


def sweep_report(groups: Sequence[Group]) -> dict[float, dict[str, Any]]:
    """The comparison at each threshold of the sweep, by how far down it is; none if a threshold was given.

    Pairs whose standard run is below such a threshold at step 0 are left out.
    """
    found = {}
    for fraction in FRACTIONS if all(group.step0_error is not None for group in groups) else ():
        paired = [pair for pair in pairs(groups, fraction) if pair.standard.step > 0]
        if paired:
            comparison = compare(paired)
            kept = ("mean_step_reduction", "ci95", "never_crossed", "num_pairs")
            found[fraction] = {name: comparison[name] for name in kept}
    return found


def crossing_words(at: Crossing) -> str:
    """A crossing in a table; a run that never crosses is marked."""
    return f"{at.step:,.0f}" if at.crossed else f"never ({at.step:,.0f})"


def table(found: dict[str, Any]) -> str:
    """A report as lines of text: a row per run, then the comparison and the notes."""
    rows = [("run", "objective", "condition", "step-0 error", "final error", "crossing step")]
    for run in found["runs"]:
        errors = (f"{run['step0_error']:.4g}", f"{run['final_error']:.4g}")
        at = crossing_words(Crossing(run["step"], run["crossed"]))
        rows.append((run["run"], run["objective"], run["condition"], *errors, at))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("")
    for condition, facts in found["conditions"].items():
        lines.append(
            f"{condition}: threshold {facts['threshold']:.4g} ({facts['metric']}), taken from {facts['threshold_from']}"
        )
    if found["comparison"]:
        lines += [reduction_words(condition, part) for condition, part in found["comparison"]["conditions"].items()]
        if len(found["comparison"]["conditions"]) > 1:
            lines.append(reduction_words("all conditions", found["comparison"]))
    if found["sweep"]:
        points = ", ".join(
            f"{float(f):.0%}: {100 * p['mean_step_reduction']:.0f} %" for f, p in found["sweep"].items()
        )
        lines.append(f"fewer steps by threshold, from step 0 (0%) to the end of standard training (100%): {points}")
    return "\n".join(lines + [f"note: {note}" for note in found["notes"]])


def reduction_words(name: str, part: dict[str, Any]) -> str:
    """The mean step reduction with its interval, in words."""
    interval = part["ci95"]
    spread = (
        f" (95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
        if interval
        else " (too few pairs or conditions for an interval)"
    )
    return f"{name}: Diff-Tuning needs {100 * part['mean_step_reduction']:.1f} % fewer steps{spread}"
