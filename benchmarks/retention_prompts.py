# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Should source rows keep the prompt they were sampled with, or get the empty one? And should the bank be guided?

Fine-tunes the embedded pipeline on both demo targets with `--retention_prompts sampled` and `empty` from several
seeds, with banks at one or more guidance scales, and measures the target's FID and KID and the forgetting of each. One
JSON file per run; runs whose file is there, with the same steps and recipe, are not made again.

    python benchmarks/retention_prompts.py
    python benchmarks/retention_prompts.py --bank_guidance_scale 1.0 7.5
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from itertools import product
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "icons"))
from finetune import RECIPE, RESOLUTION, TARGETS, command_line, finetune, quiet, target_file  # noqa: E402
from measure import Measurement  # noqa: E402

from diffusers_difftune.atomic import write_bytes_atomic  # noqa: E402
from diffusers_difftune.cli import main as difftune  # noqa: E402


FIGURES = {
    "fid_target": ("FID target", 1, 2),
    "kid_target": ("KID target", 1, 3),
    "forgetting_source": ("forgetting, %", 100, 2),
    "loss_change_target": ("target loss, %", 100, 2),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--bank_guidance_scale", nargs="+", type=float, default=[1.0])
    parser.add_argument("--steps", type=int, default=150, help="Optimiser steps of a run.")
    parser.add_argument("--bank_samples", type=int, default=256)
    Measurement.add_arguments(parser)
    parser.add_argument("--no_standard", action="store_true", help="Leave out the runs of standard fine-tuning.")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/retention_prompts")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs/retention_prompts", help="Banks and run folders.")
    arguments = parser.parse_args(argv)
    quiet()
    arguments.output.mkdir(parents=True, exist_ok=True)
    variants = [(prompts, scale) for prompts, scale in product(("sampled", "empty"), arguments.bank_guidance_scale)]
    variants += [] if arguments.no_standard else [("standard", None)]
    for target in arguments.targets:
        measurement = None
        for seed, (prompts, scale) in product(arguments.seeds, variants):
            name = f"{target}-{prompts}" + ("" if scale is None else f"-guidance{scale}") + f"-seed{seed}"
            file = arguments.output / f"{name}.json"
            if file.is_file():
                found = json.loads(file.read_text())
                if found["steps"] == arguments.steps and found["recipe"] == RECIPE:
                    continue
            print(f"== {name}", flush=True)
            measurement = measurement or Measurement.from_arguments(arguments, target)
            result = one_run(arguments, measurement, target, prompts, scale, seed)
            write_bytes_atomic(file, (json.dumps(result, indent=2) + "\n").encode())
    print(table(arguments.output))


def one_run(
    arguments: argparse.Namespace, measurement: Measurement, target: str, prompts: str, scale: float | None, seed: int
) -> dict:
    """Fine-tunes and measures once. All seeds share a bank, as different banks are not the question."""
    started = time.perf_counter()
    run = arguments.work / "run"
    shutil.rmtree(run, ignore_errors=True)
    flags: dict = {"cache_dir": arguments.work / "cache"}
    if scale is not None:
        flags |= {"knowledge_bank": bank(arguments, target, scale), "retention_prompts": prompts}
    objective = "standard" if scale is None else "difftune"
    finetune(run, target, objective, arguments.steps, seed, arguments.pipeline, **flags)
    figures, _ = measurement.measure(run)
    return {
        "target": target,
        "objective": objective,
        "retention_prompts": None if scale is None else prompts,
        "bank_guidance_scale": scale,
        "bank_samples": None if scale is None else arguments.bank_samples,
        "seed": seed,
        "steps": arguments.steps,
        "recipe": RECIPE,
        "seconds": round(time.perf_counter() - started, 1),
        **figures,
    }


def bank(arguments: argparse.Namespace, target: str, scale: float) -> Path:
    """The bank of a target at a guidance scale; one that is there already is only checked."""
    folder = arguments.work / f"bank-{target}-guidance{scale}"
    flags = {
        "pretrained_model_name_or_path": arguments.pipeline,
        "train_data_dir": target_file(target, "train"),
        "output_dir": folder,
        "cache_dir": arguments.work / "cache",
        "resolution": RESOLUTION,
        "bank_samples": arguments.bank_samples,
        "bank_steps": 25,
        "bank_batch_size": 32,
        "bank_guidance_scale": scale,
    }
    if difftune(["bank", "build", *command_line(flags)]):
        sys.exit("The bank could not be built.")
    return folder


def table(folder: Path) -> str:
    """Mean and standard deviation over the seeds, as Markdown."""
    groups: dict[tuple, list[dict]] = {}
    for file in sorted(folder.glob("*.json")):
        run = json.loads(file.read_text())
        key = (run["target"], run["retention_prompts"] or "(standard)", run["bank_guidance_scale"] or "")
        groups.setdefault(key, []).append(run)
    lines = [
        "| target | retention prompts | bank guidance | seeds | " + " | ".join(x[0] for x in FIGURES.values()) + " |",
        "|---|---|---|---|" + "---|" * len(FIGURES),
    ]
    for (target, prompts, scale), runs in sorted(groups.items(), key=str):
        cells = []
        for name, (_, factor, digits) in FIGURES.items():
            values = [factor * run[name] for run in runs]
            deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{deviation}")
        lines.append(f"| {target} | {prompts} | {scale} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
