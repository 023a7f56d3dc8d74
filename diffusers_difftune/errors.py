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

    The command line prints it without a traceback and exits with code 2.

    Args:
        sentence (`str`): What was found and what would work. It becomes one line; control characters in it are escaped.
        flag (`str`, *optional*): The flag or argument that it is about, such as `"--train_data_dir"`. Code that was given a
            value and not a config leaves it out; the caller, who knows where the value came from, gives it with [`flag`].

    Attributes:
        sentence (`str`): The sentence, without the flag.
        flag (`str` or `None`): The flag. `str(error)` is `"FLAG: sentence"`, if the sentence does not begin with the flag.
    """

    exit_code = 2

    def __init__(self, sentence: str, flag: str | None = None) -> None:
        # A data loader's worker hands over a traceback that ends in the sentence.
        if wrapped := WORKER.search(sentence):
            sentence = wrapped[1]
        super().__init__(sentence)
        self.sentence = CONTROL_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], sentence)
        self.flag = flag

    def __reduce__(self) -> tuple:  # another process gets what is said, whatever a subclass makes its sentence of
        return type(self).__new__, (type(self), self.sentence), self.__dict__

    def __str__(self) -> str:
        if self.flag is None or self.sentence.startswith(self.flag):
            return self.sentence
        return CONTROL_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], f"{self.flag}: {clause(self.sentence)}")


@contextmanager
def flag(name: str | None = None, **arguments: str) -> Iterator[None]:
    """Gives mistakes that are found in its block the flag they are about, unless they have one, or begin with one, already.

    ```python
    with errors.flag("--knowledge_bank"):
        bank = KnowledgeBank.load(folder)
    ```

    Args:
        name (`str`, *optional*): The flag or argument, as it is typed; it may be followed by its value.
        arguments (`str`): The flags that some arguments of what is called in the block are from, by the argument's name; a
            mistake about such an argument is told as one about the flag.
    """
    try:
        yield
    except DiffTuneError as error:
        if error.flag in arguments:
            given = arguments[error.flag]
            error.sentence = re.sub(rf"^{error.flag}(?= )", lambda _: given, error.sentence)
            error.flag = given
        elif error.flag is None and not error.sentence.startswith("--"):
            error.flag = name
        raise


def clause(sentence: str) -> str:
    """A sentence as it reads after a colon: an English word at its beginning is in lower case, other names are as they were."""
    first = sentence.split(" ", 1)[0]
    return sentence[:1].lower() + sentence[1:] if first.isalpha() and first.istitle() else sentence


def quoted(value: object) -> str:
    """A value for a message, as Python writes it, and cut if it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


class StopNow(BaseException):
    """Work that can be made again gives way to a request to stop."""


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop has done so, with everything saved. Programs print its sentence and exit with its code.

    Args:
        sentence (`str`, *optional*): What to say; `None` if another process says it.
        code (`int`): The exit code.
    """

    def __init__(self, sentence: str | None, code: int) -> None:
        super().__init__(sentence or "")
        self.sentence, self.code = sentence, code


def first_sentence(error: BaseException) -> str:
    """What an error of a library says, to go into a sentence of ours: its first one, on one line, without the stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text)[0].rstrip(".!?")[:300]
