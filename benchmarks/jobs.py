# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that a benchmark runs: preparations once each, measured runs several at a time, and what they say in logs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from diffusers_difftune.io.atomic import write_bytes_atomic


ROOT = Path(__file__).resolve().parents[1]


class Jobs:
    """Runs programs in processes of their own.

    Args:
        work (`Path`): Where logs, and notes of what is done, are kept.
        jobs (`int`, *optional*, defaults to 1): Runs at a time.
        threads (`int`, *optional*, defaults to 1): Threads of each.
    """

    def __init__(self, work: Path, jobs: int = 1, threads: int = 1) -> None:
        self.work, self.jobs, self.threads = work, jobs, threads

    def once(self, name: str, command: Sequence, results: Sequence[Path] = ()) -> None:
        """Runs a command that has not come to its end before, or whose results are gone.

        Args:
            name (`str`): What messages call it.
            command (`Sequence`): Its words.
            results (`Sequence[Path]`, *optional*): What it leaves behind.
        """
        stamp = self.work / "prepared" / name
        words = [str(word) for word in command]
        is_done = stamp.is_file() and stamp.read_text() == "\n".join(words)
        if is_done and all(result.exists() for result in results):
            return
        print(f"Preparing {name}", flush=True)
        try:
            self.call(name, words)
        except RuntimeError as error:
            sys.exit(str(error))
        stamp.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(stamp, "\n".join(words).encode())

    def call(self, name: str, words: Sequence[str]) -> None:
        """Runs a program, what it says in a log of its own.

        Raises:
            RuntimeError: It failed; the message has the end of the log.
        """
        log = self.work / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        with open(log, "w") as file:
            code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=ROOT).returncode
        if code:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise RuntimeError(f"{name} stopped with exit code {code}; the end of {log}:\n{last}")

    def make(self, commands: Mapping[Path, Sequence[str]], title: str) -> None:
        """Runs programs several at a time; after a failure those under way are still finished, and the program stops.

        Args:
            commands (`Mapping[Path, Sequence[str]]`): The words of each by the JSON file it writes, which says how long
                it took in `seconds`.
            title (`str`): What messages call them.
        """
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = {pool.submit(self.call, file.stem, words): file for file, words in commands.items()}
            try:
                for count, future in enumerate(as_completed(futures), 1):
                    future.result()
                    file = futures[future]
                    minutes = sum(json.loads(file.read_text())["seconds"].values()) / 60
                    print(f"  {title} {count}/{len(commands)} {file.stem}: {minutes:.1f} minutes", flush=True)
            except BaseException as error:
                pool.shutdown(wait=True, cancel_futures=True)
                if isinstance(error, RuntimeError):
                    sys.exit(str(error))
                raise


def begin_run(folder: Path, settings: Mapping) -> bool:
    """Makes a run folder, or keeps the one that a run of the same settings left; one of other settings goes.

    Args:
        folder (`Path`): The folder.
        settings (`Mapping`): What decides the run's figures, JSON-able.

    Returns:
        `bool`: Whether there is a checkpoint to go on from.
    """
    note = folder / "benchmark_settings.json"
    if folder.exists() and not (note.is_file() and json.loads(note.read_text()) == settings):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(note, json.dumps(settings).encode())
    return any(folder.glob("checkpoint-*"))


def fill(text: str, begin: str, end: str, figures: str) -> str:
    """A document with these figures between its markers."""
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{figures}\n\n{end}{rest.split(end)[1]}"
