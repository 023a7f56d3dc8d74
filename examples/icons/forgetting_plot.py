# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of forgetting: losses by noise level, and their change."""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: no global state, no display
from matplotlib.ticker import LogFormatter

from diffusers_difftune.evaluation.forgetting import LossByLevel, relative_increase


# Okabe and Ito's colours, which the colour-blind can tell apart, and a grey; told apart by dashes and markers as well.
STYLES = {
    "pretrained": {"color": "#595959", "linestyle": "--", "linewidth": 1.5},
    "standard": {"color": "#D55E00", "linewidth": 2, "marker": "o", "markersize": 4},
    "difftune": {"color": "#0072B2", "linewidth": 2, "marker": "s", "markersize": 4},
}
NAMES = {"pretrained": "pretrained", "standard": "standard", "difftune": "Diff-Tuning"}


def plot_forgetting(panels: dict[str, dict[str, LossByLevel]], path: str | Path) -> None:
    """Draws the loss by noise level, and below it its change against the pretrained model, of data sets side by side.

    Args:
        panels (`dict`): For each title (which data), the curves of `"pretrained"`, `"standard"` and `"difftune"`, on
            the same rows and levels.
        path (`str` or `Path`): The picture to write; its suffix says of which format.
    """
    figure = Figure(figsize=(8.8, 5.8), dpi=160, layout="constrained")
    axes = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=(1, 1.3))
    for column, (title, curves) in enumerate(panels.items()):
        axes[0, column].set_title(title, fontsize=11, loc="left")
        axes[0, column].set_yscale("log")
        axes[0, column].yaxis.set_major_formatter(LogFormatter())
        axes[0, column].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
        for name, curve in curves.items():
            axes[0, column].plot(curve.heights, curve.mean, **STYLES[name])
            change = 100 * relative_increase(curve, curves["pretrained"])
            axes[1, column].plot(curve.heights, change, **STYLES[name])
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.set_xlim(0, 1.27)  # room for the labels
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    for column, curves in enumerate(panels.values()):
        axes[1, column].set_xlabel("noise level t / T   (0: data, 1: noise)")
        changes = {name: 100 * relative_increase(curve, curves["pretrained"]) for name, curve in curves.items()}
        label_ends(axes[1, column], {name: change[-1].item() for name, change in changes.items()})
    axes[0, 0].set_ylabel("denoising loss")
    axes[1, 0].set_ylabel("change against pretrained, %")
    figure.savefig(path)


def label_ends(axis: Axes, ends: dict[str, float]) -> None:
    """Writes each curve's name at its right end, in its colour, moved apart where they would touch."""
    low, high = axis.get_ylim()
    gap = 0.075 * (high - low)
    names = sorted(ends, key=ends.__getitem__)
    places = torch.tensor([ends[name] for name in names])
    for _ in range(100):
        for i in range(len(places) - 1):
            overlap = gap - (places[i + 1] - places[i])
            if overlap > 0:
                places[i] -= overlap / 2
                places[i + 1] += overlap / 2
    for name, place in zip(names, places.tolist(), strict=True):
        axis.text(1.0, place, NAMES[name], color=STYLES[name]["color"], fontsize=9, va="center")
