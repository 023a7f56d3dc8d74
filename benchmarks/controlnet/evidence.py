# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""From the runs in results/runs.csv to results/summary.json, the plots and the tables of benchmarks/evidence.md.

python benchmarks/controlnet/run.py --summary
"""

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from comparison import TunedGroup, make_group, report
from jobs import fill
from paired import LEAST_CONDITIONS, LEAST_PAIRS, mean_interval
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from settings import ABLATIONS, DIFFTUNE, FULL, ROOT, TITLES, VARIANTS, result_runs
from table import Table

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.convergence import Curve, default_metric
from diffusers_difftune.io.atomic import write_bytes_atomic


DOCUMENT = ROOT / "benchmarks" / "evidence.md"
IMAGES = ROOT / "docs" / "images"
BEGIN = "<!-- controlnet figures: begin (written by benchmarks/controlnet/run.py) -->"
END = "<!-- controlnet figures: end -->"
# What is forgotten: name, title, factor, digits.
BARE_FIGURES = {
    "top5_of_100": ("true name among the 5 best of 100, %", 100, 1),
    "fid": ("FID", 1, 1),
    "kid": ("KID", 1, 2),
    "drift": ("drift of the images, MSE × 1000", 1000, 2),
    "forgetting": ("denoising loss, change in %", 100, 2),
}


def short_hash(value: Any) -> str:
    """A few digits that tell one JSON-able value from another."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def best_rate(runs: Iterable[dict[str, Any]]) -> float:
    """The learning rate at which standard training has the lowest condition error, on average over all its steps.

    A mean over the whole curve, of logarithms, asks for an early fall and a low end at once, and needs no threshold.

    Args:
        runs (`Iterable[dict]`): Runs of standard training on tuning seeds, at every rate.
    """
    scores = search_scores(list(runs))
    return min(scores, key=scores.__getitem__)


def curve(run: dict[str, Any], metric: str) -> Curve:
    """The condition error of a run."""
    errors = run["condition_error"]
    name = f"{run['condition']}-{run['method']}-seed{run['seed']}"
    held_out = run["settings"]["flags"]["control_evaluation_samples"]
    steps, values = tuple(errors["steps"]), tuple(errors[metric])
    return Curve(name, run["condition"], run["method"], run["seed"], held_out, steps, values)


def find_groups(
    runs: Sequence[dict[str, Any]],
    methods: Sequence[str],
    metric: str | None = None,
    notes: list[str] | None = None,
) -> list[TunedGroup]:
    """The runs of these methods by condition, with the thresholds of the tuning runs; conditions without are left out.

    Args:
        runs (`Sequence[dict]`): All runs at the chosen learning rate.
        methods (`Sequence[str]`): Standard training and others; of two, the second is what the report calls Diff-Tuning.
        metric (`str`, *optional*): What to measure by; `None` is each condition's own.
        notes (`list[str]`, *optional*): Gets a sentence for each condition that has no threshold.
    """
    found = []
    for condition in [kind for kind in FULL.conditions if kind in {run["condition"] for run in runs}]:
        name = metric or default_metric(condition)
        own = [curve(run, name) for run in runs if run["condition"] == condition]
        tuning = [one for one in own if one.objective == "standard" and one.seed in FULL.tuning_seeds]
        seeds = {one.seed for one in own if one.objective == methods[-1]}
        compared = [one for one in own if one.objective in methods and one.seed in seeds]
        if len(methods) == 2:
            compared = [
                replace(one, objective="difftune") if one.objective == methods[-1] else one for one in compared
            ]
        if tuning and compared:
            try:
                # variants are tried on the tuning seeds themselves
                others = [] if seeds & set(FULL.tuning_seeds) else tuning
                found.append(make_group(condition, name, compared, others))
            except DiffTuneError as error:
                if notes is not None:
                    notes.append(f"{condition}: {error}")
    return found


def of_the_result(runs: Sequence[dict[str, Any]], rate: float) -> list[dict[str, Any]]:
    """The runs that the result is of: those at its rate, but what was tried on the tuning seeds; of these only standard
    training stays, which the thresholds come from.

    Args:
        runs (`Sequence[dict]`): All runs.
        rate (`float`): The learning rate of the result.
    """
    at_rate = [run for run in runs if run["learning_rate"] == rate]
    return [run for run in at_rate if run["method"] == "standard" or run["seed"] not in FULL.tuning_seeds]


def summarise(runs: Sequence[dict[str, Any]], pretrained: dict[str, Any], rate: float) -> dict[str, Any]:
    """Everything that benchmarks/evidence.md says.

    Args:
        runs (`Sequence[dict]`): The runs.
        pretrained (`dict`): The figures of the bare model.
        rate (`float`): The learning rate of the result; runs at others are of the search.

    Returns:
        `dict[str, Any]`: The overall `mean_step_reduction` and `ci95`, and the same by condition with `standard_steps` and
        `difftune_steps`; `sweep`, `ablations`, `forgetting`, `search`, and `notes` where the rule was not kept.
    """
    search = [run for run in runs if run["method"] == "standard" and run["seed"] in FULL.tuning_seeds]
    chosen = of_the_result(runs, rate)
    tried = [run for run in runs if run["learning_rate"] == rate and run["seed"] in FULL.tuning_seeds]
    wanted = {(run.condition, run.method, run.seed) for run in result_runs(FULL, rate)}
    missing = wanted - {(run["condition"], run["method"], run["seed"]) for run in chosen}
    notes = [f"{len(missing)} of the {len(wanted)} runs of the result are not there yet."] if missing else []
    groups = find_groups(chosen, ("standard", DIFFTUNE), notes=notes)
    found = report(groups) if groups else {"comparison": None, "conditions": {}, "sweep": {}, "notes": []}
    comparison = found["comparison"] or {"conditions": {}}
    edge = find_groups([run for run in chosen if run["condition"] == "edge"], ("standard", DIFFTUNE), "mse")
    edge_comparison = report(edge)["comparison"] if edge else None
    untouched = find_groups(
        [run for run in chosen if run["condition"] not in FULL.ablation_conditions], ("standard", DIFFTUNE)
    )
    untouched_comparison = report(untouched)["comparison"] if untouched else None
    return {
        "learning_rate": rate,
        **{key: comparison.get(key) for key in ("mean_step_reduction", "ci95", "num_pairs", "never_crossed")},
        "conditions": {
            condition: found["conditions"][condition] | part | {"final_error": final_errors(groups, condition)}
            for condition, part in comparison["conditions"].items()
        },
        "without_part_in_the_choice": untouched_comparison
        and {key: untouched_comparison[key] for key in ("mean_step_reduction", "ci95", "num_pairs")},
        "sweep": found["sweep"],
        "edge_by_mse": edge_comparison and edge_comparison["conditions"]["edge"],
        "ablations": beside_standard(chosen, (DIFFTUNE, *ABLATIONS)),
        "variants": beside_standard(tried, (DIFFTUNE, *VARIANTS)),
        "forgetting": forgetting(chosen, pretrained),
        "search": {f"{one:g}": score for one, score in sorted(search_scores(search).items())},
        "notes": notes + found["notes"],
        "settings": {
            "flags": common([run["settings"]["flags"] for run in chosen if run["method"] == "standard"]),
            "pipelines": sorted({run["settings"]["pipeline"] for run in chosen}),
            "num_runs": len(runs),
            "machines": sorted({run["machine"]["processor"] for run in runs}),
            "commits": sorted({str(run["machine"]["commit"]) for run in runs}),
            "hours": sum(sum(run["seconds"].values()) for run in runs) / 3600,
        },
    }


def final_errors(groups: Sequence[TunedGroup], condition: str) -> dict[str, float]:
    """The median final error of each method."""
    own = [curve for group in groups if group.condition == condition for curve in group.curves]
    return {
        method: statistics.median(curve.final_error for curve in own if curve.objective == method)
        for method in dict.fromkeys(curve.objective for curve in own)
    }


def search_scores(runs: Sequence[dict[str, Any]]) -> dict[float, float]:
    """The geometric mean of the condition error over all steps, on the conditions that every rate was tried on."""
    rates = {run["learning_rate"] for run in runs}
    tried = {rate: {(r["condition"], r["seed"]) for r in runs if r["learning_rate"] == rate} for rate in rates}
    shared = set.intersection(*tried.values()) if tried else set()
    scores: dict[float, list[float]] = {}
    for run in runs:
        if (run["condition"], run["seed"]) in shared:
            errors = run["condition_error"][default_metric(run["condition"])]
            scores.setdefault(run["learning_rate"], []).append(statistics.fmean(map(math.log, errors)))
    return {rate: math.exp(statistics.fmean(values)) for rate, values in scores.items()}


def common(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is the same in all of these settings."""
    first = settings[0] if settings else {}
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in settings)}


def beside_standard(runs: Sequence[dict[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """Each method beside standard training, on the conditions and seeds that there are."""
    found = {}
    for method in methods:
        groups = find_groups(runs, ("standard", method))
        result = report(groups) if groups else None
        if result and result["comparison"]:
            kept = {name: result["comparison"][name] for name in ("mean_step_reduction", "ci95", "num_pairs")}
            by_condition = {
                condition: {name: part[name] for name in ("standard_steps", "difftune_steps", "mean_step_reduction")}
                for condition, part in result["comparison"]["conditions"].items()
            }
            errors = {kind: final_errors(groups, kind)["difftune"] for kind in by_condition}
            found[method] = kept | {"conditions": by_condition, "final_error": errors}
    return found


def forgetting(runs: Sequence[dict[str, Any]], pretrained: dict[str, Any]) -> dict[str, Any]:
    """The bare model's behaviour: before, after each method, and Diff-Tuning minus standard in pairs with its interval."""
    result = [run for run in runs if run["seed"] not in FULL.tuning_seeds]
    methods = {method: [run["bare_model"] for run in result if run["method"] == method] for method in TITLES}
    methods = {method: figures for method, figures in methods.items() if figures}
    return {
        "pretrained": pretrained,
        "methods": {
            method: {"num_runs": len(figures)}
            | {
                name: {
                    "mean": statistics.fmean(one[name] for one in figures),
                    "std": statistics.stdev(one[name] for one in figures) if len(figures) > 1 else None,
                }
                for name in BARE_FIGURES
            }
            for method, figures in methods.items()
        },
        "difference": {name: difference(result, name) for name in BARE_FIGURES},
    }


def difference(runs: Sequence[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """Diff-Tuning minus standard in one figure, over pairs of the same condition and seed."""
    by_place = {(run["condition"], run["seed"], run["method"]): run["bare_model"][name] for run in runs}
    groups: dict[str, list[float]] = {}
    for (condition, seed, method), value in by_place.items():
        if method == DIFFTUNE and (condition, seed, "standard") in by_place:
            groups.setdefault(condition, []).append(value - by_place[condition, seed, "standard"])
    if not groups:
        return None
    values = [np.array(group) for group in groups.values()]
    return {"mean": float(np.mean([group.mean() for group in values])), "ci95": mean_interval(values)}


def markdown(summary: dict[str, Any]) -> str:
    """The tables."""
    parts = [convergence_table(summary)]
    if summary["conditions"]:
        parts.append(
            "Steps are medians over seeds and savings means over pairs, so the two need not agree. Intervals are those of a bootstrap over conditions and seeds; there is none for fewer than"
            f" {LEAST_PAIRS} pairs or {LEAST_CONDITIONS} conditions."
        )
    if summary["sweep"]:
        parts.append(sweep_table(summary["sweep"]))
    if summary["ablations"].keys() & set(ABLATIONS):
        parts.append(variant_table(summary["ablations"]))
    if summary["variants"]:
        seeds = " and ".join(map(str, FULL.tuning_seeds))
        parts.append(f"What was tried to save more steps, on the tuning seeds ({seeds}):")
        parts.append(variant_table(summary["variants"]))
    if summary["forgetting"]["methods"]:
        parts.append(forgetting_table(summary["forgetting"]))
    facts = summary["settings"]
    parts.append(
        f"Learning rate {summary['learning_rate']:g}, {facts['num_runs']} runs, {facts['hours']:.1f} hours of one run at a time, on"
        f" {', '.join(facts['machines']) or 'nothing yet'}."
    )
    parts += [f"**Note.** {note}" for note in summary["notes"]]
    return "\n\n".join(parts)


def percent(part: dict[str, Any]) -> str:
    """A mean step reduction with its interval."""
    interval = part.get("ci95")
    spread = f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    return f"{100 * part['mean_step_reduction']:.1f} %{spread}"


def convergence_table(summary: dict[str, Any]) -> str:
    if not summary["conditions"]:
        return "No pair of runs is finished yet."
    lines = [
        "| condition | error by | threshold | standard, steps | Diff-Tuning, steps | fewer steps (95 %) | never crossed |"
        " final error, standard | Diff-Tuning |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for condition, part in summary["conditions"].items():
        never = part["never_crossed"]
        lines.append(
            f"| {condition} | {'1 − SSIM' if part['metric'] == 'ssim' else 'MSE'} | {part['threshold']:.4g} |"
            f" {part['standard_steps']:.0f} | {part['difftune_steps']:.0f} | {percent(part)} |"
            f" {never['standard']} and {never['difftune']} of {part['num_pairs']} |"
            f" {part['final_error']['standard']:.4g} | {part['final_error']['difftune']:.4g} |"
        )
    never = summary["never_crossed"]
    lines.append(
        f"| **mean** | | | | | **{percent(summary)}** | {never['standard']} and {never['difftune']} of"
        f" {summary['num_pairs']} | | |"
    )
    if summary["without_part_in_the_choice"]:
        part = summary["without_part_in_the_choice"]
        lines.append(
            f"\nThe default condition of source rows was chosen on {' and '.join(FULL.ablation_conditions)}; on the other kinds,"
            f" which had no part in that, {percent(part)} fewer steps."
        )
    if summary["edge_by_mse"]:
        part = summary["edge_by_mse"]
        lines.append(
            f"\nEdges by their MSE: {part['standard_steps']:.0f} and {part['difftune_steps']:.0f} steps, {percent(part)} fewer."
        )
    return "\n".join(lines)


def sweep_table(sweep: dict[str, Any]) -> str:
    head = " | ".join(f"{float(fraction):.0%}" for fraction in sweep)
    row = " | ".join(f"{100 * point['mean_step_reduction']:.0f} %" for point in sweep.values())
    return (
        "Fewer steps with Diff-Tuning, by the threshold: how far down from step 0 to the end of standard training.\n\n"
        f"| {head} |\n|{'---|' * len(sweep)}\n| {row} |"
    )


def variant_table(found: dict[str, Any]) -> str:
    conditions = list(dict.fromkeys(kind for part in found.values() for kind in part["conditions"]))
    lines = [
        f"| variant | {' | '.join(f'{kind}, steps' for kind in conditions)} | fewer steps than standard (95 %) | pairs |",
        f"|---|{'---|' * len(conditions)}---|---|",
    ]
    first = next(iter(found.values()))
    standard = [
        f"{first['conditions'][kind]['standard_steps']:.0f}" if kind in first["conditions"] else ""
        for kind in conditions
    ]
    lines.append(f"| standard | {' | '.join(standard)} | | |")
    for method, part in found.items():
        steps = [
            f"{part['conditions'][kind]['difftune_steps']:.0f}" if kind in part["conditions"] else ""
            for kind in conditions
        ]
        lines.append(f"| {TITLES[method]} | {' | '.join(steps)} | {percent(part)} | {part['num_pairs']} |")
    return "\n".join(lines)


def forgetting_table(found: dict[str, Any]) -> str:
    lines = [
        "| bare model's behaviour (blank condition) | runs | "
        + " | ".join(title for title, _, _ in BARE_FIGURES.values())
        + " |",
        "|---|---|" + "---|" * len(BARE_FIGURES),
    ]
    pretrained = found["pretrained"]
    cells = [
        f"{factor * pretrained[name]:.{digits}f}" if name in pretrained else f"{0:.{digits}f}"
        for name, (_, factor, digits) in BARE_FIGURES.items()
    ]
    lines.append(f"| before training | | {' | '.join(cells)} |")
    for method, figures in found["methods"].items():
        cells = [spread(figures[name]["mean"], figures[name]["std"], *form[1:]) for name, form in BARE_FIGURES.items()]
        lines.append(f"| {TITLES[method]} | {figures['num_runs']} | {' | '.join(cells)} |")
    if any(found["difference"].values()):
        cells = []
        for name, (_, factor, digits) in BARE_FIGURES.items():
            part = found["difference"][name]
            ends = part["ci95"] and [f"{factor * end:+.{digits}f}" for end in part["ci95"]]
            cells.append(f"{factor * part['mean']:+.{digits}f}" + (f" ({ends[0]} to {ends[1]})" if ends else ""))
        lines.append(f"| Diff-Tuning − standard (95 %) | | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(mean: float, deviation: float | None, factor: float, digits: int) -> str:
    """A mean with the standard deviation over runs."""
    around = "" if deviation is None else f" ± {factor * deviation:.{digits}f}"
    return f"{factor * mean:.{digits}f}{around}"


def write(output: Path, rate: float, is_evidence: bool) -> dict[str, Any]:
    """Writes the summary and the plots; and benchmarks/evidence.md, if these are the results it speaks of."""
    runs = list(Table(output / "runs.csv").read().values())
    pretrained = json.loads((output / "pretrained.json").read_text())
    summary = summarise(runs, pretrained, rate)
    write_bytes_atomic(output / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    plots = draw(output, of_the_result(runs, rate))
    if is_evidence:
        IMAGES.mkdir(parents=True, exist_ok=True)
        for plot in plots:
            picture = Image.open(plot)
            words = PngInfo()
            words.add_text("Description", picture.text["Description"])  # what it says, for those who read files
            small = picture.convert("RGB").quantize(48)  # of few colours, a third of the bytes
            small.save(IMAGES / f"evidence_controlnet_{plot.name}", optimize=True, pnginfo=words)
            plot.unlink()
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(fill(text, BEGIN, END, document(summary, plots)), encoding="utf-8")
    return summary


def draw(output: Path, runs: Sequence[dict[str, Any]]) -> list[Path]:
    """The plots of the comparison and of the ablations, as far as there are runs of the result (see [`of_the_result`])."""
    from comparison_plot import plot_comparison  # imports matplotlib

    plots = {"convergence.png": find_groups(runs, ("standard", DIFFTUNE))}
    own = [run for run in runs if run["condition"] in FULL.ablation_conditions]
    has_ablations = any(run["method"] in ABLATIONS for run in own)
    plots["ablations.png"] = find_groups(own, ("standard", *ABLATIONS, DIFFTUNE)) if has_ablations else []
    for name, groups in plots.items():
        if groups:
            plot_comparison(groups, output / name)
    return [output / name for name, groups in plots.items() if groups]


def document(summary: dict[str, Any], plots: Sequence[Path]) -> str:
    """What stands between the markers of benchmarks/evidence.md."""
    pictures = "\n\n".join(
        f"![{plot.stem} of ControlNets](../docs/images/evidence_controlnet_{plot.name})" for plot in plots
    )
    return f"{markdown(summary)}\n\n{pictures}".strip()
