# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What people see in a terminal: log lines above the progress bars, the bars, and blocks of labelled lines."""

import logging
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm


# What libraries warn of that nobody who trains can or should do anything about, by the logger that says it.
IDLE_WARNINGS = {
    "transformers.utils.import_utils": "requires torchvision (not installed)",  # PIL reads images here
    "diffusers.pipelines.pipeline_utils": "Expected types for id2label",  # of every DiT with names of classes
}


class AboveBars(logging.StreamHandler):
    """Writes log records above the progress bars, which stay whole, and not into them."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except Exception:
            self.handleError(record)


def log_to_terminal(line_format: str) -> None:
    """Sends log records to stderr, unless the program that calls this library has said where they go; without warnings
    of libraries that are of no use.
    """
    handler = AboveBars()
    handler.addFilter(lambda record: not is_shown_by_library(record.name))
    logging.basicConfig(format=line_format, datefmt="%H:%M:%S", handlers=[handler])
    for name in IDLE_WARNINGS:
        logging.getLogger(name).addFilter(is_no_idle_warning)


def is_shown_by_library(name: str) -> bool:
    """Whether a library writes the records of a logger to the terminal itself, so that they would be shown twice.

    huggingface_hub always does and passes them on, too; transformers passes them on where `CI` is set.
    """
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None and logger is not logging.root:
        if any(type(handler) is logging.StreamHandler for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def is_no_idle_warning(record: logging.LogRecord) -> bool:
    """Whether a record of a library is worth showing; see `IDLE_WARNINGS`."""
    return IDLE_WARNINGS.get(record.name, "\0") not in record.getMessage()


def progress_bar(hidden: bool = False, **options: Any) -> tqdm:
    """A progress bar of `tqdm` with its options, which `TQDM_DISABLE=1` hides as it does all others."""
    if hidden:  # said only then, because tqdm lets what is said win over its environment variables
        options["disable"] = True
    return tqdm(**options)


def terminal_width() -> int:
    """Columns of the terminal, 80 where there is none, within what text can be set in and read."""
    return max(60, min(120, shutil.get_terminal_size((80, 24)).columns))


def labelled_block(title: str, rows: Sequence[tuple[str, str]], width: int, most_lines: int = 25) -> str:
    """A title, and below it rows of a label and a text each, the labels in a column before the texts. The longest texts
    are cut where there would be more lines than `most_lines`.
    """
    column = 2 + max(len(label) for label, _ in rows) + 2
    lines: list[str] = []
    for most in range(most_lines, 0, -1):
        lines = [title]
        for label, text in rows:
            fitting = " ".join(shortened(word, width - column) for word in text.split())
            first, *more = textwrap.wrap(
                fitting, width - column, max_lines=most, placeholder=" …", break_on_hyphens=False
            ) or [""]
            lines.append(f"  {label}".ljust(column) + first)
            lines += [" " * column + line for line in more]
        if len(lines) <= most_lines:
            break
    return "\n".join(line.rstrip() for line in lines)


def wrapped(text: str, width: int) -> str:
    """A text in lines of at most so many columns; what has no space in it, such as a path, is not broken."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def shortened(path: str, longest: int) -> str:
    """A path or an id of at most so many characters, with an ellipsis in its middle if it is longer; its end says more."""
    if len(path) <= longest:
        return path
    end = (longest - 1) * 2 // 3
    return f"{path[: longest - 1 - end]}…{path[-end:]}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number of things, such as `1 row`, `1,234 rows`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def file_size(count: float) -> str:
    """Bytes as people read them."""
    units = ["bytes", "KB", "MB", "GB"]
    while count >= 1000 and len(units) > 1:
        count, units = count / 1000, units[1:]
    return f"{count:.3g} {units[0]}"
