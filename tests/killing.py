# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Building that is stopped or killed: what the tests of banks and of control images share."""

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from diffusers_difftune.io.atomic import write_bytes_atomic


if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[1]


class Stop(Exception):
    pass


def stop_after(count: int, monkeypatch: "pytest.MonkeyPatch", module: ModuleType) -> None:
    """Makes a module's building stop when `count` files were written."""
    written: list[Path] = []

    def write(path: Path, data: bytes) -> None:
        if len(written) == count:
            (path.parent / f".{path.name}.123.tmp").write_bytes(data[: len(data) // 2])
            raise Stop
        write_bytes_atomic(path, data)
        written.append(path)

    monkeypatch.setattr(module, "write_bytes_atomic", write)


class Zygote:
    """A process that builds in forked children, so that a test can kill many without loading torch for each.

    Args:
        module (`str`): The program to run; it calls [`serve`].
        arguments: Its arguments.
        environment (`Mapping[str, str]`, *optional*): What its environment has beyond this process's.
    """

    def __init__(self, module: str, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.read() == "ready"

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def build(self, folder: Path, kill_after: float | None = None) -> int:
        """Builds, or kills the building after some seconds; returns the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        child = int(self.read())
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # it has ended already
                os.kill(child, signal.SIGKILL)
        return int(self.read())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def serve(prepare: Callable[[], Callable[[Path], object]]) -> None:
    """The other side of [`Zygote`]: for each folder it reads from standard input it writes two lines, the child's process
    id when it begins, and the child's exit code when it has ended."""
    torch.set_num_threads(1)  # before anything is loaded: threads do not survive a fork
    # tqdm's own lock is one for all forked processes: a child that is killed while it writes its bar would hold it for ever.
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0
    build = prepare()
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                build(Path(line.rstrip("\n")))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
