# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The runs of the glyph benchmark, and the tables of them. PLAN.md says what is run and how it is read.

    python benchmarks/glyphs/table.py --estimate
    python benchmarks/glyphs/table.py --stage tuning            # rates, strengths and the winner, on the three tuning targets
    python benchmarks/glyphs/table.py --stage targets           # the eight targets
    python benchmarks/glyphs/table.py --summary                 # only the tables, of the runs that are there
    python benchmarks/glyphs/table.py --quick                   # one target, one seed, 100 images, of what was chosen

Needs the source model and the classifiers (README). One run after the other on one thread, each in a process of its own: a
run that is in `results/runs.csv` is not made again, and one that was stopped goes on from its checkpoint.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.glyphs import plan  # noqa: E402
from benchmarks.glyphs.methods import METHODS  # noqa: E402
from benchmarks.glyphs.plan import Run  # noqa: E402
from benchmarks.glyphs.scripts import TARGETS  # noqa: E402
from benchmarks.glyphs.settings import (  # noqa: E402
    BANK,
    BANK_SAMPLES,
    BANK_STEPS,
    RESULTS,
    SEEDS,
    SMALL,
    SOURCE_MODEL,
    WORK,
)
from benchmarks.glyphs.summary import summary_of, tuning_of  # noqa: E402
from benchmarks.jobs import Jobs  # noqa: E402
from benchmarks.table import Table  # noqa: E402
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


SECONDS = 140  # CPU seconds of a run, estimated
MOST_TUNING = (3 + 2 + 2 + 3) * len(METHODS)  # runs, if no method keeps the first rate
QUICK_TARGET = TARGETS[0]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--stage", choices=("tuning", "targets"), default="tuning")
    kind.add_argument("--quick", action="store_true", help="One target, one seed and 100 images, of what was chosen.")
    kind.add_argument("--estimate", action="store_true", help="Say how long the stages take at most.")
    kind.add_argument("--summary", action="store_true", help="Only write the tables of the runs that are there.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time, one thread each.")
    arguments = parser.parse_args(argv)
    if arguments.estimate:
        result = 5 * len(TARGETS) * len(SEEDS) * 2
        for stage, runs in (("tuning", MOST_TUNING), ("targets", result)):
            print(f"{stage}: at most {runs} runs, {runs * SECONDS / 3600:.1f} hours of one core")
        return
    bench = Benchmark(arguments.results, arguments.jobs)
    if arguments.quick:
        return bench.quick()
    if not arguments.summary:
        bench.make_bank()
        bench.tune()
        if arguments.stage == "targets":
            bench.make(plan.result_runs(bench.found), "Targets")
    bench.write()


def runs_table(results: Path, pending: Path) -> Table:
    """The table of runs in a folder; a row is a blend of a run."""
    return Table(results / "runs.csv", pending, measured="by_alpha", levels=("alpha",))


class Benchmark:
    """Runs and their table.

    Args:
        results (`Path`): Folder of the table.
        jobs (`int`): Runs at a time.
    """

    def __init__(self, results: Path, jobs: int) -> None:
        self.results = results
        self.table = runs_table(results, WORK / "found")
        self.jobs = Jobs(WORK, jobs)
        self.found = self.table.collect()

    def make_bank(self) -> None:
        """Samples the source model into the bank of all runs, every class as often as another."""
        if not (SOURCE_MODEL / "model_index.json").is_file():
            sys.exit(f"There is no source model in {SOURCE_MODEL}; make it with benchmarks/glyphs/source.py.")
        flags = {
            "pretrained_model_name_or_path": SOURCE_MODEL,
            "output_dir": BANK,
            "bank_prompts": "classes",
            "bank_samples": BANK_SAMPLES,
            "bank_steps": BANK_STEPS,
            "bank_guidance_scale": 1.0,
            "bank_batch_size": 100,
            "seed": 0,
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        build = [sys.executable, "-m", "diffusers_difftune", "bank", "build", *words]
        self.jobs.once("bank", build, [BANK / "manifest.json"])

    def tune(self) -> None:
        """The stages of tuning, each of which needs the figures of the one before."""
        stages: dict[str, Callable[[], list[Run]]] = {
            "Rate of standard fine-tuning": plan.standard_trials,
            "Rates": lambda: plan.trials(self.found),
            "Tuning": lambda: plan.tuning_runs(self.found),
        }
        for title, runs in stages.items():
            self.make(runs(), title)

    def make(self, runs: Sequence[Run], title: str) -> None:
        """Makes the runs that are not there."""
        commands = {}
        for run in runs:
            if run.name not in self.found:
                output = self.table.file(run.name)
                spec = WORK / "specs" / f"{run.name}.json"
                spec.parent.mkdir(parents=True, exist_ok=True)
                write_bytes_atomic(spec, json.dumps({"run": vars(run), "output": str(output)}).encode())
                commands[output] = [sys.executable, str(Path(__file__).with_name("trial.py")), str(spec)]
        self.jobs.make(commands, title)
        self.found = self.table.collect()

    def quick(self) -> None:
        """One target, one seed and 100 images again, apart from the table."""
        runs = [run for run in plan.result_runs(self.found, [QUICK_TARGET]) if (run.images, run.seed) == (SMALL, 1)]
        tuning, self.table = self.found, runs_table(WORK / "quick", WORK / "quick" / "found")
        self.found = self.table.collect()
        self.make_bank()
        self.make(runs, "Quick")
        print(json.dumps(summary_of(tuning | self.found, runs), indent=1))

    def write(self) -> None:
        """Writes the tables of what is there: of the tuning, and of the runs of the targets that are made."""
        try:
            found = {"tuning": tuning_of(self.found)}
        except KeyError as missing:
            sys.exit(f"The run {missing} of the tuning is not made yet.")
        runs = [run for run in plan.result_runs(self.found) if run.name in self.found]
        if runs:
            found["targets"] = summary_of(self.found, runs)
        write_bytes_atomic(self.results / "summary.json", (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
