# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Stopping a run without losing a step of it: on SIGTERM, on SIGINT (Ctrl-C), and when the launcher has died."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from ..errors import StopNow
from ..mistakes import command_line


SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Ctrl-C reaches a worker from the terminal and again from its launcher: within so many seconds it is one request.
ONE_REQUEST = 2.0
# The programs that start workers and hand no signal on, or may die without a word.
LAUNCHERS = ("accelerate", "accelerate-launch", "torchrun", "deepspeed", "difftune")
LAUNCHER_MODULES = (
    "accelerate.commands.launch",
    "torch.distributed.run",
    "torch.distributed.launch",
    "diffusers_difftune",
)

Done = TypeVar("Done")


class StopRequests:
    """A context in which a first SIGTERM or SIGINT is noted, to be asked for between two steps; a second one, some seconds
    later, ends the process at once. On leaving, the signals do what they did before. The processes stop together.

    Attributes:
        code (`int`): What to exit with, 143 or 130, once all processes know that the run is to stop; 0 until then.
        reason (`str`, *optional*): What asked this process to stop.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.code = 0
        self.reason: str | None = None
        self.number = 0
        self.interruptible = False
        self.previous: dict[int, Any] = {}
        self.group: Any = None
        self.launcher = os.getppid() if is_launcher(os.getppid()) else None

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():  # no other one may
            self.previous = {number: signal.signal(number, self.note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def note(self, number: int, frame: FrameType | None = None, reason: str | None = None) -> None:
        """The signal handler."""
        if self.number and time.monotonic() - self.since < ONE_REQUEST:
            return
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number, self.since, self.reason = number, time.monotonic(), reason or signal.Signals(number).name
        if self.interruptible:
            raise StopNow

    def asked(self) -> bool:
        """Whether the run is to stop; call it on every process after every step. All of them get the same answer after the
        same step, whichever of them was asked."""
        if not self.number and self.launcher is not None and os.getppid() != self.launcher:
            self.note(signal.SIGTERM, reason="the death of the launcher")
        number = self.number
        if self.accelerator.num_processes > 1:
            if self.group is None:  # on the processors, so that nobody waits for a device
                self.group = torch.distributed.new_group(backend="gloo")
            found = torch.tensor([number])
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group=self.group)
            number = int(found)
        self.code = 128 + number if number else 0
        return bool(number)

    def unless_asked(self, work: Callable[[], object]) -> None:
        """Does work that may give way to a request to stop (raises [`StopNow`], on every process), unless the run is to stop
        already; call it on every process."""
        if self.code:
            return
        try:
            work()
        except StopNow:
            self.asked()

    def giving_way(self, work: Callable[[], Done]) -> Callable[[], Done]:
        """Work that a request to stop interrupts, with [`StopNow`], rather than waits for: measurements, images. It is called
        on the main process, and leaves the model as it was, however it ends."""

        def interruptible() -> Done:
            self.interruptible = bool(self.previous)
            try:
                if self.interruptible and self.number:
                    raise StopNow
                return work()
            finally:
                self.interruptible = False

        return interruptible


def is_launcher(process: int) -> bool:
    """Whether a process is a launcher of workers, by its command line."""
    words = command_line(process)
    modules = [after for word, after in zip(words, words[1:], strict=False) if word == "-m"]
    programs = [Path(word).name for word in words[:2]]
    return any(name in LAUNCHERS for name in programs) or any(name in LAUNCHER_MODULES for name in modules)
