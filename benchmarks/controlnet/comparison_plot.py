# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of the comparison: a panel for each kind of condition, and one for other thresholds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comparison import TunedGroup, pairs, sweep_report
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from paired import compare

from diffusers_difftune.evaluation.convergence_plot import COLORS, draw_group, make_panels


OTHER_COLORS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # of Okabe and Ito's, for further methods


def plot_comparison(groups: Sequence[TunedGroup], path: str | Path) -> None:
    """Draws the panels into a PNG, which has their words as `Description` in its metadata."""
    points = sweep_report(groups)
    figure, axes = make_panels(len(groups) + bool(points))
    methods = dict.fromkeys(curve.objective for group in groups for curve in group.curves)
    others = [method for method in methods if method not in COLORS]
    colors = COLORS | dict(zip(others, OTHER_COLORS))
    for axis, group in zip(axes, groups):
        draw_group(axis, group, title(group), colors)
    if points:
        draw_sweep(axes[-1], points)
        if len(groups) > 1:
            saved = compare(pairs(groups))["mean_step_reduction"]
            axes[-1].set_title(f"all: {steps_saved(saved)}; by threshold", fontsize=11, loc="left")
    figure.savefig(path, metadata={"Description": words(figure)})


def words(figure: Figure) -> str:
    """What the panels of a picture say, a line for each."""
    panels = [axis for axis in figure.axes if axis.get_title(loc="left")]
    return "\n".join(
        "; ".join([axis.get_title(loc="left"), *(text.get_text() for text in axis.texts)]) for axis in panels
    )


def title(group: TunedGroup) -> str:
    """The condition, and what the panel says about it."""
    paired = pairs([group])
    if not paired or any(pair.standard.step == 0 for pair in paired):
        return group.condition
    return f"{group.condition}: Diff-Tuning needs {steps_saved(compare(paired)['mean_step_reduction'])}"


def steps_saved(reduction: float) -> str:
    """A step reduction in words."""
    return f"{abs(100 * reduction):.0f} % {'fewer' if reduction >= 0 else 'more'} steps"


def draw_sweep(axis: Axes, points: dict[float, dict[str, Any]]) -> None:
    """The panel that says how much the result depends on the threshold."""
    color = COLORS["difftune"]
    saved = [100 * point["mean_step_reduction"] for point in points.values()]
    axis.set_title("and with other thresholds", fontsize=11, loc="left")
    axis.plot([100 * fraction for fraction in points], saved, color=color, marker="o", markersize=4)
    intervals = [(100 * fraction, *point["ci95"]) for fraction, point in points.items() if point["ci95"]]
    if intervals:
        places = [place for place, _, _ in intervals]
        low, high = ([100 * interval[end] for interval in intervals] for end in (1, 2))
        axis.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
    axis.axhline(0, color="#595959", linewidth=1)
    axis.axvline(50, color="#595959", linewidth=1, linestyle="--")
    axis.text(51, axis.get_ylim()[0], "the rule", color="#595959", fontsize=8, va="bottom")
    axis.set_xlim(0, 100)
    axis.set_xlabel("threshold, % of the way from step 0 to standard's end", fontsize=9)
    axis.set_ylabel("fewer steps with Diff-Tuning, %", fontsize=9)
