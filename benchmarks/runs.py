# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning runs that are measured: rows of a table, and what is there is not made again.

Runs are named after the pretrained weights and what else they depend on, and their rows say it, so that the
results of other weights, recipes or seeds are never mixed up or overwritten. Several processes may work at the same time
if their runs are different ones.
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq
from filelock import FileLock


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "icons"))
from finetune import BANK, RECIPE, build_bank, finetune, quiet, target_file  # noqa: E402
from finetune import STEPS as STEPS  # noqa: E402
from finetune import TARGETS as TARGETS  # noqa: E402
from measure import Measurement  # noqa: E402
from table import Table  # noqa: E402

from diffusers_difftune.backbones import load_backbone  # noqa: E402
from diffusers_difftune.backbones.fingerprint import weights_fingerprint  # noqa: E402


SECONDS_PER_PASS = 0.004  # of one image forward through the embedded pipeline's UNet, on one core of a Xeon


@dataclass(frozen=True)
class MeasuredRun:
    """One fine-tuning run, and after which of its steps it is measured."""

    target: str
    objective: str
    seed: int
    checkpoints: tuple[int, ...]
    learning_rate: float = RECIPE["learning_rate"]
    lr_scheduler: str = RECIPE["lr_scheduler"]
    retention_prompts: str | None = None  # these two of Diff-Tuning only
    bank_guidance_scale: float | None = None

    @property
    def name(self) -> str:
        words = [self.target, self.objective]
        if self.bank_guidance_scale is not None:
            words += [str(self.retention_prompts), f"guidance{self.bank_guidance_scale:g}"]
        words += [f"lr{self.learning_rate:g}", self.lr_scheduler, f"steps{max(self.checkpoints)}", f"seed{self.seed}"]
        return "-".join(words)

    def seconds(self, arguments: argparse.Namespace) -> float:
        """About how long it takes on one core."""
        drawings = pq.read_metadata(target_file(self.target, "held_out")).num_rows
        samples = min(arguments.images, drawings) * arguments.samples_per_caption
        measuring = samples * 2 * arguments.sampling_steps + 2 * arguments.rows * 20  # noise levels
        training = 3 * RECIPE["train_batch_size"] * max(self.checkpoints)  # the backward pass takes two
        return SECONDS_PER_PASS * (training + len(self.checkpoints) * measuring)


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds what [`make_runs`] reads; `name` is the benchmark's."""
    Measurement.add_arguments(parser)
    parser.add_argument("--bank_samples", type=int, default=BANK["bank_samples"])
    parser.add_argument(
        "--estimate", action="store_true", help="Say what is there and how long the rest takes, and stop."
    )
    table = ROOT / "benchmarks" / "results" / f"{name}.csv"
    parser.add_argument("--output", type=Path, default=table, help="The table of results.")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / name, help="For banks and run folders.")


def make_runs(runs: list[MeasuredRun], arguments: argparse.Namespace, measurement_seed: int = 0) -> list[dict]:
    """Makes and measures the runs whose results are not there.

    Args:
        runs (`list[MeasuredRun]`): The runs, in the order to make them in.
        arguments (`argparse.Namespace`): Those of [`add_arguments`].
        measurement_seed (`int`, *optional*, defaults to 0): Seed of drawings, noise and samples.

    Returns:
        `list[dict]`: The results of all runs that are there, with the settings of each and its figures by step.
    """
    quiet()
    backbone = load_backbone(arguments.pipeline)
    weights = weights_fingerprint(arguments.pipeline, backbone.weight_components)
    table, work = Table(arguments.output), arguments.work / weights[:8]
    measuring = ("images", "samples_per_caption", "rows", "sampling_steps", "guidance_scale", "bank_samples")
    common = {"weights": weights, **{name: getattr(arguments, name) for name in measuring}}
    common |= {"measurement_seed": measurement_seed, "bank_steps": BANK["bank_steps"]}
    of_run = ("learning_rate", "lr_scheduler", "checkpointing_steps")
    common |= {"recipe": {name: value for name, value in RECIPE.items() if name not in of_run}}

    names = {run: f"{weights[:8]}/{run.name}" for run in runs}
    settings = {run: json.loads(json.dumps(asdict(run) | common)) for run in runs}
    there = table.read()
    missing = [run for run in runs if not has_result(there, names[run], settings[run], table.path)]
    expected = sum(run.seconds(arguments) for run in missing)
    print(
        f"{len(runs) - len(missing)} of {len(runs)} runs are there; the others take about {expected / 60:.0f} minutes."
    )
    measurements: dict[str, Measurement] = {}
    began, done = time.perf_counter(), 0.0
    for run in [] if arguments.estimate else missing:
        spent = time.perf_counter() - began
        left = (expected - done) * (spent / done if done else 1)
        print(f"== {run.name}; {left / 60:.0f} minutes left", flush=True)
        if run.target not in measurements:
            measurements[run.target] = Measurement.from_arguments(arguments, run.target, measurement_seed)
        started = time.perf_counter()
        figures = make_run(run, arguments, work, measurements[run.target])
        result = settings[run] | {"seconds": round(time.perf_counter() - started, 1), "by_step": figures}
        table.add({names[run]: result})
        done += run.seconds(arguments)
    there = table.read()
    return [there[name] for name in names.values() if name in there]


def has_result(there: Mapping[str, dict], name: str, settings: dict, table: Path) -> bool:
    """Whether the result of a run is there; one that was made or measured in another way stops the program."""
    found = there.get(name)
    if found is None:
        return False
    different = [f"{name} {found.get(name)}" for name, value in settings.items() if found.get(name) != value]
    if different:
        sys.exit(f"{name} in {table} was made with {', '.join(different)}; give another --output, or go back to that.")
    return True


def make_run(run: MeasuredRun, arguments: argparse.Namespace, work: Path, measurement: Measurement) -> dict[str, dict]:
    """Fine-tunes once and measures the checkpoints. All seeds share a bank: different banks are not the question."""
    output_dir = work / run.name
    shutil.rmtree(output_dir, ignore_errors=True)
    flags: dict = {"cache_dir": work / "cache"}
    if run.objective == "difftune":
        bank = work / f"bank-{run.target}-guidance{run.bank_guidance_scale:g}-{arguments.bank_samples}"
        bank.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(bank.with_name(f"{bank.name}.lock")):  # another process may need it too
            build_bank(
                bank,
                run.target,
                arguments.pipeline,
                bank_samples=arguments.bank_samples,
                bank_guidance_scale=run.bank_guidance_scale,
                cache_dir=work / "cache",
            )
        flags |= {"knowledge_bank": bank, "retention_prompts": run.retention_prompts}
    finetune(
        output_dir,
        run.target,
        run.objective,
        max(run.checkpoints),
        run.seed,
        arguments.pipeline,
        learning_rate=run.learning_rate,
        lr_scheduler=run.lr_scheduler,
        checkpointing_steps=math.gcd(*run.checkpoints),
        **flags,
    )
    figures = {
        str(step): measurement.measure(output_dir / f"checkpoint-{step}", run.name)[0] for step in run.checkpoints
    }
    shutil.rmtree(output_dir)
    return figures
