# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The chain of forgetting of a transferred model: `difftune forgetting` for standard fine-tuning and for Diff-Tuning.

    python benchmarks/transfers/chain.py                    # after the recipe is chosen; about 15 minutes for each method
    python benchmarks/transfers/chain.py --target vscode-icons --methods standard

Trains each method as stage 1 does, with its first seed, and compares it with the source model: losses by noise level on held-out
target and source drawings, and FID when the source model makes the last, or the first, x % of the steps. Figures go to
`results/chain/`, the pictures that the evidence shows to `docs/images/`, tables into benchmarks/evidence.md. What is there is not made again.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "icons")]
from finetune import command_line, quiet  # noqa: E402

from benchmarks.transfers import chain_tables  # noqa: E402
from benchmarks.transfers.chain_tables import CHAIN  # noqa: E402
from benchmarks.transfers.evidence import IMAGES  # noqa: E402
from benchmarks.transfers.methods import MAIN  # noqa: E402
from benchmarks.transfers.one_run import paths, train  # noqa: E402
from benchmarks.transfers.settings import (  # noqa: E402
    FEATURES,
    FULL,
    GUIDANCE,
    RESULTS,
    STAGE_3_TARGET,
    TARGETS,
    WORK,
    Places,
    Recipe,
    Run,
    source_hash,
)
from benchmarks.transfers.splits import SOURCE  # noqa: E402
from diffusers_difftune.cli import main as difftune  # noqa: E402


PERCENTS = (0, 10, 20, 30, 40, 60, 80, 100)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, default=STAGE_3_TARGET)
    parser.add_argument("--methods", nargs="+", choices=MAIN, default=("standard", "difftune"))
    arguments = parser.parse_args(argv)
    quiet()
    torch.backends.cuda.enable_flash_sdp(False)  # on processors its kernel is the slower one at 16 tokens
    recipe = Recipe(**json.loads((RESULTS / "summary.json").read_text())["recipe"])
    places = Places(WORK / source_hash())
    for method in arguments.methods:
        name = f"{arguments.target}_{method}"
        if not (CHAIN / f"{name}.json").is_file():
            look_at(Run(arguments.target, method, FULL.seeds[0], recipe), name, places)
    chain_tables.write()


def look_at(run: Run, name: str, places: Places) -> None:
    """Trains a model and looks at its chain."""
    settings = run.settings(FULL)
    folder, found = places.work / "chain" / run.name, places.work / "chain" / f"{run.name}-found"
    if not (folder / "model_index.json").is_file():
        train(folder, settings, command_line(settings["flags"] | paths(run, FULL, places, folder)))
    flags = {
        "source": places.data / f"{SOURCE}_held_out.parquet",
        "output_dir": found,
        "label_column": "label",
        "features": FEATURES,
        "guidance_scale": GUIDANCE,
        "steps": FULL.sampling_steps,
        "seed": run.seed,
        "batch_size": 64,
        "mixed_precision": "bf16",
    }
    words = [str(word) for flag, value in flags.items() for word in (f"--{flag}", value)]
    held_out = places.data / f"{run.target}_held_out.parquet"
    percents = ["--percents", *map(str, PERCENTS)]
    if difftune(["forgetting", str(places.source), str(folder), str(held_out), *words, *percents]):
        sys.exit(f"difftune forgetting failed for {run.name}.")
    report = json.loads((found / "forgetting.json").read_text())
    report["settings"] = {name: value for name, value in report["settings"].items() if "/" not in str(value)}
    CHAIN.mkdir(exist_ok=True)
    (CHAIN / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    for kind, key in chain_tables.shown(chain_tables.read_reports(CHAIN)):
        if key == (run.target, run.method):
            picture = {"chain": "forgetting.png", "swapped": "samples.png"}[kind]
            shutil.copy(found / picture, IMAGES / f"transfers_{kind}_{name}.png")


if __name__ == "__main__":
    main()
