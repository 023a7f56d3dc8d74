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
    """The numbers that a flag takes; `None` is no limit.

    Attributes:
        least (`float`, *optional*): The smallest.
        above (`float`, *optional*): All are larger than this one.
        below (`float`, *optional*): All are smaller than this one.
        most (`float`, *optional*): The largest.
    """

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
    """A field that is a flag.

    Args:
        help (`str`, *optional*): Its help text; without it, a shared flag has another default, and all else is the same.
        default (`Any`, *optional*): What it is if it is not given.
        group (`str`, *optional*): Its group in `--help`; that of its class by default.
        limits (`float`): See [`Limits`].
    """
    return field(default=default, metadata={"help": help, "group": group, "limits": Limits(**limits)})


def fixed(value: Any) -> Any:
    """A field that is no flag, because there is nothing to choose: a task that has a choice makes it a flag."""
    return field(default=value, init=False, repr=False)


@dataclass(frozen=True)
class Flag:
    """What is known of a flag.

    Attributes:
        name (`str`): Without the dashes.
        default (`Any`): What it is if it is not given.
        type (`type`): The type of its value; of each value, if it takes several.
        several (`bool`): Whether it takes several values.
        choices (`list`, *optional*): All values that it takes.
        optional (`bool`): Whether it can be `None`.
        help (`str`): Its help text.
        group (`str`): Its group in `--help`.
        limits ([`Limits`]): The numbers that it takes.
    """

    name: str
    default: Any
    type: type
    several: bool
    choices: list[Any] | None
    optional: bool
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
    """The flags of a config class by their names.

    Args:
        config_class (`type`): A subclass of [`Config`]. A flag is of the group of the base that has it first; if that has no
            title, of the task's own.
    """
    told: dict[str, dict[str, Any]] = {}
    for base in reversed(config_class.__mro__):
        entries = vars(base).get("__dataclass_fields__", {})
        for name in inspect.get_annotations(base).keys() & entries.keys():
            if entries[name].metadata.get("help"):
                before = told.get(name, {}).get("group") or vars(base).get("group") or config_class.group
                told[name] = {**entries[name].metadata, "group": entries[name].metadata["group"] or before}
    return {
        entry.name: Flag(entry.name, entry.default, *parts_of(entry.type), **told[entry.name])
        for entry in dataclasses.fields(config_class)
        if entry.init
    }


# What [`find_flags`] finds, which is asked for often.
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
