# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Try something on the tuning set before it is decided: other methods, weightings of the loss, guidances, more drawings.

    python benchmarks/transfers/tryout.py standard difftune p0.5 --gamma 5 --seeds 11 12 --guidance 1 1.5 3
    python benchmarks/transfers/tryout.py standard difftune --steps 2000 4000 --all_drawings
    python benchmarks/transfers/tryout.py weighted --gamma 5 --flags source_share=0.1 retention_weight=0.3
    python benchmarks/transfers/tryout.py --list

The runs are in `results/tryouts.csv`; one that is there, with every guidance asked for, is not made
again. What was found is in benchmarks/log.md, and nothing of it is in the tables.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "icons")]
from finetune import command_line, quiet  # noqa: E402

from benchmarks.table import Table  # noqa: E402
from benchmarks.throughput import machine  # noqa: E402
from benchmarks.transfers.generality import copied, denoising_losses  # noqa: E402
from benchmarks.transfers.measure import HeldOut, sample  # noqa: E402
from benchmarks.transfers.methods import METHODS  # noqa: E402
from benchmarks.transfers.one_run import paths, results, train  # noqa: E402
from benchmarks.transfers.settings import (  # noqa: E402
    DATA,
    FULL,
    GUIDANCE,
    RESULTS,
    TUNING_TARGET,
    WORK,
    Places,
    Recipe,
    Run,
    source_hash,
)


TRYOUTS = Table(RESULTS / "tryouts.csv", levels=("step",))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--gamma", type=float, help="γ of the min-SNR weighting of the loss; without it, unweighted.")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[2000], help="Measured after each; trained to the last."
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(FULL.tuning_seeds))
    parser.add_argument("--guidance", type=float, nargs="+", default=[GUIDANCE])
    parser.add_argument(
        "--flags", nargs="+", default=[], metavar="NAME=VALUE", help="Flags of the training script to set otherwise."
    )
    parser.add_argument("--all_drawings", action="store_true", help="Train on all drawings that are not held out.")
    parser.add_argument("--list", action="store_true", help="Only print what was found.")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.methods) - set(METHODS):
        parser.error(f"there is no method {sorted(unknown)[0]}; there are {', '.join(METHODS)}")
    if wrong := [flag for flag in arguments.flags if "=" not in flag]:
        parser.error(f"--flags {wrong[0]} is not NAME=VALUE, such as source_share=0.1")
    flags = dict(flag.split("=", 1) for flag in arguments.flags)
    if not arguments.list:
        quiet()
        torch.backends.cuda.enable_flash_sdp(False)  # on processors its kernel is the slower one at 16 tokens
        places = Places(WORK / source_hash(), all_drawings() if arguments.all_drawings else DATA)
        recipe = Recipe(arguments.learning_rate, max(arguments.steps), True, arguments.gamma)
        for seed in arguments.seeds:
            for method in arguments.methods:
                run = Run(TUNING_TARGET, method, seed, recipe, tuple(sorted(arguments.steps)))
                name = "-".join([run.name, *arguments.flags, *["all"] * arguments.all_drawings])
                try_out(run, flags, name, arguments.guidance, places)
    print(table())


def all_drawings() -> Path:
    """A folder in which the training drawings of the tuning set are all that are not held out."""
    folder = WORK / "all_drawings"
    folder.mkdir(parents=True, exist_ok=True)
    for file in DATA.glob("*_held_out.parquet"):
        shutil.copy(file, folder / file.name)
    parts = [pq.read_table(DATA / f"{TUNING_TARGET}_{part}.parquet") for part in ("train", "rest")]
    pq.write_table(pyarrow.concat_tables(parts), folder / f"{TUNING_TARGET}_train.parquet")
    return folder


def try_out(run: Run, flags: dict[str, str], name: str, guidances: Sequence[float], places: Places) -> None:
    """Trains, and measures at every guidance."""
    known = known_guidances(TRYOUTS.read().get(name))
    if known >= set(guidances):
        return
    guidances = sorted(known | set(guidances))
    settings = run.settings(FULL)
    settings["flags"] |= flags
    folder = places.work / "tryouts" / name
    train(folder, settings, command_line(settings["flags"] | paths(run, FULL, places, folder)))
    held_out = HeldOut(run.target, FULL, places)
    found: dict[str, Any] = {}
    for step, _, backbone, denoiser in results(run, settings, folder, places.source):
        by_guidance: dict[str, Any] = {}
        for guidance in guidances:
            images = sample(backbone, denoiser, held_out.prompts, FULL, run.seed, guidance=guidance)
            by_guidance[f"{guidance:g}"] = held_out.measure(images, guidance) | copied(images, run.target, places)
        found[str(step)] = {
            "by_guidance": by_guidance,
            "losses": denoising_losses(backbone, denoiser, run.target, places),
        }
    facts = {
        "method": run.method,
        "seed": run.seed,
        "recipe": vars(run.recipe),
        "flags": flags,
        "by_step": found,
        "machine": machine(),
    }
    TRYOUTS.add({name: facts})
    shutil.rmtree(folder)


def known_guidances(run: Mapping[str, Any] | None) -> set[float]:
    """With which guidances a run was measured after each of its steps; none of a run that is not there."""
    if run is None:
        return set()
    steps = run["by_step"].values()
    return set.intersection(*({float(guidance) for guidance in found["by_guidance"]} for found in steps))


def table() -> str:
    """All that was found, a line for every model and guidance."""
    lines = []
    for name, run in TRYOUTS.read().items():
        for step, found in run["by_step"].items():
            losses = ", ".join(f"{loss[5:]} {value:.3f}" for loss, value in found.get("losses", {}).items())
            for guidance, one in found["by_guidance"].items():
                copies = f", copies {100 * one['copied']:.1f} %" if "copied" in one else ""
                lines.append(
                    f"{name}, after {step}, guidance {guidance}: FID {one['fid']:.1f}, KID {one['kid']:.1f}{copies};"
                    f" loss {losses}".removesuffix("; loss ")
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
