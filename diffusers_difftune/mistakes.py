# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Telling a mistake so that it is seen, whatever program started this one."""

import errno
import functools
import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from .errors import DiffTuneError, Stopped


# Errors of a place rather than of a program: full, over a quota, over the largest size of a file, for reading only.
PLACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where torch's launcher looks for what went wrong in a worker


def tell_mistake(sentence: str) -> None:
    """Prints a sentence on stderr; of the processes that one launcher started on this machine, only one prints it.

    A launcher adds words of its own once this process has ended. torch's, of several processes, ends them with the sentence,
    which it gets from here. accelerate's, of one, prints a traceback that does not concern the user, and can be told not to.
    """
    report = os.environ.get(ERROR_FILE)
    if report:
        tell_launcher(sentence, Path(report))
        if is_first(sentence, Path(report).parent.parent):
            print(f"\n{sentence}\n", file=sys.stderr, flush=True)
        return
    launcher = command_line(os.getppid())
    names = {Path(word).name for word in launcher[:2]}
    if not names & {"accelerate", "accelerate-launch"} and "accelerate.commands.launch" not in launcher:
        print(sentence, file=sys.stderr)
        return
    print(f"\n{sentence}\n", file=sys.stderr)
    if not {"-q", "--quiet"} & set(launcher):
        print("(accelerate launch adds a traceback of its own; accelerate launch --quiet does not.)", file=sys.stderr)


def command_line(process: int) -> list[str]:
    """The words that a process was started with; none if it is not there, or another user's."""
    try:
        return psutil.Process(process).cmdline()
    except psutil.Error:
        return []


def tell_launcher(sentence: str, report: Path) -> None:
    """Writes what torch's launcher prints as the cause of a worker's end, in the form that it reads."""
    message = {"message": sentence, "extraInfo": {"py_callstack": sentence, "timestamp": str(int(time.time()))}}
    try:
        report.write_text(json.dumps({"message": message}))
    except OSError:
        pass  # then it prints a link to its documentation


def is_first(sentence: str, folder: Path) -> bool:
    """Whether this process is the first to say something, of those that share a folder."""
    try:
        (folder / f"told-{hashlib.sha256(sentence.encode()).hexdigest()[:16]}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        pass
    return True


def place_trouble(error: BaseException | None, what: str = "A file") -> str | None:
    """A sentence about an error that comes from the disk, an `OSError` or what safetensors, which writes files by itself,
    makes of one; `None` for any other error. `what` was written, if the error does not know.
    """
    while error is not None:
        found = re.search(r"\(os error (\d+)\)", str(error))  # safetensors
        number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if number in PLACE_ERRORS:
            where, why = getattr(error, "filename", None), os.strerror(number)
            return (
                f"{where or what} cannot be written ({why[:1].lower()}{why[1:]}); everything that was finished is kept:"
                " make room, or take another folder, and give the same command, for training with"
                " --resume_from_checkpoint latest."
            )
        error = error.__cause__
    return None


class Terminated(KeyboardInterrupt):
    """SIGTERM, as Python tells of SIGINT."""


def reports_mistakes(main: Callable[..., None]) -> Callable[..., None]:
    """Makes a script exit as [`exit_code`] says; the `SystemExit` has the error as its `__cause__`."""

    @functools.wraps(main)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        code, cause = outcome(lambda: main(*args, **kwargs))
        if code != 0:
            raise SystemExit(code) from cause

    return wrapper


def exit_code(run: Callable[[], int | None], name: str = "error") -> int:
    """Runs a command. A [`DiffTuneError`], a full disk, or a signal that ends it is told as one line on stderr.

    Returns its exit code: 2 after a mistake (3 if only the last upload failed), 130 after SIGINT and 143 after SIGTERM. (While
    a run trains, signals are its own business: see `stopping.py`.)
    """
    return outcome(run, name)[0]


def outcome(run: Callable[[], int | None], name: str = "error") -> tuple[int, BaseException | None]:
    """The [`exit_code`] of a command, and the error that it comes from, for programs that call a script's `main`."""
    try:
        with terminated_as_interrupted():
            return run() or 0, None
    except DiffTuneError as error:
        tell_mistake(f"{name}: {error}")
        return error.exit_code, error
    except Stopped as stopped:
        if stopped.sentence is not None:
            print(f"\n{stopped.sentence}", file=sys.stderr)
        return stopped.code, None
    except KeyboardInterrupt as error:
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        print(
            f"\nStopped by {number.name}; the same command goes on with what was finished, for training with"
            " --resume_from_checkpoint latest.",
            file=sys.stderr,
        )
        return 128 + number, None
    except Exception as error:
        sentence = place_trouble(error)
        if sentence is None:
            raise
        tell_mistake(f"{name}: {sentence}")
        return 2, error


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """A context in which SIGTERM raises [`Terminated`], so that what is open is closed."""
    if threading.current_thread() is not threading.main_thread():  # no other one may handle signals
        yield
        return

    def terminate(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
