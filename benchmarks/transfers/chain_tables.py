# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of benchmarks/evidence.md on the chain of forgetting, from the reports in `results/chain/`."""

import json
from pathlib import Path
from typing import Any

from benchmarks.jobs import fill
from diffusers_difftune.evaluation.forgetting_summary import PLACES, of_end, standing

from .evidence import DOCUMENT
from .methods import METHODS
from .settings import RESULTS, TARGETS
from .tables import table


CHAIN = RESULTS / "chain"
BEGIN = "<!-- chain figures: begin (written by benchmarks/transfers/chain.py) -->"
END = "<!-- chain figures: end -->"
PICTURES = {
    "chain": "Losses by noise level, swap and distance, {target}, {method}",
    "swapped": "Samples with the last x % of the steps by the source model, {target}, {method}",
}
ENDS = {"data": "last", "noise": "first"}


def read_reports(folder: Path = CHAIN) -> dict[tuple[str, str], dict[str, Any]]:
    """The reports by target set and method, in the order of these."""
    places = {(target, method): folder / f"{target}_{method}.json" for target in TARGETS for method in METHODS}
    return {key: json.loads(file.read_text()) for key, file in places.items() if file.is_file()}


def chain_markdown(reports: dict[tuple[str, str], dict[str, Any]]) -> str:
    """The tables, and the pictures of the set that they began with.

    Args:
        reports (`dict[tuple[str, str], dict]`): What `difftune forgetting` found, by target set and method.
    """
    losses = [
        [f"{name(key)}, {data}", *map(change, (*report["losses"][data]["thirds"].values(), report["losses"][data]))]
        for key, report in reports.items()
        for data in ("source", "target")
    ]
    swaps = [
        [f"{name(key)}, {which}", *map(swapped, of_end(report["swap"], end))]
        for key, report in reports.items()
        for end, which in ENDS.items()
    ]
    distances = [[name(key), *distance(report["distance"])] for key, report in reports.items()]
    percents = next(iter(reports.values()))["settings"]["percents"]
    return "\n\n".join(
        [
            table(["change of the loss on 128 held-out drawings", *PLACES.values(), "mean"], losses),
            table(["FID to the target; steps by the source model", *(f"{p:g} %" for p in percents)], swaps),
            "In bold where KID is clearly farther from the target than at 0 % (two standard errors of the paired difference), in"
            " italics where it is clearly nearer.",
            table(
                ["distance of the weights", "L2, % of their norm", "EWC", "EWC per trained parameter"],
                distances,
            ),
            *pictures(reports),
        ]
    )


def name(key: tuple[str, str]) -> str:
    """What the tables call a model."""
    return f"{key[0]}, {METHODS[key[1]].title}"


def change(found: dict[str, float]) -> str:
    """A change of the loss with its standard error."""
    return f"{100 * found['mean_change']:+.1f} ± {100 * found['mean_change_standard_error']:.1f} %"


def swapped(point: dict[str, Any]) -> str:
    """The FID of a point of the swap curve, marked where KID clearly differs from the fine-tuned model's."""
    mark = {0: "", 1: "**", -1: "*"}[standing(point)]
    return f"{mark}{point['target']['fid']:.1f}{mark}"


def distance(found: dict[str, Any]) -> list[str]:
    """How far the weights went, plain and weighted by the Fisher information."""
    total = found["total"]
    return [
        f"{100 * total['relative_l2']:.1f}",
        f"{total['ewc']:.2e} ± {total['ewc_standard_error']:.0e}",
        f"{found['per_trained_parameter']['ewc']:.1e}",
    ]


def shown(reports: dict[tuple[str, str], dict[str, Any]]) -> list[tuple[str, tuple[str, str]]]:
    """The pictures that the document has, by kind and model: of one set what was found, and samples of its first model,
    which are enough to look at."""
    first = next(iter(reports))
    return [("chain", key) for key in reports if key[0] == first[0]] + [("swapped", first)]


def pictures(reports: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    """These pictures in Markdown."""
    return [
        f"![{PICTURES[kind].format(target=target, method=METHODS[method].title)}](../docs/images/transfers_{kind}_{target}_{method}.png)"
        for kind, (target, method) in shown(reports)
    ]


def write(folder: Path = CHAIN, document: Path = DOCUMENT) -> None:
    """Puts the tables into the document."""
    text = document.read_text(encoding="utf-8")
    document.write_text(fill(text, BEGIN, END, chain_markdown(read_reports(folder))), encoding="utf-8")
