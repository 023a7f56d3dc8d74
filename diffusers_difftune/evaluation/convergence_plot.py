# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of convergence: the condition error of each run, and where it crosses the threshold."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from .convergence import Curve, crossing, smooth
from .convergence_report import Group, pairs, sweep_report
from .paired import compare
from .plots import NAMES, STYLES


METRICS = {"mse": "condition error (MSE)", "ssim": "condition error (1 − SSIM)"}
OTHER_COLORS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # of Okabe and Ito's, for further methods


def plot_convergence(groups: Sequence[Group], path: str | Path) -> None:
    """Draws a panel for each kind of condition: the smoothed curves, the threshold, and where they come down to it.

    Args:
        groups (`Sequence[Group]`): From [`~diffusers_difftune.evaluation.convergence_report.read_groups`].
        path (`str` or `Path`): The picture to write; its suffix says of which format. A PNG has its words as
            `Description` in its metadata.
    """
    points = sweep_report(groups)
    panels = len(groups) + bool(points)
    columns = 3 if panels > 4 else min(panels, 2)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(max(6.6, 4.4 * columns), 3.9 * rows), dpi=160, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    methods = list(dict.fromkeys(curve.objective for group in groups for curve in group.curves))
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axis_off()
    for axis, group in zip(axes.flat, groups, strict=False):
        axis.set_axis_on()
        draw_group(axis, group, method_colors(methods))
    if points:
        axes.flat[len(groups)].set_axis_on()
        draw_sweep(axes.flat[len(groups)], points)
        if len(groups) > 1:
            saved = compare(pairs(groups))["mean_step_reduction"]
            axes.flat[len(groups)].set_title(f"all: {steps_saved(saved)}; by threshold", fontsize=11, loc="left")
    is_png = Path(path).suffix.lower() == ".png"
    figure.savefig(path, metadata={"Description": words(figure)} if is_png else None)


def words(figure: Figure) -> str:
    """What the panels of a picture say, a line for each."""
    panels = [axis for axis in figure.axes if axis.get_title(loc="left")]
    return "\n".join(
        "; ".join([axis.get_title(loc="left"), *(text.get_text() for text in axis.texts)]) for axis in panels
    )


def draw_sweep(axis: Axes, points: dict[float, dict[str, Any]]) -> None:
    """The panel that says how much the result depends on the threshold."""
    saved = [100 * point["mean_step_reduction"] for point in points.values()]
    axis.set_title("and with other thresholds", fontsize=11, loc="left")
    axis.plot(
        [100 * fraction for fraction in points], saved, color=STYLES["difftune"]["color"], marker="o", markersize=4
    )
    intervals = [(100 * fraction, *point["ci95"]) for fraction, point in points.items() if point["ci95"]]
    if intervals:
        places = [place for place, _, _ in intervals]
        low, high = ([100 * interval[end] for interval in intervals] for end in (1, 2))
        axis.fill_between(places, low, high, color=STYLES["difftune"]["color"], alpha=0.15, linewidth=0)
    axis.axhline(0, color="#595959", linewidth=1)
    axis.axvline(50, color="#595959", linewidth=1, linestyle="--")
    axis.text(51, axis.get_ylim()[0], "the rule", color="#595959", fontsize=8, va="bottom")
    axis.set_xlim(0, 100)
    axis.set_xlabel("threshold, % of the way from step 0 to standard's end", fontsize=9)
    axis.set_ylabel("fewer steps with Diff-Tuning, %", fontsize=9)


def method_colors(methods: Sequence[str]) -> dict[str, str]:
    """A colour for each method; the two objectives have theirs in every picture."""
    others = [method for method in methods if method not in STYLES]
    return {method: str(STYLES[method]["color"]) for method in methods if method in STYLES} | {
        method: OTHER_COLORS[index % len(OTHER_COLORS)] for index, method in enumerate(others)
    }


def draw_group(axis: Axes, group: Group, colors: dict[str, str]) -> None:
    """One panel."""
    axis.set_title(title(group), fontsize=11, loc="left")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(LogLocator(subs=(1,)))
    axis.set_ylabel(METRICS[group.metric], fontsize=9)
    axis.set_xlabel("optimiser steps", fontsize=9)
    for curve in group.curves:
        axis.plot(curve.steps, curve.errors, color=colors[curve.objective], alpha=0.18, linewidth=0.8)
        axis.plot(curve.steps, smooth(curve.errors), color=colors[curve.objective], linewidth=1.5)
    end = max(curve.budget for curve in group.curves)
    axis.set_xlim(0, end)
    axis.axhline(group.threshold, color="#595959", linewidth=1, linestyle="--")
    axis.set_ylim(axis.get_ylim())  # as the curves want it; nothing drawn below moves it
    axis.annotate(
        f"threshold {group.threshold:.3g}", (end, group.threshold), xytext=(0, 3), textcoords="offset points",
        ha="right", color="#595959", fontsize=8,
    )  # fmt: skip
    for place, (method, curves) in enumerate(by_method(group.curves).items()):
        mark_crossings(axis, curves, group.threshold, colors[method], NAMES.get(method, method), place)


def title(group: Group) -> str:
    """The condition, and what the panel says about it."""
    paired = pairs([group])
    if not paired or any(pair.standard.step == 0 for pair in paired):
        return group.condition
    return f"{group.condition}: Diff-Tuning needs {steps_saved(compare(paired)['mean_step_reduction'])}"


def steps_saved(reduction: float) -> str:
    """A step reduction in words."""
    return f"{abs(100 * reduction):.0f} % {'fewer' if reduction >= 0 else 'more'} steps"


def by_method(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Curves by their objective, standard training first."""
    found: dict[str, list[Curve]] = {}
    for curve in sorted(curves, key=lambda curve: curve.objective != "standard"):
        found.setdefault(curve.objective, []).append(curve)
    return found


def mark_crossings(axis: Axes, curves: Sequence[Curve], threshold: float, color: str, name: str, place: int) -> None:
    """Dots where the curves of one method cross, a line down from their median, and the method's name with that step."""
    crossings = [crossing(curve, threshold) for curve in curves]
    median = statistics.median(at.step for at in crossings)
    crossed = [at.step for at in crossings if at.crossed]
    axis.plot(crossed, [threshold] * len(crossed), "o", color=color, markersize=5, zorder=3, clip_on=False)
    axis.plot([median, median], [threshold, axis.get_ylim()[0]], color=color, linewidth=1, linestyle=":")
    never = len(crossings) - len(crossed)
    words = f"{name}: {median:,.0f} steps" + (f" ({never} of {len(crossings)} never crossed)" if never else "")
    axis.text(
        0.98,
        0.97 - 0.07 * place,
        words,
        color=color,
        fontsize=9,
        ha="right",
        va="top",
        transform=axis.transAxes,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )
