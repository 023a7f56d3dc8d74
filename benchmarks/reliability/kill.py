# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Kills runs of every training script with SIGKILL at random moments, and shows that nothing is lost by it.

Each run is killed in a phase of it: while it encodes its data or samples its knowledge bank, in a training step, while it
writes a checkpoint, puts it in place and removes the one before, in an upload, while it makes images or saves its result.
A third of them are killed once more while they go on. Then the same command with `--resume_from_checkpoint latest` ends
the run, and every file it leaves, and its repository on the Hub, is compared with an uninterrupted run's: bit for bit,
apart from times and paths. The pipelines are tiny, the Hub is the tests' server. What was found goes to
`results/summary.json`, and a table into docs/reliability.md.

    pip install -e ".[test]"
    python benchmarks/reliability/kill.py --estimate
    python benchmarks/reliability/kill.py --kills 120 --seed 1
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.jobs import fill  # noqa: E402
from benchmarks.reliability.configurations import (  # noqa: E402
    CHECKPOINTS,
    CONFIGURATIONS,
    MORE_PHASES,
    PHASES,
    THREADS,
    Configuration,
)
from benchmarks.reliability.harness import KILLED_TWICE, Harness, KilledRun  # noqa: E402
from benchmarks.reliability.watch import ELSEWHERE  # noqa: E402
from benchmarks.throughput import machine  # noqa: E402
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


RESULTS = ROOT / "benchmarks" / "reliability" / "results"
DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- reliability figures: begin (written by benchmarks/reliability/kill.py) -->"
END = "<!-- reliability figures: end -->"
LEAST = 5  # kills in each phase
SECONDS = 6.0  # of one start of a run, on one core of a Xeon


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=120, help="How many kills; some more if a phase has too few.")
    parser.add_argument("--seed", type=int, default=0, help="Decides which runs are killed, and where.")
    parser.add_argument("--estimate", action="store_true", help="Say how long it takes, and stop.")
    parser.add_argument("--output", type=Path, default=RESULTS / "summary.json", help="For what was found.")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "reliability", help="For the runs.")
    arguments = parser.parse_args(argv)
    if arguments.estimate:
        runs = arguments.kills / (1 + KILLED_TWICE)
        starts = arguments.kills + runs + 2 * len(CONFIGURATIONS)
        minutes = starts * SECONDS / 60
        print(f"{arguments.kills} kills take about {starts:.0f} starts of a run and {minutes:.0f} minutes.")
        return
    began, where = time.monotonic(), machine() | {"threads": THREADS}
    with Harness(arguments.work, arguments.seed) as harness:
        runs = harness.killed_runs(CONFIGURATIONS, arguments.kills, min(LEAST, arguments.kills // 10))
    summary = summarise(runs, CONFIGURATIONS) | {
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - began),
        "machine": where,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(arguments.output, (json.dumps(summary, indent=1) + "\n").encode())
    if arguments.output == RESULTS / "summary.json":
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(fill(text, BEGIN, END, table(summary)), encoding="utf-8")
    print(table(summary))
    print(f"Written to {arguments.output}")
    sys.exit(0 if all_well(summary) else 1)


def summarise(runs: list[KilledRun], configurations: tuple[Configuration, ...]) -> dict[str, Any]:
    """The figures. A kill counts as resumed, and as bit-equal, if the run that it came in ended so."""
    kills = [(run, kill) for run in runs for kill in run.kills]
    in_a_phase = [(run, kill) for run, kill in kills if kill["phase"] != ELSEWHERE]
    by_phase = Counter(kill["phase"] for _, kill in in_a_phase)
    by_configuration = Counter((run.configuration.name, kill["phase"]) for run, kill in in_a_phase)
    return {
        "kills": len(in_a_phase),
        "resumed": sum(run.resumed for run, _ in in_a_phase),
        "bit_equal": sum(run.bit_equal for run, _ in in_a_phase),
        "checkpoints_lost": sum(len(kill["lost"]) for _, kill in kills),
        "runs": len(runs),
        "killed_more_than_once": sum(len(run.kills) > 1 for run in runs),
        "by_phase": {phase: by_phase[phase] for phase in PHASES + MORE_PHASES},
        "by_script": dict(Counter(run.configuration.script for run, _ in in_a_phase)),
        "by_configuration": {
            each.name: {phase: by_configuration[each.name, phase] for phase in PHASES + MORE_PHASES}
            for each in configurations
        },
        # between phases, or in them before the first step of a start: these do not count
        "elsewhere": {
            "kills": len(kills) - len(in_a_phase),
            "bit_equal": sum(run.bit_equal for run, kill in kills if kill["phase"] == ELSEWHERE),
        },
        "steps_between_checkpoints": CHECKPOINTS,
        "each": [
            {
                "configuration": run.configuration.name,
                "kills": run.kills,
                "resumed": run.resumed,
                "differences": run.differences,
            }
            for run in runs
        ],
    }


def all_well(summary: dict[str, Any]) -> bool:
    """Whether every run went on, ended bit for bit as it should, and no checkpoint was lost."""
    elsewhere = summary["elsewhere"]
    return (
        summary["kills"] == summary["resumed"] == summary["bit_equal"]
        and elsewhere["kills"] == elsewhere["bit_equal"]
        and summary["checkpoints_lost"] == 0
    )


def table(summary: dict[str, Any]) -> str:
    """The figures as Markdown."""
    phases = PHASES + MORE_PHASES
    titles = [phase.replace("_", ", ") if phase == "rename_rotation" else phase.replace("_", " ") for phase in phases]
    lines = [f"| killed in | {' | '.join(titles)} | all |", f"|---|{'---|' * (len(phases) + 1)}"]
    rows = summary["by_configuration"] | {"**all**": summary["by_phase"]}
    for name, counts in rows.items():
        lines.append(f"| {name} | {' | '.join(str(counts[phase]) for phase in phases)} | {sum(counts.values())} |")
    where = summary["machine"]
    lines.append(
        f"\n{summary['kills']} kills in {summary['runs']} runs, {summary['killed_more_than_once']} of which were killed"
        f" more than once. After {summary['resumed']} of the kills the run went on and ended; after {summary['bit_equal']}"
        " everything it left was bit for bit what the uninterrupted run left. Checkpoints lost:"
        f" {summary['checkpoints_lost']}. Seed {summary['seed']}, {where['threads']} threads of {where['processor']},"
        f" torch {where['torch']}, {summary['seconds'] / 60:.0f} minutes."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
