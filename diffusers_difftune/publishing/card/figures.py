# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The model card's figures: where on the noise scale each loss looks, and how the losses went."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)
FOLDER = "figures"
TITLES = {
    "noise_levels.png": "The weight of each loss by noise level",
    "losses.png": "The losses while it trained",
}
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, which the colour-blind can tell apart
FEWEST_STEPS = 2  # a curve has two points


def drawn_figures(folder: Path) -> dict[str, str]:
    """The figures in a run folder, as the card names them, by what they show."""
    return {title: f"{FOLDER}/{name}" for name, title in TITLES.items() if (folder / FOLDER / name).is_file()}


def draw_figures(folder: Path, facts: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
    """Draws what can be drawn of a run from its flags and the lines of its log; nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display
    except ImportError:
        logger.info("The model card has no figures, because matplotlib is not installed.")
        return
    wanted: dict[str, Callable[[Axes], None]] = {}
    if facts.get("objective") == "difftune":
        wanted["noise_levels.png"] = lambda axes: noise_levels(axes, facts)
    if sum(line.get("loss") is not None for line in log) >= FEWEST_STEPS:
        wanted["losses.png"] = lambda axes: losses(axes, log)
    for name, draw in wanted.items():
        figure = Figure(figsize=(6.4, 3.2), dpi=120, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False)
        (folder / FOLDER).mkdir(exist_ok=True)
        # Without the program's name and version, so that the same figures have the same bytes.
        figure.savefig(folder / FOLDER / name, metadata={"Software": None})


def noise_levels(axes: "Axes", facts: Mapping[str, Any]) -> None:
    """ψ and ξ over the noise level, as `--reconsolidation_power` and `--retention_power` have them."""
    p, q = float(facts.get("reconsolidation_power", 1.0)), float(facts.get("retention_power", 1.0))
    level = [i / 100 for i in range(101)]
    label = f"ψ(t) = t{power(p)}: reconsolidation, of the new images"
    axes.plot(level, [t**p for t in level], color=BLUE, label=label)
    if facts.get("source_share", 0) > 0:
        label = f"ξ(t) = (1 − t){power(q)}: retention, of the base model's samples"
        axes.plot(level, [(1 - t) ** q for t in level], color=ORANGE, linestyle="--", label=label)
    axes.set_xlabel("noise level t   (0: data, 1: noise)")
    axes.set_ylim(0, 1.35)  # room for the names


def power(exponent: float) -> str:
    """An exponent behind its base, 1 being none."""
    return "" if exponent == 1 else f"^{exponent:g}"


def losses(axes: "Axes", log: Sequence[Mapping[str, Any]]) -> None:
    """The losses by step, faint, and their running means."""
    kinds = {"loss_reconsolidation": ("reconsolidation", BLUE), "loss_retention": ("retention", ORANGE)}
    for name, (label, colour) in kinds.items():
        points = [(line["step"], line[name]) for line in log if line.get(name) is not None]
        if not any(value for _, value in points):  # a run without source rows
            continue
        steps, values = zip(*points, strict=True)
        window = max(10, len(values) // 40)  # a step of a small batch may have no source rows
        sums = [0.0]
        for value in values:
            sums.append(sums[-1] + value)
        means = [(sums[i] - sums[max(0, i - window)]) / min(i, window) for i in range(1, len(sums))]
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, means, color=colour, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
