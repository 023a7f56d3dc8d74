# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""From the runs in `results/runs.csv` to `results/summary.json`.

Gains are relative to standard fine-tuning of the same target set and seed: 1 − FID / FID of standard, so that 0.26 is an FID
that is 26 % lower.
"""

import json
import math
import shutil
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import fill
from benchmarks.paired import mean_interval
from diffusers_difftune.io.atomic import write_bytes_atomic

from .choose import adapter_scores, best_adapter_rates, recipe_scores
from .methods import ADAPTERS, MAIN, METHODS, VARIANTS, VARIED, WEIGHTED
from .results import runs_table, with_quality
from .settings import ROOT, STAGE_2_TARGETS, TUNING_TARGET, Recipe, Size
from .splits import SOURCE


DOCUMENT = ROOT / "benchmarks" / "evidence.md"
README = ROOT / "README.md"
IMAGES = ROOT / "docs" / "images"
BEGIN = "<!-- transfer figures: begin (written by benchmarks/transfers/run.py) -->"
END = "<!-- transfer figures: end -->"
README_BEGIN = "<!-- transfers: begin (written by benchmarks/transfers/run.py) -->"
README_END = "<!-- transfers: end -->"
FIGURES = ("fid", "kid", "precision", "recall")
# The 97.5 % points of Student's t, by degrees of freedom.
STUDENT = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}
LOSSES = ("loss_train", "loss_held_out", "loss_source")  # see generality.py
FACTS = ("num_train", "num_held_out", "num_generated", "num_floor", "num_features", "fid_floor", "kid_floor")


def summarise(
    runs: Sequence[dict[str, Any]], pretrained: dict[str, Any], recipe: Recipe, size: Size
) -> dict[str, Any]:
    """Everything that benchmarks/evidence.md says.

    Args:
        runs (`Sequence[dict]`): The runs, of whatever stages, each with its `quality`.
        pretrained (`dict`): The figures of the source model.
        recipe ([`Recipe`]): The recipe of the result.
        size ([`Size`]): How much was run.

    Returns:
        `dict[str, Any]`: Of Diff-Tuning against standard fine-tuning `mean_relative_gain`, `gain_of_averages`, `ci95` and
        `num_pairs`, and the same `over_floor` and `over_autoencoder`; `gains`, the same for every method of stage 1;
        `weighted_elsewhere`, see [`weighted_elsewhere`]; `targets`, for each its floor, what the autoencoder alone scores, the source model's figures and by method mean and
        standard deviation over seeds; `other_recipes`, `stage_2`, `stage_3`, `tuning` and `settings`.
    """
    alone = {name: {figure: found[figure] for figure in FIGURES} for name, found in pretrained["autoencoder"].items()}
    result = [with_autoencoder(run, alone[run["target"]]) for run in runs if run["target"] != TUNING_TARGET]
    tuning = [run for run in runs if run["target"] == TUNING_TARGET]
    chosen = [run for run in result if run["recipe"] == vars(recipe) and len(run["by_step"]) == 1]
    stage_1 = [run for run in chosen if run["method"] in MAIN | WEIGHTED]
    adapters = [run for run in tuning if run["method"] in ADAPTERS]
    gains = main_gains(stage_1)
    return {
        "recipe": vars(recipe),
        **(gains.get("difftune") or dict.fromkeys(("mean_relative_gain", "gain_of_averages", "ci95"))),
        "gains": gains,
        "weighted_elsewhere": weighted_elsewhere(stage_1),
        "targets": {
            target: target_figures([run for run in stage_1 if run["target"] == target], pretrained["sets"].get(target))
            | {"autoencoder": alone[target]}
            for target in dict.fromkeys(run["target"] for run in stage_1 if run["method"] in MAIN)
        },
        SOURCE: pretrained["sets"][SOURCE] | {"autoencoder": alone[SOURCE]},
        "other_recipes": other_recipes(result, recipe),
        "stage_2": stage_2(result, stage_1, best_adapter_rates(adapters), pretrained["sets"]),
        "stage_3": stage_3(result, stage_1, recipe),
        "tuning": tuning_figures(tuning),
        "settings": facts(runs, chosen, size),
    }


def with_autoencoder(run: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    """A run with what held-out drawings score that were only encoded and decoded; a run over several steps as it is."""
    return run | {"quality": run["quality"] and run["quality"] | {"fid_autoencoder": alone["fid"]}}


def main_gains(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What every method of the table gains over standard fine-tuning, as far as there are pairs of runs."""
    gains = {method: relative_gain(runs, method) for method in MAIN | WEIGHTED if method != "standard"}
    return {method: found for method, found in gains.items() if found}


def weighted_elsewhere(runs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What weighted losses gain on the sets that had no part in the decision to run them on all.

    Args:
        runs (`Sequence[dict]`): Those of the table.

    Returns:
        `dict` or `None`: `mean_relative_gain`, its 95 % interval `t95` by Student's t over the means of the sets, `targets`,
        `num_pairs` and `better`; `None` where there are fewer than three sets.
    """
    found = relative_gain([run for run in runs if run["target"] not in STAGE_2_TARGETS], "weighted")
    means = list(found["by_target"].values()) if found else []
    if len(means) - 1 not in STUDENT:
        return None
    reach = STUDENT[len(means) - 1] * statistics.stdev(means) / math.sqrt(len(means))
    mean = found["mean_relative_gain"]
    kept = {name: found[name] for name in ("mean_relative_gain", "num_pairs", "better")}
    return kept | {"t95": [mean - reach, mean + reach], "targets": list(found["by_target"])}


def other_recipes(runs: Sequence[dict[str, Any]], recipe: Recipe) -> list[dict[str, Any]]:
    """Runs of stage 1 with recipes that were given up for this one."""
    own = [run for run in runs if run["method"] in MAIN and len(run["by_step"]) == 1 and run["recipe"] != vars(recipe)]
    given_up = {json.dumps(run["recipe"]): run["recipe"] for run in own}.values()
    return [{"recipe": one, "gains": main_gains([run for run in own if run["recipe"] == one])} for one in given_up]


def relative_gain(runs: Sequence[dict[str, Any]], method: str, base: str = "standard") -> dict[str, Any] | None:
    """How much lower the FID of a method is than that of another, over pairs of runs of equal target set and seed.

    The mean is that over targets of the mean over seeds; its 95 % interval is the percentile interval of a bootstrap that
    draws targets, and for each its seeds.

    Args:
        runs (`Sequence[dict]`): The runs, of these methods and others.
        method (`str`): A method.
        base (`str`, *optional*, defaults to `"standard"`): What it is compared with.

    Returns:
        `dict` or `None`: `mean_relative_gain`, `gain_of_averages`, `ci95`, `num_pairs`, `by_target`, `better` (pairs in
        which the method has the lower FID), the same `over_floor` and `over_autoencoder`, and `kid_difference`; `None`
        without pairs.
    """
    pairs = paired(runs, method, base)
    if not pairs:
        return None
    found = gain_of(pairs, lambda quality: quality["fid"])
    differences = [np.array([own["kid"] - other["kid"] for own, other in group]) for group in pairs.values()]
    return found | {
        "better": sum(own["fid"] < other["fid"] for group in pairs.values() for own, other in group),
        "over_floor": gain_of(pairs, lambda quality: quality["fid"] - quality["fid_floor"]),
        "over_autoencoder": gain_of(pairs, lambda quality: quality["fid"] - quality["fid_autoencoder"]),
        "kid_difference": {"mean": mean_of_means(differences), "ci95": mean_interval(differences)},
    }


def paired(
    runs: Sequence[dict[str, Any]], method: str, base: str
) -> dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]:
    """The figures of both methods, by target."""
    by_place = {(run["target"], run["seed"], run["method"]): run["quality"] for run in runs}
    pairs = defaultdict(list)
    for (target, seed, name), quality in sorted(by_place.items(), key=lambda item: item[0]):
        if name == method and (target, seed, base) in by_place:
            pairs[target].append((quality, by_place[target, seed, base]))
    return dict(pairs)


def gain_of(pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]], fid) -> dict[str, Any]:
    """Relative gains in one kind of FID."""
    groups = {target: np.array([1 - fid(own) / fid(base) for own, base in group]) for target, group in pairs.items()}
    own, base = (
        float(np.mean([np.mean([fid(pair[side]) for pair in group]) for group in pairs.values()])) for side in (0, 1)
    )
    values = list(groups.values())
    return {
        "mean_relative_gain": mean_of_means(values),
        "gain_of_averages": 1 - own / base,
        "ci95": mean_interval(values),
        "num_pairs": sum(map(len, values)),
        "by_target": {target: float(group.mean()) for target, group in groups.items()},
    }


def mean_of_means(groups: Sequence[np.ndarray]) -> float:
    return float(np.mean([group.mean() for group in groups]))


def target_figures(runs: Sequence[dict[str, Any]], pretrained: dict[str, Any] | None) -> dict[str, Any]:
    """A target set: what its figures rest on, the source model without tuning, and every method."""
    first = runs[0]["quality"]
    return {name: first[name] for name in FACTS} | {
        "pretrained": pretrained and {name: pretrained[name] for name in (*FIGURES, *LOSSES)},
        "methods": by_method(runs),
    }


def by_method(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds."""
    found = {}
    for method in [name for name in METHODS if name in {run["method"] for run in runs}]:
        own = [run["quality"] for run in runs if run["method"] == method]
        found[method] = {"num_seeds": len(own)} | {
            name: spread([one[name] for one in own]) for name in (*FIGURES, *LOSSES, "copied")
        }
    return found


def spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def stage_2(
    runs: Sequence[dict[str, Any]],
    stage_1: Sequence[dict[str, Any]],
    rates: dict[str, float],
    untuned: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Variants and adapters on the targets of stage 2, beside standard and Diff-Tuning on the same.

    Args:
        runs (`Sequence[dict]`): The runs that are not of the tuning set.
        stage_1 (`Sequence[dict]`): Those of the table.
        rates (`dict[str, float]`): The learning rates that were chosen for the adapters.
        untuned (`dict[str, dict]`): The source model's figures by target.
    """
    own = [run for run in runs if run["method"] in VARIANTS and run["target"] in STAGE_2_TARGETS]
    if not own:
        return {}
    targets = [target for target in STAGE_2_TARGETS if any(run["target"] == target for run in own)]
    beside = [run for run in stage_1 if run["target"] in targets and run["method"] in ("standard", "difftune")]
    variants = [run for run in own if not METHODS[run["method"]].adapter]
    together = variants + beside
    return {
        "targets": targets,
        "pretrained": {target: untuned.get(target) for target in targets},
        "variants": {
            method: {
                "targets": by_target([run for run in together if run["method"] == method]),
                "gain": relative_gain(together, method) if method != "standard" else None,
            }
            for method in ("standard", "difftune", *VARIANTS)
            if any(run["method"] == method for run in together)
        },
        "adapters": [
            adapter_figures([run for run in own if METHODS[run["method"]].adapter == kind], kind, rate, beside)
            | {"chosen": rates.get(kind) == rate}
            for kind in ADAPTERS
            for rate in sorted({r["recipe"]["learning_rate"] for r in own if METHODS[r["method"]].adapter == kind})
        ],
    }


def adapter_figures(
    runs: Sequence[dict[str, Any]], kind: str, rate: float, beside: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """An adapter with a learning rate: alone, with Diff-Tuning, and the gain of one over the other."""
    own = [run for run in runs if run["recipe"]["learning_rate"] == rate]
    methods = [method for method in (kind, f"{kind}-difftune") if any(run["method"] == method for run in own)]
    return {
        "adapter": kind,
        "learning_rate": rate,
        "methods": {
            method: {
                "targets": by_target([run for run in own if run["method"] == method]),
                "gain": relative_gain([*own, *beside], method),
            }
            for method in methods
        },
        "gain_of_difftune": relative_gain(own, f"{kind}-difftune", kind),
    }


def by_target(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The figures of one method by target."""
    return {
        target: next(iter(by_method([run for run in runs if run["target"] == target]).values()))
        for target in dict.fromkeys(run["target"] for run in runs)
    }


def stage_3(runs: Sequence[dict[str, Any]], stage_1: Sequence[dict[str, Any]], recipe: Recipe) -> dict[str, Any]:
    """Sensitivity to every setting, and the curves over training steps."""
    varied = [run for run in runs if run["method"] in VARIED]
    curves = [run for run in runs if len(run["by_step"]) > 1]
    if not varied and not curves:
        return {}
    target = (varied + curves)[0]["target"]
    seeds = {run["seed"] for run in varied + curves}
    beside = [run for run in stage_1 if run["target"] == target and run["seed"] in seeds]
    weights = "ema" if recipe.use_ema else "raw"
    return {
        "target": target,
        "methods": by_method(varied + beside),
        "curves": {
            method: {
                step: {
                    name: spread([run["by_step"][step][weights][name] for run in curves if run["method"] == method])
                    for name in ("fid", "kid")
                }
                for step in curves[0]["by_step"]
            }
            for method in dict.fromkeys(run["method"] for run in curves)
        },
    }


def tuning_figures(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was tried on the tuning target, as means over seeds."""
    searched = [run for run in runs if run["method"] == "standard"]
    tried = [{**vars(recipe), **scores} for recipe, scores in recipe_scores(searched).items()]
    adapters = adapter_scores([run for run in runs if run["method"] in ADAPTERS])
    return {
        "target": TUNING_TARGET,
        "seeds": sorted({run["seed"] for run in searched}),
        "tried": sorted(tried, key=lambda one: one["fid"]),
        "adapters": {
            kind: [{"learning_rate": rate, **scores} for rate, scores in rates.items()]
            for kind, rates in adapters.items()
        },
    }


def facts(runs: Sequence[dict[str, Any]], chosen: Sequence[dict[str, Any]], size: Size) -> dict[str, Any]:
    """What all figures have in common, and what they cost."""
    standard = [run for run in chosen if run["method"] == "standard"]
    flags = [run["settings"]["flags"] for run in standard]
    shared = {
        name: value for name, value in (flags[0] if flags else {}).items() if all(f.get(name) == value for f in flags)
    }
    return {
        "flags": shared,
        "sampling": standard[0]["settings"]["sampling"] if standard else None,
        "bank": [size.bank_samples, size.bank_steps],
        "target_images_seen": {run["method"]: run["target_images_seen"] for run in chosen},
        "sources": sorted({run["settings"]["source"] for run in runs}),
        "num_runs": len(runs),
        "machines": sorted({run["machine"]["processor"] for run in runs}),
        "commits": sorted({str(run["machine"]["commit"]) for run in runs}),
        "hours": sum(sum(run["seconds"].values()) for run in runs) / 3600,
        "longest_minutes": max((sum(run["seconds"].values()) / 60 for run in chosen), default=None),
    }


def write(output: Path, recipe: Recipe, size: Size, is_evidence: bool) -> dict[str, Any]:
    """Writes the summary and the plots; and benchmarks/evidence.md and README.md, if these are the results they speak of."""
    from .plots import draw
    from .tables import in_short, markdown

    runs = list(map(with_quality, runs_table(output).read().values()))
    pretrained = json.loads((output / "pretrained.json").read_text())
    summary = summarise(runs, pretrained, recipe, size)
    write_bytes_atomic(output / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    plots = draw(summary, IMAGES if is_evidence else output)
    if is_evidence:
        picture = IMAGES / "transfers_source.png"
        shutil.copy(output / "source_samples.png", picture)
        plots = {"Samples of the source model": picture} | plots
        pictures = "\n\n".join(f"![{title}](../docs/images/{plot.name})" for title, plot in plots.items())
        text = DOCUMENT.read_text(encoding="utf-8")
        figures = f"{markdown(summary)}\n\n{pictures}".strip()
        DOCUMENT.write_text(fill(text, BEGIN, END, figures), encoding="utf-8")
        text = README.read_text(encoding="utf-8")
        README.write_text(fill(text, README_BEGIN, README_END, in_short(summary)), encoding="utf-8")
    return summary
