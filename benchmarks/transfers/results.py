# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The runs of the transfer benchmark: `runs.csv`, in which a row is a model that was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import Table


def runs_table(output: Path, pending: Path | None = None) -> Table:
    """The table of runs in a folder of results."""
    return Table(output / "runs.csv", pending, levels=("step", "weights"))


def with_quality(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run with its `quality`: what was measured at its end; `None` where both weights, or several steps, were compared."""
    kinds = run["settings"]["weights"]
    last = run["by_step"][str(run["recipe"]["steps"])]
    return {**run, "quality": last[kinds[0]] if len(kinds) == 1 else None}
