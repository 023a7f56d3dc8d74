# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Does a ControlNet converge sooner with Diff-Tuning, and does the pair forget less? The figures of benchmarks/evidence.md.

Five kinds of condition, standard training and Diff-Tuning, three seeds, on the embedded icon pipeline; then ablations on
two kinds. Learning rate and thresholds come from standard training on other seeds (settings.py). The runs are
the rows of `results/runs.csv`; a run that is there, with the same settings, is not made again, and one that was stopped goes
on from its checkpoint, so this can be stopped at any moment. At the end `results/summary.json`, the plots and the
tables of benchmarks/evidence.md are written.

    pip install -e ".[icons]"
    python benchmarks/controlnet/run.py --estimate
    python benchmarks/controlnet/run.py --jobs 2           # two runs at a time, one thread each
    python benchmarks/controlnet/run.py --quick --jobs 3   # one row of the table, from one seed, on two cores
    python benchmarks/controlnet/run.py --summary          # of the runs that are there
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any


HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import evidence  # noqa: E402
from jobs import Jobs  # noqa: E402
from settings import (  # noqa: E402
    DATA,
    FULL,
    PIPELINE,
    QUICK,
    RECIPE,
    RESULTS,
    ROOT,
    SECONDS,
    TARGET,
    TRIAL,
    WORK,
    Run,
    Size,
    bank_folder,
    bare_settings,
    condition_data,
    condition_model,
    pipeline_hash,
    result_runs,
    search_runs,
    to_json,
    tuning_runs,
    variant_runs,
)
from table import Table  # noqa: E402

from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of each.")
    parser.add_argument("--estimate", action="store_true", help="Say what there is to do and how long it takes.")
    parser.add_argument("--summary", action="store_true", help="Only write the summary of the runs that are there.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="One row of the table, from one seed (≤ 15 minutes).")
    size.add_argument("--trial", action="store_true", help="Too few steps to learn anything: tries that it all runs.")
    parser.add_argument("--conditions", nargs="+", choices=FULL.conditions, help="Only these kinds of condition.")
    parser.add_argument("--seeds", nargs="+", type=int, help="Other seeds of the result.")
    parser.add_argument("--output", type=Path, help="Results. Default: results/, of --quick and --trial in outputs/.")
    parser.add_argument("--work", type=Path, help="Data, bank and run folders. Default: in outputs/controlnet/.")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1 or arguments.threads < 1:
        parser.error("--jobs and --threads are 1 or more")
    Benchmark(arguments).main()


class Benchmark:
    """What is to be run, and where."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.size = chosen_size(arguments)
        kind = "quick" if arguments.quick else "trial" if arguments.trial else None
        self.output = arguments.output or (WORK / kind if kind else RESULTS)
        self.work = arguments.work or WORK / pipeline_hash()
        self.jobs = Jobs(self.work, arguments.jobs, arguments.threads)
        self.is_evidence = self.output == RESULTS
        pending = self.work / "results" if self.is_evidence else self.output / "runs"
        self.table = Table(self.output / "runs.csv", pending)
        self.found = self.table.runs()

    def main(self) -> None:
        if self.arguments.estimate:
            return print(self.estimate())
        self.found = self.table.collect()
        if not self.arguments.summary:
            if importlib.util.find_spec("pycountry") is None:
                sys.exit(
                    "Prompt adherence is ranked by names, which needs pycountry; install it with `pip install pycountry`."
                )
            self.prepare()
            self.make(search_runs(self.size), "Learning rate")
            rate = self.rate()
            self.make(tuning_runs(self.size, rate), "Thresholds")
            self.make(result_runs(self.size, rate), "Result")
            self.make(variant_runs(self.size, rate), "Variants")
        found = evidence.write(self.output, self.rate(), self.is_evidence)
        print("\n" + evidence.markdown(found))

    def rate(self) -> float:
        """The learning rate: the one there is, or the one that standard training does best with on tuning seeds."""
        if len(self.size.rates) == 1:
            return self.size.rates[0]
        runs = [self.found[run.name] for run in search_runs(self.size) if self.done(run)]
        if len(runs) < len(search_runs(self.size)):
            sys.exit("The learning rate is not chosen yet; run this without --summary.")
        return evidence.best_rate(runs)

    def done(self, run: Run) -> bool:
        """Whether the run is there, made with the settings of now."""
        found = self.found.get(run.name)
        return found is not None and found["settings"] == run.settings(self.size)

    def prepare(self) -> None:
        """Conditions, the bank, and whatever is cached, before several runs ask for it at once."""
        bank = bank_folder(self.work, self.size)
        for kind in sorted({*self.size.conditions, *self.size.search_conditions, *self.size.ablation_conditions}):
            for part in ("train", "held_out"):
                model = condition_model(kind)
                build = [
                    "conditions",
                    "build",
                    DATA / f"{TARGET}_{part}.parquet",
                    condition_data(self.work, kind, part),
                ]
                build += ["--kind", kind, *(["--model", model] if model else [])]
                self.jobs.once(f"conditions-{kind}-{part}", [sys.executable, "-m", "diffusers_difftune", *build])
        build = ["bank", "build", "--pretrained_model_name_or_path", PIPELINE, "--output_dir", bank]
        build += ["--train_data_dir", DATA / f"{TARGET}_train.parquet", "--resolution", RECIPE["resolution"]]
        build += ["--bank_samples", self.size.bank_samples, "--bank_steps", self.size.bank_steps]
        self.jobs.once(bank.name, [sys.executable, "-m", "diffusers_difftune", *build])
        for kind in self.size.conditions:
            self.jobs.once(f"cached-{kind}-{bank.name}", self.warm_up(kind))
        name = f"pretrained-{evidence.short_hash(bare_settings(self.size))}"
        spec = self.spec(None, self.output / "pretrained.json")
        self.jobs.once(name, [sys.executable, HERE / "one_run.py", spec], [self.output / "pretrained.json"])

    def warm_up(self, kind: str) -> list:
        """A run of one step, which leaves the cached encodings and the bank's conditions behind."""
        run = Run(kind, "extracted", 0, 1e-4)
        flags = run.paths(self.size, self.work) | run.settings(self.size)["flags"]
        unmeasured = {"control_evaluation_data": None, "control_evaluation_steps": None}
        flags |= unmeasured | {"max_train_steps": 1, "output_dir": self.work / "warm-up" / kind}
        flags |= {"overwrite_output_dir": True}  # of one that was stopped before it was noted as done
        words = [word for name, value in flags.items() if value is not None for word in (f"--{name}", value)]
        return [sys.executable, ROOT / "training_scripts" / "train_controlnet_difftune.py", *words]

    def spec(self, run: Run | None, output: Path) -> Path:
        """Writes what one_run.py is to do."""
        reference = f"pretrained-{evidence.short_hash(bare_settings(self.size))}.npz"
        spec = {"run": run and asdict(run), "size": to_json(self.size), "reference": reference}
        spec |= {"work": str(self.work), "output": str(output)}
        file = self.work / "specs" / f"{run.name if run else 'pretrained'}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(file, json.dumps(spec).encode())
        return file

    def make(self, runs: Sequence[Run], title: str) -> None:
        """Makes the runs that are not there, several at a time; after a failure those under way are still finished."""
        missing = [run for run in dict.fromkeys(runs) if not self.done(run)]
        if not missing:
            return
        print(f"{title}: {len(missing)} of {len(set(runs))} runs are missing", flush=True)
        files = {run: self.table.file(run.name) for run in missing}
        try:
            self.jobs.make({file: self.command(run, file) for run, file in files.items()}, title)
        finally:
            self.found = self.table.collect()

    def command(self, run: Run, file: Path) -> list[str]:
        return [sys.executable, str(HERE / "one_run.py"), str(self.spec(run, file))]

    def estimate(self) -> str:
        """What there is to do, and how long it takes."""
        rate = self.size.rates[-1]  # whichever will be chosen, it is as many runs
        searched = search_runs(self.size)
        if all(self.done(run) for run in searched):
            rate = self.rate()
        later = tuning_runs(self.size, rate) + result_runs(self.size, rate) + variant_runs(self.size, rate)
        runs = list(dict.fromkeys(searched + later))
        missing = [run for run in runs if not self.done(run)]
        known = [self.found[run.name] for run in runs if self.done(run)]
        known_seconds = [sum(run["seconds"].values()) for run in known if not run["resumed"]]
        measurements = self.size.steps // self.size.every + 1
        guess = SECONDS["start"] + self.size.steps * SECONDS["step"] + measurements * SECONDS["evaluation"]
        seconds = statistics.mean(known_seconds) if known_seconds else guess + SECONDS["measurement"]
        together = min(self.arguments.jobs, os.cpu_count() or 1)
        total = SECONDS["bank"] + len(self.size.conditions) * SECONDS["condition"] + len(missing) * seconds / together
        source = f"as {len(known_seconds)} runs here took" if known_seconds else "as a core of an Intel Xeon takes"
        return (
            f"{len(missing)} of {len(runs)} runs are missing; at {seconds / 60:.1f} minutes each ({source}) and"
            f" {together} at a time this takes about {total / 60:.0f} minutes."
        )


def chosen_size(arguments: argparse.Namespace) -> Size:
    """How much to run, as the arguments say."""
    size = QUICK if arguments.quick else TRIAL if arguments.trial else FULL
    if arguments.quick and (RESULTS / "summary.json").is_file():
        size = replace(size, rates=(json.loads((RESULTS / "summary.json").read_text())["learning_rate"],))
    changes: dict[str, Any] = {}
    if arguments.conditions:
        kept = tuple(kind for kind in size.ablation_conditions if kind in arguments.conditions)
        changes = {"conditions": tuple(arguments.conditions), "ablation_conditions": kept}
    if arguments.seeds:
        changes["seeds"] = tuple(arguments.seeds)
    return replace(size, **changes)


if __name__ == "__main__":
    main()
