# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of the chain of forgetting, drawn from the figures that go into its JSON file."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: no global state, no display
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .forgetting_summary import CLEAR, metric_of, of_end


# Okabe and Ito's colours, which the colour-blind can tell apart; told apart by dashes and markers as well.
DATA, NOISE, GREY, LIGHT = "#0072B2", "#D55E00", "#595959", "#e4e4e4"
WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # behind words, so that no line goes through them
ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "data": ("the last x %  (data end)", {"color": DATA, "linewidth": 2, "marker": "o", "markersize": 4}),
    "noise": (
        "the first x %  (noise end)",
        {"color": NOISE, "linewidth": 2, "linestyle": "--", "marker": "s", "markersize": 4},
    ),
}
MOST_BLOCKS = 14


def plot_chain(report: dict[str, Any], path: str | Path) -> None:
    """Draws what changed at which noise level, the two swap curves, and how far each block went, from a report as
    `difftune forgetting` writes it."""
    figure = Figure(figsize=(10.4, 7.6), dpi=120, layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.1))
    (loss, swap), (blocks, difference) = figure.subplots(2, 2)
    draw_losses(loss, report["losses"])
    draw_swap(swap, report["swap"])
    draw_blocks(blocks, report["distance"])
    draw_difference(difference, report["swap"])
    for axis in (loss, swap, difference):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color=LIGHT, linewidth=0.8)
        axis.set_axisbelow(True)
    figure.savefig(path)


def draw_losses(axis: Axes, losses: dict[str, Any]) -> None:
    """How the denoising loss changed, by noise level, on source and on target data."""
    axis.set_title("What was forgotten, and what was learned", fontsize=11, loc="left")
    axis.axhline(0, color=GREY, linewidth=1)
    for name, color, marker in (("source", NOISE, "o"), ("target", DATA, "s")):
        found = losses[name]
        label = f"on {name} data, {100 * found['mean_change']:+.1f} % on average".replace("-", "−")
        change, error = (100 * np.array(found[key]) for key in ("change", "change_standard_error"))
        levels = found["noise_level"]
        axis.fill_between(levels, change - CLEAR * error, change + CLEAR * error, color=color, alpha=0.18, linewidth=0)
        axis.plot(levels, change, color=color, linewidth=2, marker=marker, markersize=4, label=label)
    axis.legend(fontsize=8.5, frameon=False)
    axis.set_xlim(0, 1)
    axis.set_xlabel("noise level t / T   (0: data, 1: noise)", fontsize=9)
    axis.set_ylabel("change of the denoising loss, %", fontsize=9)


def draw_swap(axis: Axes, swap: dict[str, Any]) -> None:
    """The two swap curves against target images, with the floor of real images."""
    name, metric = metric_of(swap)
    axis.set_title(f"Swapping steps: {name} to the target images", fontsize=11, loc="left")
    for end, (label, style) in ENDS.items():
        points = of_end(swap, end)
        values = [point["target"][metric] for point in points]
        axis.plot([point["percent"] for point in points], values, label=label, **style)
    draw_floor(axis, swap["target_floor"][metric])
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    axis.legend(fontsize=8.5, frameon=False, loc="upper left", handlelength=2.8)
    axis.set_ylabel(f"{name} (lower is nearer)", fontsize=9)
    label_parts(axis)


def draw_difference(axis: Axes, swap: dict[str, Any]) -> None:
    """The two curves as differences to the fine-tuned model, which the same noise makes sure of."""
    axis.set_title("The same by KID, against the fine-tuned model", fontsize=11, loc="left")
    axis.axhline(0, color=GREY, linewidth=1)
    for end, (_, style) in ENDS.items():
        points = of_end(swap, end)
        places = [point["percent"] for point in points]
        difference, error = (
            np.array([point[key] for point in points]) for key in ("kid_difference", "kid_difference_standard_error")
        )
        low, high = difference - CLEAR * error, difference + CLEAR * error
        axis.fill_between(places, low, high, color=style["color"], alpha=0.16, linewidth=0)
        axis.plot(places, difference, **style)
    low, high = axis.get_ylim()
    axis.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))  # room for the words
    corner: dict[str, Any] = {"transform": axis.transAxes, "fontsize": 8.5, "color": GREY, "bbox": WHITE}
    axis.text(0.01, 0.98, "↑ farther from the target", va="top", **corner)
    axis.text(0.01, 0.02, "↓ nearer to the target     bands: 2 standard errors, paired", va="bottom", **corner)
    axis.set_ylabel("difference of KID", fontsize=9)
    label_parts(axis)


def label_parts(axis: Axes) -> None:
    """The axis of x."""
    axis.set_xlim(-3, 103)
    axis.set_xticks([0, 20, 40, 60, 80, 100], ["0\nfine-tuned", "20", "40", "60", "80", "100\npretrained"], fontsize=9)
    axis.set_xlabel("x: part of the steps that the pretrained model makes, %", fontsize=9)


def draw_blocks(axis: Axes, distance: dict[str, Any]) -> None:
    """How far each block went, and how much of what was known hangs on it."""
    axis.set_title("How far the weights went, by block", fontsize=11, loc="left")
    chosen = shown_blocks(distance["blocks"])
    places = np.arange(len(chosen))[::-1]  # the first block on top
    far = [100 * block["relative_l2"] for block in chosen.values()]
    total = distance["total"]["ewc"]
    share = [100 * block["ewc"] / total if total else 0.0 for block in chosen.values()]
    axis.barh(places + 0.2, far, height=0.36, color=DATA, label="L2, % of the block's norm")
    axis.set_yticks(places, list(chosen), fontsize=8.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlabel("L2 distance, % of the block's norm", color=DATA, fontsize=9)
    axis.tick_params(axis="x", colors=DATA)
    other = axis.twiny()
    other.barh(places - 0.2, share, height=0.36, color=NOISE)
    other.set_xlabel("share of the Fisher-weighted distance (EWC), %", color=NOISE, fontsize=9)
    other.tick_params(axis="x", colors=NOISE)
    other.spines[["right", "bottom"]].set_visible(False)


def shown_blocks(blocks: dict[str, Any]) -> dict[str, Any]:
    """The blocks that went anywhere; of very many those that weigh most, in the denoiser's order."""
    moved = {name: block for name, block in blocks.items() if block["num_changed"]}
    heaviest = sorted(moved, key=lambda name: moved[name]["ewc"], reverse=True)[:MOST_BLOCKS]
    return {name: block for name, block in moved.items() if name in heaviest}


def draw_floor(axis: Axes, floor: float | None) -> None:
    """What real images have among themselves: a line, or words where a line would press the curves flat."""
    low, high = axis.get_ylim()
    if floor is None:
        return
    if low - floor < 0.6 * (high - low):
        axis.axhline(floor, color=GREY, linewidth=1.2, linestyle=":", label="real images among themselves")
        return
    axis.set_ylim(low - 0.12 * (high - low), high)
    words = f"↓ real images among themselves: {floor:.3g}"
    axis.text(0.01, 0.02, words, transform=axis.transAxes, va="bottom", fontsize=8.5, color=GREY, bbox=WHITE)
