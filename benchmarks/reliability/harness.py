# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Making runs, killing them, and going on with them until they end."""

import json
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hub_server import running_hub_server
from tests.killing import Zygote

from .compare import contents, differences, digest, lost
from .configurations import MORE_PHASES, PHASES, REPOSITORY, Configuration, make_material
from .watch import ELSEWHERE


LATER = 0.02  # seconds; a kill comes so much after an event at most
KILLED_TWICE = 1 / 3  # of the runs
LATE_PHASES = ("step", "checkpoint_write", "rename_rotation", "upload")  # that a run which goes on has still before it


@dataclass
class Left:
    """What a run left behind.

    Attributes:
        files (`dict[str, str]`): A digest of every file in the run folder.
        uploaded (`dict[str, str]`): The same of the repository on the Hub, if it has one.
        events (`dict[str, dict[str, int]]`): How many events each phase had, by their kind.
    """

    files: dict[str, str]
    uploaded: dict[str, str]
    events: dict[str, dict[str, int]] = field(default_factory=dict)

    def differences(self, expected: "Left") -> list[str]:
        """In what this differs from what an uninterrupted run left."""
        on_the_hub = [f"on the Hub, {each}" for each in differences(self.uploaded, expected.uploaded)]
        return differences(self.files, expected.files) + on_the_hub


@dataclass
class KilledRun:
    """A run that was killed, once or more often.

    Attributes:
        configuration (`Configuration`): Which run.
        kills (`list[dict]`): Of each kill the `phase` it came in, what the `main` thread was in, the `steps` of this start
            until then, the checkpoints that were `completed`, and which of them are `lost`.
        resumed (`bool`): The run ended.
        differences (`list[str]`): In what it differs from the uninterrupted one.
        said (`str`): The end of what it said, if it did not end.
    """

    configuration: Configuration
    kills: list[dict[str, Any]] = field(default_factory=list)
    resumed: bool = False
    differences: list[str] = field(default_factory=list)
    said: str = ""

    @property
    def bit_equal(self) -> bool:
        return self.resumed and not self.differences


class Harness(ExitStack):
    """A Hub, a process that makes runs, and the pipelines and data for them; a context.

    Args:
        work (`Path`): Where runs go. Those that do not end as they should are kept there.
        seed (`int`): Decides where runs are killed.

    Attributes:
        breakage (`str`, *optional*): A function, as `module:name`, which breaks the library in the runs to come.
    """

    def __init__(self, work: Path, seed: int) -> None:
        super().__init__()
        self.work = work.resolve()
        self.breakage: str | None = None
        self.draws = random.Random(seed)
        self.expected: dict[Configuration, Left] = {}
        self.number = 0

    def __enter__(self) -> "Harness":
        self.material = self.work / "material"
        shutil.rmtree(self.material, ignore_errors=True)
        make_material(self.material)
        home = self.enter_context(tempfile.TemporaryDirectory())
        self.hub = self.enter_context(running_hub_server())
        environment = self.hub.environment(
            HF_HOME=home,
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            TOKENIZERS_PARALLELISM="false",
            ACCELERATE_USE_CPU="true",
            CUDA_VISIBLE_DEVICES="",
            OMP_NUM_THREADS="1",  # until a run asks for more: threads do not survive a fork
            OMP_WAIT_POLICY="PASSIVE",  # on a busy machine, a thread that waits actively keeps others from working
        )
        self.process = Zygote("benchmarks.reliability.serve", environment=environment)
        self.callback(self.process.close)
        return self

    # Runs

    def begin(self, name: str) -> Path:
        """An empty folder, and an empty Hub."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.hub.repos.clear()
        self.hub.large_files.clear()
        return folder

    def start(
        self,
        configuration: Configuration,
        folder: Path,
        kill: dict[str, Any] | None = None,
        resume: bool = False,
        watched: bool = True,
    ) -> int:
        """Starts a run, or goes on with it; returns its exit code."""
        order = {
            "script": configuration.script,
            "argv": configuration.argv(self.material, folder, resume),
            "kill": kill,
            "watched": watched,
            "breakage": self.breakage,
        }
        (folder / "order.json").write_text(json.dumps(order))
        return self.process.build(folder)

    def left(self, folder: Path) -> Left:
        """What a run that has ended left behind."""
        events = next((note["events"] for note in notes(folder) if "events" in note), {})
        repository = self.hub.repos.get(f"models/{REPOSITORY}")
        uploaded = {} if repository is None else repository.commits[-1]
        return Left(contents(folder / "run"), {name: digest(name, data) for name, data in uploaded.items()}, events)

    def uninterrupted(self, configuration: Configuration, watched: bool = True) -> Left:
        """What a run leaves behind that is not killed.

        Raises:
            RuntimeError: It did not end.
        """
        folder = self.begin("uninterrupted")
        code = self.start(configuration, folder, watched=watched)
        if code:
            raise RuntimeError(f"{configuration.name} stopped with exit code {code}:\n{said(folder)}")
        return self.left(folder)

    def reference(self, configuration: Configuration) -> Left:
        """The run that all others of a configuration are compared with.

        Raises:
            RuntimeError: Once more and without anything that watches it, it leaves something else behind.
        """
        if configuration not in self.expected:
            found = self.uninterrupted(configuration)
            if wrong := self.uninterrupted(configuration, watched=False).differences(found):
                raise RuntimeError(f"Two uninterrupted runs of {configuration.name} differ: {'; '.join(wrong)}")
            self.expected[configuration] = found
        return self.expected[configuration]

    # Kills

    def moment(self, phase: str, events: dict[str, int], part: float = 1.0) -> dict[str, Any]:
        """A moment in the first part of a phase. All kinds of events are as likely, however many there are of each. What
        happens to files is met exactly, before it happens: renames always, other things half of the time."""
        kind = self.draws.choice(sorted(events))
        exactly = phase == "rename_rotation" or (kind == "files" and self.draws.random() < 0.5)
        event = self.draws.randint(1, max(1, int(part * events[kind])))
        delay = 0.0 if exactly else self.draws.uniform(0, LATER)
        return {"phase": phase, "kind": kind, "event": event, "delay": delay}

    def moments(self, configuration: Configuration, phase: str) -> list[dict[str, Any]]:
        """When to kill a run: in a phase, and perhaps once more when it goes on."""
        events = self.reference(configuration).events
        moments = [self.moment(phase, events[phase])]
        if self.draws.random() < KILLED_TWICE:
            late = self.draws.choice([phase for phase in LATE_PHASES if phase in events])
            moments.append(self.moment(late, events[late], 0.5))  # there is less of it to come
        return moments

    def killed(self, configuration: Configuration, moments: list[dict[str, Any]]) -> KilledRun:
        """Kills a run, goes on with it, and lets it end when there are no more moments to kill it at."""
        expected = self.reference(configuration)
        self.number += 1
        folder, run = self.begin(f"killed-{self.number}"), KilledRun(configuration)
        completed: set[str] = set()
        for moment in [*moments, None]:
            code = self.start(configuration, folder, moment, resume=bool(run.kills))
            facts = notes(folder)
            completed |= {note["complete"] for note in facts if "complete" in note}
            if code != -signal.SIGKILL:
                break
            where = next(note for note in reversed(facts) if "phase" in note)
            gone = lost(folder / "run", completed, configuration.limit)
            run.kills.append({**where, "completed": sorted(completed), "lost": gone})
        run.resumed = code == 0
        if run.resumed:
            run.differences = self.left(folder).differences(expected)
        else:
            run.said = said(folder)
        if run.bit_equal:
            shutil.rmtree(folder)
        return run

    def killed_runs(self, configurations: tuple[Configuration, ...], kills: int, least: int) -> list[KilledRun]:
        """Kills runs until there are enough kills in all, and in each phase; the phases in turn.

        Args:
            configurations (`tuple[Configuration, ...]`): Which runs, in turn.
            kills (`int`): How many kills.
            least (`int`): How many of them in each of `PHASES`.
        """
        runs: list[KilledRun] = []
        share = dict.fromkeys(PHASES, 3) | dict.fromkeys(MORE_PHASES, 1)
        began = time.monotonic()
        while True:
            hits = Counter(kill["phase"] for run in runs for kill in run.kills)
            counted = sum(hits.values()) - hits[ELSEWHERE]
            if counted >= kills and all(hits[phase] >= least for phase in PHASES):
                return runs
            if len(runs) == 3 * kills:
                raise RuntimeError(f"After {len(runs)} runs the kills came in {dict(hits)} only.")
            phase = min(share, key=lambda phase: (hits[phase] >= least, hits[phase] / share[phase]))
            configuration = self.next_of(configurations, phase, runs)
            runs.append(self.killed(configuration, self.moments(configuration, phase)))
            tell(runs[-1], counted + len(runs[-1].kills), kills, time.monotonic() - began)

    def next_of(self, configurations: tuple[Configuration, ...], phase: str, runs: list[KilledRun]) -> Configuration:
        """Of those that have a phase, the one that was killed in it least often, and in all."""
        killed = Counter((run.configuration, kill["phase"]) for run in runs for kill in run.kills)
        made = Counter(run.configuration for run in runs)
        possible = [each for each in configurations if phase in self.reference(each).events]
        self.draws.shuffle(possible)
        return min(possible, key=lambda each: (killed[each, phase], made[each]))


def tell(run: KilledRun, count: int, kills: int, seconds: float) -> None:
    """Says what became of a run."""
    outcome = "the same" if run.bit_equal else "; ".join(run.differences) if run.resumed else f"stopped: {run.said}"
    where = ", ".join(f"{kill['phase']} after {kill['steps']} steps" for kill in run.kills) or "not killed"
    print(f"{count}/{kills} {seconds / 60:.1f} min: {run.configuration.name} ({where}): {outcome}", flush=True)
    for kill in run.kills:
        if kill["lost"]:
            print(f"  lost: {', '.join(kill['lost'])}", flush=True)


def notes(folder: Path) -> list[dict[str, Any]]:
    """What all starts of a run wrote down."""
    file = folder / "notes.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def said(folder: Path) -> str:
    """The last words of a run."""
    return "\n".join((folder / "output.log").read_text(errors="replace").splitlines()[-15:])
