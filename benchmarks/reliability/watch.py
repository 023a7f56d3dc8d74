# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What a run is doing, and killing it there. This is put around the library from outside; nothing in it knows of it.

Whatever happens in a phase and can be counted is an event of it: files that are opened, renamed or removed, flushes to
disk, calls of modules, steps of the optimiser, and what goes over sockets. A run is killed at an event of a phase, or a
little later, so that moments between two events are met, too.
"""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from diffusers_difftune.controls import bank as bank_conditions
from diffusers_difftune.data.cache import encodings as cache
from diffusers_difftune.training import bank
from diffusers_difftune.training.checkpoint import TrainingState
from diffusers_difftune.training.publish import Publisher
from diffusers_difftune.training.trainer import Trainer
from diffusers_difftune.training.validation import Validation


FILE_EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"})
SOCKET_CALLS = ("send", "sendall", "recv", "recv_into", "connect")
ELSEWHERE = "elsewhere"


class Watch:
    """Follows the phases of this process's run, and kills it if it is told to.

    Args:
        notes (`Path`): Where to write down, as it happens, which checkpoints are complete and what a kill comes in.
        kill (`dict`, *optional*): The `phase`, the `kind` of events and the number of the `event` to kill at, and the
            `delay` in seconds.

    Attributes:
        events (`dict[str, Counter]`): How many events each phase had, by their kind: `files`, `calls` or `sockets`.
        steps (`int`): Steps of the optimiser, of this start of the run.
    """

    def __init__(self, notes: Path, kill: dict[str, Any] | None = None) -> None:
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.kill = kill
        self.events: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.steps = 0
        self.main = threading.get_ident()
        self.phases: dict[int, list[str]] = {}  # what each thread is in, the innermost last
        self.reached = threading.Event()
        self.thread = self.main
        if kill is not None and kill["delay"]:
            threading.Thread(target=self.kill_later, daemon=True).start()

    def note(self, fact: dict[str, Any]) -> None:
        """Writes a line that outlives the process."""
        os.write(self.notes, (json.dumps(fact) + "\n").encode())

    # Phases

    def phase(self, thread: int) -> str | None:
        """What a thread is in."""
        phases = self.phases.get(thread)
        if not phases:
            return None
        return ELSEWHERE if phases[-1] == "step" and not self.steps else phases[-1]  # before the first step

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        phases = self.phases.setdefault(threading.get_ident(), [])
        phases.append(phase)
        try:
            yield
        finally:
            phases.pop()

    def wrap(self, owner: Any, name: str, phase: str) -> None:
        """Makes a function a phase."""
        function = getattr(owner, name)

        @wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self.within(phase):
                return function(*args, **kwargs)

        setattr(owner, name, inside)

    def install(self) -> None:
        """Watches a run of a training script, which is to be made in this process."""
        self.wrap(cache, "find_or_encode", "caching")
        self.wrap(bank, "build_bank", "bank")
        self.wrap(bank_conditions, "bank_conditions", "bank")
        self.wrap(Trainer, "train", "step")
        self.wrap(TrainingState, "write", "checkpoint_write")
        self.wrap(Validation, "write", "validation")
        self.wrap(Publisher, "saved", "upload")
        self.wrap(Publisher, "upload_stage", "upload")  # in a thread of its own
        self.wrap(Publisher, "finish", "upload")
        self.wrap(Trainer, "finish", "result")
        self.watch_renames()
        self.count(os, "fsync", "files")
        for name in SOCKET_CALLS:
            self.count(socket.socket, name, "sockets")
        sys.addaudithook(lambda name, _: self.event("files") if name in FILE_EVENTS else None)
        register_module_forward_pre_hook(lambda *_: self.event("calls"))
        register_optimizer_step_pre_hook(lambda *_: self.event("calls"))
        register_optimizer_step_post_hook(lambda *_: self.count_step())

    def watch_renames(self) -> None:
        """From the rename that puts a checkpoint into place, writing it is `rename_rotation`."""
        rename = os.rename

        def watched(source: Any, target: Any, **kwargs: Any) -> None:
            phases = self.phases.get(threading.get_ident())
            if phases and phases[-1] == "checkpoint_write" and (is_checkpoint(source) or is_checkpoint(target)):
                phases[-1] = "rename_rotation"
            rename(source, target, **kwargs)
            if is_checkpoint(target):
                self.note({"complete": Path(target).name})

        os.rename = watched

    # Events

    def count(self, owner: Any, name: str, kind: str) -> None:
        """Makes every call of a function an event."""
        function: Callable = getattr(owner, name)

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.event(kind)
            return function(*args, **kwargs)

        setattr(owner, name, counted)

    def count_step(self) -> None:
        self.event("calls")
        self.steps += 1

    def event(self, kind: str) -> None:
        """Something happens on this thread."""
        thread = threading.get_ident()
        phase = self.phase(thread)
        if phase is None:
            return
        self.events[phase][kind] += 1
        here = {"phase": phase, "kind": kind, "event": self.events[phase][kind]}
        if self.kill is not None and here.items() <= self.kill.items():
            self.thread = thread
            if self.kill["delay"]:
                self.reached.set()
            else:
                self.end()

    def kill_later(self) -> None:
        self.reached.wait()
        time.sleep(self.kill["delay"])
        self.end()

    def end(self) -> None:
        """Writes down where this is, and kills the process."""
        main = self.phase(self.main) or ELSEWHERE
        self.note({"phase": self.phase(self.thread) or main, "main": main, "steps": self.steps})
        os.kill(os.getpid(), signal.SIGKILL)


def is_checkpoint(path: Any) -> bool:
    """Whether a path is a checkpoint in its place."""
    return isinstance(path, (str, Path)) and re.fullmatch(r"checkpoint-\d+", Path(path).name) is not None
