# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The learning rate and the number of steps of the demo: a search with the same budget for both methods.

Every learning rate is tried with standard fine-tuning and with Diff-Tuning from the same seeds, on a target that is not
the demo's. With a constant rate one run is measured at every number of steps; a decaying one takes a run for each.

**How the choice is made**, settled before anything was run: by *standard* fine-tuning alone. The schedule, rate and number
of steps with the lowest KID to the held-out target drawings, the mean over the seeds, are taken for both methods, so that
the choice does not favour ours. Diff-Tuning's own best by the same rule is printed beside it.

    python benchmarks/recipe.py --estimate
    python benchmarks/recipe.py --seeds 1 & python benchmarks/recipe.py --seeds 2 & wait; python benchmarks/recipe.py
    python benchmarks/recipe.py --lr_schedulers constant cosine
"""

import argparse
import statistics
from itertools import product

from runs import TARGETS, MeasuredRun, add_arguments, make_runs


METHODS = (
    {"objective": "standard"},
    {"objective": "difftune", "retention_prompts": "sampled", "bank_guidance_scale": 1.0},
)
FIGURES = {
    "kid_target": ("KID", 1, 2),
    "fid_target": ("FID", 1, 1),
    "loss_change_target": ("loss on target, %", 100, 2),
    "forgetting_source": ("forgetting, %", 100, 2),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, default="flat-color-icons", help="Not the demo's default target.")
    parser.add_argument("--learning_rates", nargs="+", type=float, default=[5e-5, 1e-4, 2e-4, 3e-4, 6e-4])
    parser.add_argument("--lr_schedulers", nargs="+", choices=["constant", "linear", "cosine"], default=["constant"])
    parser.add_argument("--steps", nargs="+", type=int, default=[150, 300, 600], help="Optimiser steps to measure at.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    add_arguments(parser, "recipe")
    parser.set_defaults(samples_per_caption=2)  # there are only 100 held-out drawings
    arguments = parser.parse_args(argv)
    runs = [
        MeasuredRun(
            arguments.target,
            seed=seed,
            checkpoints=checkpoints,
            learning_rate=rate,
            lr_scheduler=scheduler,
            **method,
        )
        for seed, scheduler, rate, method in product(
            arguments.seeds, arguments.lr_schedulers, arguments.learning_rates, METHODS
        )
        for checkpoints in ([tuple(arguments.steps)] if scheduler == "constant" else [(n,) for n in arguments.steps])
    ]
    results = make_runs(runs, arguments, measurement_seed=1)  # other noise than the demo's
    if results:
        print(report(results))


def report(results: list[dict]) -> str:
    """All settings as a Markdown table with the mean over the seeds, and what is chosen by the rule above."""
    groups: dict[tuple, list[dict]] = {}
    for run in results:
        for steps, figures in run["by_step"].items():
            key = (run["objective"], run["lr_scheduler"], run["learning_rate"], int(steps))
            groups.setdefault(key, []).append(figures)
    first = results[0]["by_step"][min(results[0]["by_step"])]
    lines = [
        f"{results[0]['target']}: {first['num_generated']} samples against {first['num_real']} drawings;"
        f" KID of other real drawings {first['kid_floor']:.2f}.\n",
        "| method | schedule | rate | steps | seeds | " + " | ".join(title for title, *_ in FIGURES.values()) + " |",
        "|---|---|---|---|---|" + "---|" * len(FIGURES),
    ]
    for (objective, scheduler, rate, steps), runs in sorted(
        groups.items(), key=lambda group: (group[0][0] == "difftune", *group[0])
    ):
        cells = [spread([factor * run[name] for run in runs], digits) for name, (_, factor, digits) in FIGURES.items()]
        lines.append(f"| {objective} | {scheduler} | {rate:g} | {steps} | {len(runs)} | {' | '.join(cells)} |")
    for objective, title in (("standard", "Chosen for both, by standard"), ("difftune", "Diff-Tuning's own best")):
        best = best_of(groups, objective)
        if best:
            _, scheduler, rate, steps = best
            lines.append(f"\n{title}: {scheduler} rate of {rate:g}, {steps} steps.")
    return "\n".join(lines)


def best_of(groups: dict[tuple, list[dict]], objective: str) -> tuple | None:
    """The settings of a method with the lowest mean KID, among those that all seeds were tried with."""
    mine = {key: runs for key, runs in groups.items() if key[0] == objective}
    seeds = max((len(runs) for runs in mine.values()), default=0)
    complete = {key: runs for key, runs in mine.items() if len(runs) == seeds}
    return min(complete, key=lambda key: statistics.mean(run["kid_target"] for run in complete[key]), default=None)


def spread(values: list[float], digits: int) -> str:
    """Mean, and standard deviation if there are several."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


if __name__ == "__main__":
    main()
