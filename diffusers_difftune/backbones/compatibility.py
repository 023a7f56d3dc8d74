# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the parts of a pipeline fit each other. Their configs say so, before any weights are read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DiffTuneError, quoted


class Fit(NamedTuple):
    """A setting of one part that another part decides, or the family.

    Attributes:
        part (`str`): The part, a folder of the pipeline.
        name (`str`): The setting.
        found: Its value.
        fits (`bool`): Whether that works.
        needed (`str`): What would, and why; goes on after "and needs".
    """

    part: str
    name: str
    found: Any
    fits: bool
    needed: str


def equal(part: str, name: str, config: Any, value: Any, why: str) -> Fit:
    """A setting that must have this value."""
    found = config.get(name)
    return Fit(part, name, found, found == value, f"{value}, {why}")


def at_most(part: str, name: str, found: int, most: int, why: str) -> Fit:
    """A number that may be this one or below."""
    return Fit(part, name, found, found <= most, f"at most {most}, {why}")


def unset(part: str, config: Any, names: dict[str, tuple[Any, ...]], why: str) -> list[Fit]:
    """Settings that make a model ask for more than it is given, and the values with which they do not."""
    return [
        Fit(part, name, config.get(name), config.get(name) in harmless, f"{harmless[0]}, {why}")
        for name, harmless in names.items()
    ]


def check_fits(folder: Path, fits: Iterable[Fit]) -> None:
    """Refuses a pipeline by the first setting that does not fit.

    Raises:
        DiffTuneError: A part does not fit the others.
    """
    for fit in fits:
        if not fit.fits:
            raise DiffTuneError(
                f"The {fit.part} of {folder} has {fit.name} {quoted(fit.found)} and needs {fit.needed}; give a pipeline whose parts were made for each other."
            )
