# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Whether what a file in JSON says has the types of the dataclass that it is to become."""

import math
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import quoted


def wrong_value(plain_class: type, values: dict[str, Any]) -> str | None:
    """What tells a dictionary from the fields of a dataclass of plain types: one that is missing, unknown, or of another type."""
    known = {entry.name: entry for entry in fields(plain_class)}
    if unknown := [name for name in values if name not in known]:
        return f"{unknown[0]} is no field of it"
    kinds = get_type_hints(plain_class)
    for name, entry in known.items():
        if name not in values:
            if entry.default is MISSING and entry.default_factory is MISSING:
                return f"{name} is missing"
        elif not is_of(values[name], kinds[name]):
            return f"{name} is {quoted(values[name])}"
    return None


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of an annotated type; numbers must be finite, and `True` is no number."""
    if kind is Any:
        return True
    outer, inner = get_origin(kind), get_args(kind)
    if outer is UnionType:
        return any(is_of(value, each) for each in inner)
    if outer is dict:
        return isinstance(value, dict) and all(is_of(each, inner[1]) for each in value.values())
    if outer in (list, tuple):  # JSON has lists only
        return isinstance(value, list) and all(is_of(each, inner[0]) for each in value)
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return False
    return isinstance(value, (int, float) if kind is float else kind)
