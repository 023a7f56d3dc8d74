# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What a flag is: a field of a config dataclass that knows its help text, its group and its limits."""

import dataclasses
import functools
import inspect
import os
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin


@dataclass(frozen=True)
class Limits:
    """The numbers that a flag takes: from `least`, or above `above`, to `most`, or below `below`; `None` is no limit."""

    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        words = (("at least", self.least), ("above", self.above), ("below", self.below), ("at most", self.most))
        return " and ".join(
            f"{word} {'2**32' if limit == 2**32 else limit}" for word, limit in words if limit is not None
        )


def flag(help: str | None = None, default: Any = None, *, group: str | None = None, **limits: float) -> Any:
    """A field that is a flag. Without a help text, a shared flag has another default, and all else is the same.

    Its group in `--help` is that of its class by default. `limits` are those of [`Limits`].
    """
    return field(default=default, metadata={"help": help, "group": group, "limits": Limits(**limits)})


def fixed(value: Any) -> Any:
    """A field that is no flag, because there is nothing to choose: a task that has a choice makes it a flag."""
    return field(default=value, init=False, repr=False)


@dataclass(frozen=True)
class Flag:
    """What is known of a flag."""

    name: str  # without the dashes
    default: Any
    type: type  # of each value, if it takes several
    several: bool
    choices: list[Any] | None
    optional: bool  # whether it can be `None`
    help: str
    group: str
    limits: Limits


@dataclass(kw_only=True)
class Config:
    """The flags of a task. It is the same whether a command line, a file or keyword arguments say what they are.

    Attributes:
        given (`frozenset[str]`): The names of the flags that were given, also of those that were given their default. Who
            gives all of them, as `dataclasses.replace` does, asks for none in particular.
        notes (`tuple[str, ...]`): What is to be said about how they were read.
    """

    group: ClassVar[str] = ""  # the title of a class's flags in `--help`
    given: frozenset[str] = field(init=False, repr=False, compare=False)
    notes: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    def __new__(cls, **keywords: Any) -> Self:
        self = super().__new__(cls)
        given = frozenset(name for name, value in keywords.items() if value is not None)
        self.given = frozenset() if flags_of(cls).keys() <= keywords.keys() else given
        return self

    def __post_init__(self) -> None:
        for name, known in flags_of(type(self)).items():
            value = getattr(self, name)
            if value is None and not known.optional:
                setattr(self, name, known.default)
            elif isinstance(value, os.PathLike):
                setattr(self, name, os.fspath(value))

    def was_given(self, name: str) -> bool:
        """Whether a flag was given, on the command line, in a file or in Python; `False` if the task does not have it."""
        known = flags_of(type(self)).get(name)
        return known is not None and (name in self.given or getattr(self, name) != known.default)

    def flags(self) -> dict[str, Any]:
        """The value of every flag by its name."""
        return {name: getattr(self, name) for name in flags_of(type(self))}


def find_flags(config_class: Any) -> dict[str, Flag]:
    """The flags of a subclass of [`Config`] by their names.

    A flag is of the group of the base that has it first; if that has no title, of the task's own.
    """
    told: dict[str, dict[str, Any]] = {}
    for base in reversed(config_class.__mro__):
        entries = vars(base).get("__dataclass_fields__", {})
        for name in inspect.get_annotations(base).keys() & entries.keys():
            if entries[name].metadata.get("help"):
                before = told.get(name, {}).get("group") or vars(base).get("group") or config_class.group
                told[name] = {**entries[name].metadata, "group": entries[name].metadata["group"] or before}
    flags = {}
    for entry in dataclasses.fields(config_class):
        if entry.init:
            known = told[entry.name]
            if entry.default is not None and entry.default is not False and "Default:" not in known["help"]:
                known["help"] += f" Default: {entry.default}."
            flags[entry.name] = Flag(entry.name, entry.default, *parts_of(entry.type), **known)
    return flags


flags_of: Callable[[Any], dict[str, Flag]] = functools.cache(find_flags)


def parts_of(annotation: Any) -> tuple[type, bool, list[Any] | None, bool]:
    """The type of a value, whether there are several, their choices, and whether it can be `None`: `list[str] | None` is
    `(str, True, None, True)`."""
    optional = get_origin(annotation) in (Union, types.UnionType)
    if optional:
        (annotation,) = (each for each in get_args(annotation) if each is not types.NoneType)
    if get_origin(annotation) is list:
        return get_args(annotation)[0], True, None, optional
    if get_origin(annotation) is Literal:
        choices = list(get_args(annotation))
        return type(choices[0]), False, choices, optional
    return annotation, False, None, optional
