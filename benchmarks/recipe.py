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
"""The learning rate and the number of steps of the demo: a small search, the same for both methods.

Every learning rate is tried with standard fine-tuning and with Diff-Tuning from one seed, and measured at several
checkpoints. One JSON file per run; runs whose file is there are not made again.

    python benchmarks/recipe.py
"""

import argparse
import json
import shutil
import sys
from itertools import product
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "icons"))
from finetune import TARGETS, finetune, quiet  # noqa: E402
from measure import Measurement  # noqa: E402

from diffusers_difftune.atomic import write_bytes_atomic  # noqa: E402


FIGURES = ("fid_target", "kid_target", "loss_change_target", "forgetting_source", "forgetting_source_standard_error")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, default="flat-color-icons", help="Not the demo's default target.")
    parser.add_argument("--learning_rates", nargs="+", type=float, default=[3e-5, 1e-4, 3e-4])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=50, help="Steps between the checkpoints that are measured.")
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument(
        "--knowledge_bank", type=Path, required=True, help="From `difftune bank build`, of this target."
    )
    Measurement.add_arguments(parser)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/recipe")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs/recipe", help="Run folders.")
    arguments = parser.parse_args(argv)
    quiet()
    arguments.output.mkdir(parents=True, exist_ok=True)
    measurement = None
    for rate, objective in product(arguments.learning_rates, ("standard", "difftune")):
        file = arguments.output / f"{arguments.target}-{objective}-lr{rate:g}.json"
        if file.is_file():
            continue
        print(f"== {file.stem}", flush=True)
        measurement = measurement or Measurement.from_arguments(
            arguments,
            arguments.target,
            seed=1,  # other noise than the demo's
        )
        run = arguments.work / "run"
        shutil.rmtree(run, ignore_errors=True)
        finetune(
            run,
            arguments.target,
            objective,
            arguments.steps,
            arguments.seed,
            arguments.pipeline,
            learning_rate=rate,
            checkpointing_steps=arguments.every,
            knowledge_bank=arguments.knowledge_bank if objective == "difftune" else None,
            cache_dir=arguments.work / "cache",
        )
        checkpoints = range(arguments.every, arguments.steps + 1, arguments.every)
        by_step = {step: measurement.measure(run / f"checkpoint-{step}")[0] for step in checkpoints}
        result = {"objective": objective, "learning_rate": rate, "seed": arguments.seed, "steps": by_step}
        write_bytes_atomic(file, (json.dumps(result, indent=2) + "\n").encode())
    print(table(arguments.output))


def table(folder: Path) -> str:
    """All runs as Markdown."""
    lines = ["| run | steps | " + " | ".join(FIGURES) + " |", "|---|---|" + "---|" * len(FIGURES)]
    for file in sorted(folder.glob("*.json")):
        for steps, figures in json.loads(file.read_text())["steps"].items():
            lines.append(f"| {file.stem} | {steps} | " + " | ".join(f"{figures[name]:.4g}" for name in FIGURES) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
