# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Does Diff-Tuning transfer a pretrained class-conditional DiT better than standard fine-tuning? The figures of
benchmarks/evidence.md.

Learning rate, steps and moving average are chosen for *standard* fine-tuning on a set that is not among the eight.
Then **stage 1**: eight target sets, standard, each half of the method alone and Diff-Tuning, three seeds. **Stage 2**:
adapters with and without Diff-Tuning, and variants, on three sets. **Stage 3**: sensitivity to every setting, and FID
against training step, on one set. **Stage 4**: stage 1 with weighted losses. The runs are the rows of `results/runs.csv`; a run
whose file is there, with the same settings, is not made again, and one that was stopped goes on from its checkpoint, so this
can be stopped at any moment. At the end `results/summary.json`, the plots and the tables of benchmarks/evidence.md are written.

    pip install -e ".[icons]"                              # npm is needed, too
    python benchmarks/transfers/run.py --estimate
    python benchmarks/transfers/run.py --jobs 2             # stage 1, two runs at a time, one thread each
    python benchmarks/transfers/run.py --stage 2 --jobs 2
    python benchmarks/transfers/run.py --quick --jobs 2     # one target set, one seed
    python benchmarks/transfers/run.py --summary            # of the runs that are there

The source model is put together of weights in the history of this repository; source.py trained them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.jobs import Jobs  # noqa: E402
from benchmarks.transfers import evidence  # noqa: E402
from benchmarks.transfers.choose import best_adapter_rates, best_recipe  # noqa: E402
from benchmarks.transfers.data import is_drawn  # noqa: E402
from benchmarks.transfers.plan import (  # noqa: E402
    adapter_tuning_runs,
    stage_1_runs,
    stage_2_runs,
    stage_3_runs,
    stage_4_runs,
    tuning_runs,
)
from benchmarks.transfers.results import runs_table, with_quality  # noqa: E402
from benchmarks.transfers.settings import (  # noqa: E402
    DATA,
    FULL,
    HERE,
    QUICK,
    RESULTS,
    SECONDS,
    SOURCE_MODEL,
    TRIAL,
    TUNING_TARGET,
    WORK,
    Places,
    Recipe,
    Run,
    Size,
    pretrained_settings,
    source_hash,
    to_json,
)
from benchmarks.transfers.splits import SOURCE  # noqa: E402
from benchmarks.transfers.tables import markdown  # noqa: E402
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", type=int, default=1, choices=(1, 2, 3, 4))
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of each.")
    parser.add_argument("--estimate", action="store_true", help="Say what there is to do and how long it takes.")
    parser.add_argument("--summary", action="store_true", help="Only write the summary of the runs that are there.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="One target set, one seed (9 minutes with --jobs 2 on two cores)."
    )
    size.add_argument("--trial", action="store_true", help="Too few steps to learn anything: tries that it all runs.")
    parser.add_argument("--targets", nargs="+", choices=FULL.targets, help="Only these target sets.")
    parser.add_argument("--seeds", nargs="+", type=int, help="Other seeds of the result.")
    parser.add_argument("--output", type=Path, help="Results. Default: results/, of --quick and --trial in outputs/.")
    parser.add_argument("--work", type=Path, help="Banks and run folders. Default: in outputs/transfers/.")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1 or arguments.threads < 1:
        parser.error("--jobs and --threads are 1 or more")
    if not (SOURCE_MODEL / "model_index.json").is_file():
        make_source_model()
    Benchmark(arguments).main()


def make_source_model() -> None:
    """Puts the source model together of its weights; training it is asked for with source.py."""
    subprocess.run([sys.executable, HERE / "source.py"], check=True)


class Benchmark:
    """What is to be run, and where."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.size = chosen_size(arguments)
        kind = "quick" if arguments.quick else "trial" if arguments.trial else None
        self.output = arguments.output or (WORK / kind if kind else RESULTS)
        self.places = Places(arguments.work or WORK / source_hash())
        self.jobs = Jobs(self.places.work, arguments.jobs, arguments.threads)
        self.is_evidence = self.output == RESULTS
        pending = self.places.work / "results" if self.is_evidence else self.output / "runs"
        self.table = runs_table(self.output, pending)
        self.found = self.table.runs()

    def main(self) -> None:
        if self.arguments.estimate:
            return print(self.estimate())
        self.found = self.table.collect()
        if not self.arguments.summary:
            self.prepare()
            if self.known_recipe() is None:
                self.make(tuning_runs(self.size), "Recipe")
            recipe = self.recipe()
            print(f"Learning rate {recipe.learning_rate:g}, {recipe.steps} steps, moving average: {recipe.use_ema}")
            self.make(self.stage_runs(recipe), f"Stage {self.arguments.stage}")
        found = evidence.write(self.output, self.recipe(), self.size, self.is_evidence)
        print("\n" + markdown(found))

    def stage_runs(self, recipe: Recipe) -> list[Run]:
        """The runs of the stage; those that it is compared with come first."""
        if self.arguments.stage == 1:
            return stage_1_runs(self.size, recipe)
        if self.arguments.stage == 3:
            return stage_3_runs(self.size, recipe)
        if self.arguments.stage == 4:
            return stage_4_runs(self.size, recipe)
        tuning = adapter_tuning_runs(self.size, recipe)
        self.make(tuning, "Learning rates of adapters")
        return stage_2_runs(self.size, recipe, best_adapter_rates(self.results(tuning)))

    def known_recipe(self) -> Recipe | None:
        """The recipe that was chosen before, for readers who look at one set."""
        summary = RESULTS / "summary.json"
        if not (self.arguments.quick and summary.is_file()):
            return None
        return Recipe(**json.loads(summary.read_text())["recipe"])

    def recipe(self) -> Recipe:
        """The recipe that standard fine-tuning does best with on the tuning set."""
        runs = tuning_runs(self.size)
        known = self.known_recipe()
        if known is None and len(self.results(runs)) < len(runs):
            sys.exit("The recipe is not chosen yet; run this without --summary.")
        return known or best_recipe(self.results(runs))

    def done(self, run: Run) -> bool:
        """Whether the run is there, made with the settings of now."""
        found = self.found.get(run.name)
        return found is not None and found["settings"] == run.settings(self.size)

    def results(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """What was found of these runs, as far as they are there."""
        return [with_quality(self.found[run.name]) for run in runs if self.done(run)]

    def make(self, runs: Sequence[Run], title: str) -> None:
        """Makes the runs that are not there, and first what they share."""
        missing = [run for run in dict.fromkeys(runs) if not self.done(run)]
        if not missing:
            return
        print(f"{title}: {len(missing)} of {len(set(runs))} runs are missing", flush=True)
        for bank in dict.fromkeys(run.bank(self.size) for run in missing):
            if bank:
                self.make_bank(*bank)
        files = {run: self.table.file(run.name) for run in missing}
        try:
            self.jobs.make({file: self.command(run, file) for run, file in files.items()}, title)
        finally:
            self.found = self.table.collect()

    def targets(self) -> list[str]:
        """The target sets that the source model is measured on: for the evidence all, whichever are run now."""
        return list(FULL.targets if self.is_evidence else self.size.targets)

    def prepare(self) -> None:
        """The data, and the source model's own figures."""
        targets = self.targets()
        needed = [SOURCE, *targets] + [TUNING_TARGET] * (self.known_recipe() is None)
        if not all(is_drawn(name, DATA) for name in needed):
            drawing = [sys.executable, HERE / "data.py", "--threads", self.arguments.threads, "--sets", *needed]
            self.jobs.once("data", drawing, [DATA / f"{name}.split" for name in needed])
        file = self.output / "pretrained.json"
        settings = pretrained_settings(self.size, targets)
        if not (file.is_file() and json.loads(file.read_text())["settings"] == settings):
            self.jobs.make({file: self.command(None, file)}, "Source model")

    def make_bank(self, samples: int, steps: int) -> None:
        """Samples a knowledge bank from every class of the source model."""
        folder = self.places.bank((samples, steps))
        index = json.loads((SOURCE_MODEL / "model_index.json").read_text())
        classes = self.places.work / "source_classes.txt"
        classes.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(classes, "\n".join(index["id2label"]).encode())
        flags = {
            "pretrained_model_name_or_path": SOURCE_MODEL,
            "output_dir": folder,
            "bank_prompts": classes,
            "bank_samples": samples,
            "bank_steps": steps,
            "bank_batch_size": 64,
            "resolution": 32,
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        build = [sys.executable, "-m", "diffusers_difftune", "bank", "build", *words]
        self.jobs.once(f"bank-{samples}-{steps}", build, [folder / "manifest.json"])

    def command(self, run: Run | None, output: Path) -> list[str]:
        """The words that make a run, or measure the source model."""
        settings = run.settings(self.size) if run else pretrained_settings(self.size, self.targets())
        spec = {"run": run and asdict(run), "size": to_json(self.size), "settings": settings}
        spec |= {"places": self.places.to_json(), "output": str(output)}
        file = self.places.work / "specs" / f"{run.name if run else 'pretrained'}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(file, json.dumps(spec).encode())
        return [sys.executable, str(HERE / "one_run.py"), str(file)]

    def estimate(self) -> str:
        """What there is to do, and how long it takes."""
        tuning = tuning_runs(self.size)
        known = self.known_recipe()
        tuned = known is not None or all(map(self.done, tuning))
        recipe = self.recipe() if tuned else Recipe(self.size.rates[0], max(self.size.steps), True)
        runs = [] if known else list(tuning)
        if self.arguments.stage == 1:
            runs += stage_1_runs(self.size, recipe)
        elif self.arguments.stage == 3:
            runs += stage_3_runs(self.size, recipe)
        elif self.arguments.stage == 4:
            runs += stage_4_runs(self.size, recipe)
        else:
            search = adapter_tuning_runs(self.size, recipe)
            rates = best_adapter_rates(self.results(search)) if all(map(self.done, search)) else None
            runs += search + stage_2_runs(
                self.size, recipe, rates or dict.fromkeys(("lora", "difffit", "bitfit"), 0.0)
            )
        runs = list(dict.fromkeys(runs))
        missing = [run for run in runs if not self.done(run)]
        done = [found for found in self.results(runs) if not found["resumed"]]
        step = statistics.median([run_step_seconds(found) for found in done]) if done else SECONDS["step"]
        total = sum(expected_seconds(run, step) for run in missing)
        together = min(self.arguments.jobs, os.cpu_count() or 1)
        source = f"as {len(done)} runs here took" if done else "as a core of an Intel Xeon takes"
        steps = "" if tuned else ", if the largest number of steps is chosen"
        if not missing:
            return f"None of {len(runs)} runs is missing; --output ELSEWHERE makes them again."
        return (
            f"{len(missing)} of {len(runs)} runs are missing; {together} at a time ({source}{steps}) this takes about"
            f" {total / together / 60:.0f} minutes, data and bank about {SECONDS['prepare'] / 60:.0f} more."
        )


def run_step_seconds(found: dict[str, Any]) -> float:
    """What a step of a run that is there took."""
    return (found["seconds"]["training"] - SECONDS["start"]) / found["recipe"]["steps"]


def expected_seconds(run: Run, step: float) -> float:
    """How long a run takes."""
    measurements = max(1, len(run.measured)) * len(run.weights)
    return SECONDS["start"] + run.recipe.steps * step + measurements * SECONDS["measurement"]


def chosen_size(arguments: argparse.Namespace) -> Size:
    """How much to run, as the arguments say."""
    size = QUICK if arguments.quick else TRIAL if arguments.trial else FULL
    changes: dict[str, Any] = {}
    if arguments.targets:
        changes["targets"] = tuple(arguments.targets)
    if arguments.seeds:
        changes["seeds"] = tuple(arguments.seeds)
    return replace(size, **changes)


if __name__ == "__main__":
    main()
