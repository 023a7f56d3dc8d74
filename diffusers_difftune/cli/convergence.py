# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune convergence`"""

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DiffTuneError


if TYPE_CHECKING:
    from ..evaluation.convergence import Curve, Group

CONVERGENCE = """\
After how many steps do ControlNets obey their condition? Reads the condition errors in the training logs of runs, and
finds where each comes down to the threshold. docs/evaluation.md has the rule.
"""


def add_parser(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `convergence`."""
    parser = subcommands.add_parser("convergence", help="when ControlNets came to obey", description=CONVERGENCE)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="Run folders: output_dirs of the ControlNet script.")
    parser.add_argument(
        "--threshold",
        type=float,
        help="The condition error at which a run counts as converged. Default: halfway, on a log scale, from step 0 to the"
        " end of the standard runs.",
    )
    parser.add_argument("--metric", choices=["mse", "ssim"], help="Default: ssim for edges, mse for all else.")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="Draw the curves, into a PNG, PDF or SVG file.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write everything that was found.")
    parser.set_defaults(run=convergence)


def convergence(arguments: argparse.Namespace) -> int:
    """`difftune convergence`"""
    from ..io.atomic import write_bytes_atomic

    for flag in ("plot", "json"):
        file = getattr(arguments, flag)
        if file is not None and not file.resolve().parent.is_dir():
            raise DiffTuneError(f"--{flag} {file} cannot be written, because the folder {file.parent} does not exist.")
    groups = read_groups(arguments.runs, arguments.metric, arguments.threshold)
    found = report(groups)
    print(table(found))
    if arguments.json:
        write_bytes_atomic(arguments.json, (json.dumps(found, indent=2) + "\n").encode())
    if arguments.plot:
        from ..evaluation.convergence_plot import plot_convergence

        try:
            plot_convergence(groups, arguments.plot)
        except ValueError as error:  # a suffix that matplotlib does not know
            raise DiffTuneError(f"--plot {arguments.plot} cannot be drawn: {error}") from error
    return 0


def read_groups(runs: list[str], metric: str | None, threshold: float | None) -> "list[Group]":
    """The runs by kind of condition, each kind with its threshold."""
    from ..evaluation.convergence import Group, default_metric, read_curve

    folders = [Path(run).resolve() for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if folders.count(folder) > 1:
            raise DiffTuneError(f"{run} is named twice; name each run once.")
    curves = [read_curve(run, metric) for run in runs]
    conditions = list(dict.fromkeys(curve.condition for curve in curves))
    if threshold is not None and threshold <= 0:
        raise DiffTuneError(f"--threshold is an error above 0, not {threshold:g}.")
    if threshold is not None and len(conditions) > 1:
        raise DiffTuneError(
            f"--threshold is for one kind of condition, but the runs have {', '.join(conditions)}; name runs of one of"
            " them."
        )
    groups = []
    for condition in conditions:
        own = [curve for curve in curves if curve.condition == condition]
        level = standard_threshold(condition, own) if threshold is None else threshold
        groups.append(Group(condition, metric or default_metric(condition), own, level))
    return groups


def standard_threshold(condition: str, curves: "list[Curve]") -> float:
    """The threshold by the standard runs among these."""
    from ..evaluation.convergence import threshold

    standard = [curve for curve in curves if curve.objective == "standard"]
    if not standard:
        raise DiffTuneError(
            f"There is no threshold for {condition}, because no run of standard training is named; name one, or give"
            " --threshold."
        )
    step0_error = statistics.median(curve.errors[0] for curve in standard)
    return threshold(step0_error, [curve.final_error for curve in standard])


def report(groups: "list[Group]") -> dict[str, Any]:
    """Everything that was found: `runs` and `conditions` with their figures, and `notes` where the rule was not kept."""
    from ..evaluation.convergence import broken_rules, crossing

    runs, conditions, notes = [], {}, []
    for group in groups:
        own = [
            asdict(curve) | {"final_error": curve.final_error} | asdict(crossing(curve, group.threshold))
            for curve in group.curves
        ]
        objectives = dict.fromkeys(run["objective"] for run in own)
        conditions[group.condition] = {
            "metric": group.metric,
            "threshold": group.threshold,
            "median_steps": {
                each: statistics.median(run["step"] for run in own if run["objective"] == each) for each in objectives
            },
        }
        standard = [curve for curve in group.curves if curve.objective == "standard"]
        notes += [f"{group.condition}: {sentence}" for sentence in broken_rules(standard, group.threshold)]
        runs += own
    return {"conditions": conditions, "runs": runs, "notes": notes}


def table(found: dict[str, Any]) -> str:
    """A report as lines of text: a row for each run, a line for each kind of condition, and the notes."""
    rows = [("run", "objective", "condition", "step-0 error", "final error", "crossing step")]
    for run in found["runs"]:
        errors = (f"{run['errors'][0]:.4g}", f"{run['final_error']:.4g}")
        at = f"{run['step']:,.0f}" if run["crossed"] else f"never ({run['step']:,.0f})"
        rows.append((run["run"], run["objective"], run["condition"], *errors, at))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("")
    for condition, facts in found["conditions"].items():
        steps = facts["median_steps"]
        medians = ", ".join(f"{objective} {step:,.0f} steps" for objective, step in steps.items())
        saved = ""
        if steps.get("standard") and "difftune" in steps:
            reduction = 100 * (1 - steps["difftune"] / steps["standard"])
            saved = f" ({abs(reduction):.0f} % {'fewer' if reduction >= 0 else 'more'} with Diff-Tuning)"
        lines.append(
            f"{condition}: threshold {facts['threshold']:.4g} ({facts['metric']}); median of {medians}{saved}"
        )
    return "\n".join(lines + [f"note: {note}" for note in found["notes"]])
