# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune convergence`"""

import argparse
import json
from pathlib import Path

from ..errors import DiffTuneError


CONVERGENCE = """\
After how many steps do ControlNets obey their condition? Reads the condition errors in the training logs of runs, and
finds where each comes down to the threshold. docs/evaluation.md has the rule.
"""


def add_parser(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `convergence`."""
    parser = subcommands.add_parser("convergence", help="when ControlNets came to obey", description=CONVERGENCE)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="Run folders: output_dirs of the ControlNet script.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--threshold", type=float, help="The condition error at which a run counts as converged.")
    source.add_argument(
        "--tuning",
        nargs="+",
        default=[],
        metavar="RUN",
        help="Runs of standard training, of other seeds, whose final errors give the threshold. Default: the standard"
        " runs among those compared.",
    )
    parser.add_argument("--metric", choices=["mse", "ssim"], help="Default: ssim for edges, mse for all else.")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="Draw the curves, into a PNG, PDF or SVG file.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write everything that was found.")
    parser.set_defaults(run=convergence)


def convergence(arguments: argparse.Namespace) -> int:
    """`difftune convergence`"""
    from ..evaluation.convergence_report import read_groups, report, table
    from ..io.atomic import write_bytes_atomic

    for flag in ("plot", "json"):
        file = getattr(arguments, flag)
        if file is not None and not file.resolve().parent.is_dir():
            raise DiffTuneError(f"--{flag} {file} cannot be written, because the folder {file.parent} does not exist.")
    groups = read_groups(arguments.runs, arguments.tuning, arguments.metric, arguments.threshold)
    found = report(groups)
    print(table(found))
    if arguments.json:
        write_bytes_atomic(arguments.json, (json.dumps(found, indent=2) + "\n").encode())
    if arguments.plot:
        plot(groups, arguments.plot)
    return 0


def plot(groups: list, path: Path) -> None:
    """Draws the picture, or says in a sentence why it cannot be drawn."""
    try:
        from ..evaluation.convergence_plot import plot_convergence
    except ImportError as error:
        raise DiffTuneError("--plot needs matplotlib; install it with `pip install matplotlib`.") from error
    try:
        plot_convergence(groups, path)
    except ValueError as error:  # a suffix that matplotlib does not know
        raise DiffTuneError(f"--plot {path} cannot be drawn: {error}") from error
