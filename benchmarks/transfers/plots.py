# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The plots of benchmarks/evidence.md, from the summary."""

from pathlib import Path
from typing import Any

from .methods import METHODS
from .tables import table_methods


COLOURS = {
    "standard": "#6e7781",
    "retention": "#bf8700",
    "reconsolidation": "#8250df",
    "difftune": "#0969da",
    "weighted": "#54aeff",
}


def draw(summary: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Draws what there are figures for; returns the files by title."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = {}
    if summary["targets"]:
        plots["FID of every target set by method"] = fid_bars(summary, folder / "transfers_fid.png")
    if summary["stage_3"].get("curves"):
        plots["FID against training step"] = curves(summary["stage_3"], folder / "transfers_steps.png")
    return plots


def fid_bars(summary: dict[str, Any], path: Path) -> Path:
    """A group of bars per target set, the floor and what the autoencoder makes of real drawings lines across it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    targets = summary["targets"]
    methods = [method for method in table_methods(summary) if method in COLOURS]
    figure, axes = pyplot.subplots(figsize=(11, 4.2), layout="constrained")
    width = 0.8 / max(len(methods), 1)
    for place, part in enumerate(targets.values()):
        for offset, method in enumerate(methods):
            if method not in part["methods"]:
                continue
            fid = part["methods"][method]["fid"]
            left = place - 0.4 + offset * width
            label = METHODS[method].title if place == 0 else None
            axes.bar(left, fid["mean"], width, yerr=fid["std"] or 0, align="edge", color=COLOURS[method], label=label)
        floor = {"color": "#1f2328", "linewidth": 1.5, "linestyle": ":"}
        axes.hlines(
            part["fid_floor"], place - 0.4, place + 0.4, label="real drawings" if place == 0 else None, **floor
        )
        alone = "the same through the autoencoder" if place == 0 else None
        axes.hlines(part["autoencoder"]["fid"], place - 0.4, place + 0.4, label=alone, **floor | {"linestyle": "--"})
    axes.set_xticks(range(len(targets)), list(targets), rotation=20, ha="right")
    axes.set_ylabel("FID (lower is better)")
    figure.legend(loc="outside upper center", frameon=False, ncols=6, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def curves(found: dict[str, Any], path: Path) -> Path:
    """FID over training steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for method, points in found["curves"].items():
        steps, values = [int(step) for step in points], [point["fid"] for point in points.values()]
        spreads = [value["std"] or 0 for value in values]
        axes.errorbar(
            steps, [value["mean"] for value in values], spreads, color=COLOURS[method], marker="o", capsize=3,
            label=METHODS[method].title,
        )  # fmt: skip
    axes.set_xlabel("training step")
    axes.set_ylabel(f"FID on {found['target']}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def save(figure, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path
