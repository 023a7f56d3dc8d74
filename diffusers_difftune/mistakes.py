# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Telling a mistake so that it is seen, whatever program started this one."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import psutil


ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where torch's launcher looks for what went wrong in a worker


def tell_mistake(sentence: str) -> None:
    """Prints a sentence on stderr; of the processes that one launcher started on this machine, only one prints it.

    A launcher adds words of its own once this process has ended. torch's, of several processes, ends them with the sentence,
    which it gets from here. accelerate's, of one, prints a traceback that does not concern the user, and can be told not to.

    Args:
        sentence (`str`): What to say, on one line.
    """
    report = os.environ.get(ERROR_FILE)
    if report:
        tell_launcher(sentence, Path(report))
        if is_first(sentence, Path(report).parent.parent):
            print(f"\n{sentence}\n", file=sys.stderr, flush=True)
        return
    launcher = command_line(os.getppid())
    if any(Path(word).name in ("accelerate", "accelerate-launch") for word in launcher[:2]) or (
        "accelerate.commands.launch" in launcher
    ):
        print(f"\n{sentence}\n", file=sys.stderr)
        if not {"-q", "--quiet"} & set(launcher):
            print(
                "(accelerate launch adds a traceback of its own; accelerate launch --quiet does not.)", file=sys.stderr
            )
        return
    print(sentence, file=sys.stderr)


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
        return True
    return True
