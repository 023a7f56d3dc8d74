# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The one exception that a user's mistake raises."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


# Names and values in messages are other people's: they must neither break the line nor speak to the terminal.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
WORKER = re.compile(r"Caught \w+ in DataLoader worker process .*^[\w.]+: ([^\n]*)\s*\Z", re.DOTALL | re.MULTILINE)


class DiffTuneError(ValueError):
    """A mistake in a flag, a file or a setting, told in one sentence.

    The message names the flag or file, what was found and what would work. It is one line; control characters in it are
    escaped. The command line tools print it without a traceback and exit with code 2.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        if wrapped := WORKER.search(
            message
        ):  # a data loader's worker hands over a traceback that ends in the sentence
            message = wrapped[1]
        super().__init__(CONTROL_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], message))


def quoted(value: object) -> str:
    """A value for a message, as Python writes it, and cut if it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


class StopNow(BaseException):
    """Work that can be made again gives way to a request to stop."""


class Stopped(SystemExit):
    """A run that was asked to stop has done so, with everything saved.

    Args:
        sentence (`str`, *optional*): What to say; `None` if another process says it.
        code (`int`): The exit code.
    """

    def __init__(self, sentence: str | None, code: int) -> None:
        super().__init__(code)
        self.sentence = sentence


def first_sentence(error: BaseException) -> str:
    """What an error of a library says, to go into a sentence of ours: its first one, on one line, without the stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text)[0].rstrip(".!?")[:300]


def about(flag: str, error: DiffTuneError) -> DiffTuneError:
    """A mistake that a room below found, with the flag that asked for it."""
    sentence = str(error)
    return DiffTuneError(f"{flag}: {sentence[:1].lower()}{sentence[1:]}")


@contextmanager
def renamed(names: dict[str, str]) -> Iterator[None]:
    """A context whose mistakes speak of the flags that were given, where a room below knows them by other names.

    Args:
        names (`dict[str, str]`): What to call each of its names.
    """
    try:
        yield
    except DiffTuneError as error:
        sentence = str(error)
        for name, given in names.items():
            sentence = sentence.replace(name, given)
        raise DiffTuneError(sentence) from error
