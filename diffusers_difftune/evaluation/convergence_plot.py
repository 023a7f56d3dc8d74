# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of convergence: the condition error of each run, and where it crosses the threshold."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from .convergence import Curve, Group, crossing, smooth


METRICS = {"mse": "condition error (MSE)", "ssim": "condition error (1 − SSIM)"}
# Okabe and Ito's, which the colour-blind can tell apart.
COLORS = {"standard": "#D55E00", "difftune": "#0072B2"}
NAMES = {"difftune": "Diff-Tuning"}


def plot_convergence(groups: Sequence[Group], path: str | Path) -> None:
    """Draws a panel for each kind of condition, into a file whose suffix says of which format: the smoothed curves, the
    threshold, and where they come down to it."""
    figure, axes = make_panels(len(groups))
    for axis, group in zip(axes, groups, strict=True):
        draw_group(axis, group, group.condition)
    figure.savefig(path)


def make_panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, and these."""
    columns = 3 if count > 4 else min(count, 2)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(6.6, 4.4 * columns), 3.9 * rows), dpi=160, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def draw_group(axis: Axes, group: Group, title: str, colors: Mapping[str, str] = COLORS) -> None:
    """One panel, with a colour for each objective."""
    axis.set_title(title, fontsize=11, loc="left")
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
    methods = sorted({curve.objective for curve in group.curves}, key=list(colors).index)
    for place, method in enumerate(methods):
        curves = [curve for curve in group.curves if curve.objective == method]
        mark_crossings(axis, curves, group.threshold, colors[method], NAMES.get(method, method), place)


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
