# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Should source rows keep the prompt they were sampled with, or get the empty one? And should the bank be guided?

Fine-tunes the embedded pipeline on both demo targets with `--retention_prompts sampled` and `empty` from several
seeds, with banks at one or more guidance scales, and measures the target's FID and KID and the forgetting of each, beside
standard fine-tuning.

    python benchmarks/retention_prompts.py --estimate
    python benchmarks/retention_prompts.py --retention_prompts sampled --bank_guidance_scale 1.0 7.5
    python benchmarks/retention_prompts.py --targets fluent-emoji    # beside another process with the other target
"""

import argparse
from itertools import product

from recipe import FIGURES, spread
from runs import STEPS, TARGETS, MeasuredRun, add_arguments, make_runs


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--retention_prompts", nargs="+", choices=["sampled", "empty"], default=["sampled", "empty"])
    parser.add_argument("--bank_guidance_scale", nargs="+", type=float, default=[1.0])
    parser.add_argument("--steps", type=int, default=STEPS, help="Optimiser steps of a run.")
    parser.add_argument("--no_standard", action="store_true", help="Leave out the runs of standard fine-tuning.")
    add_arguments(parser, "retention_prompts")
    arguments = parser.parse_args(argv)
    variants = [
        {"objective": "difftune", "retention_prompts": prompts, "bank_guidance_scale": scale}
        for prompts, scale in product(arguments.retention_prompts, arguments.bank_guidance_scale)
    ]
    if not arguments.no_standard:
        variants.append({"objective": "standard"})
    runs = [
        MeasuredRun(target, seed=seed, checkpoints=(arguments.steps,), **variant)
        for target, seed, variant in product(arguments.targets, arguments.seeds, variants)
    ]
    results = make_runs(runs, arguments)
    if results:
        print(table(results))


def table(results: list[dict]) -> str:
    """Mean and standard deviation over the seeds, as Markdown."""
    groups: dict[tuple, list[dict]] = {}
    for run in results:
        key = (run["target"], run["retention_prompts"] or "(standard)", run["bank_guidance_scale"] or "")
        groups.setdefault(key, []).extend(run["by_step"].values())
    lines = [
        "| target | retention prompts | bank guidance | seeds | " + " | ".join(x[0] for x in FIGURES.values()) + " |",
        "|---|---|---|---|" + "---|" * len(FIGURES),
    ]
    for (target, prompts, scale), runs in sorted(groups.items(), key=str):
        cells = [spread([factor * run[name] for run in runs], digits) for name, (_, factor, digits) in FIGURES.items()]
        lines.append(f"| {target} | {prompts} | {scale} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
