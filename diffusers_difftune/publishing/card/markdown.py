# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Markdown that other people's words cannot write in.

Prompts, names of classes and names of files come from data sets. In a card they are text and nothing else: no markup, no
HTML, no template, no line of metadata, and nothing that cannot be seen.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote


# What begins or ends something in Markdown, HTML, TeX or a template. Underscores inside words and most colons do not.
MARKUP = re.compile(r"[\\`*\[\]{}<>#|~$&!@]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.", re.IGNORECASE)
JOINERS = "\u200c\u200d"  # invisible, and part of emoji and of words in some scripts


def plain(text: object) -> str:
    """A text on one line, without control characters and without invisible ones such as those that turn the direction of
    writing; may be empty."""
    kept = []
    for character in str(text):
        category = unicodedata.category(character)
        if category in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        elif category not in ("Cf", "Cs") or character in JOINERS:
            kept.append(character)
    return " ".join("".join(kept).split())


def escaped(text: object) -> str:
    """A text as Markdown that shows it as it is, on one line."""
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", plain(text))


def literal(text: object) -> str:
    """A text as a string of Python code, on one line and without backticks, which would end a block of code for some."""
    return json.dumps(plain(text), ensure_ascii=False).replace("`", "\\x60")


def table(title: str, rows: Mapping[str, Any], columns: Sequence[str] = ("",)) -> str:
    """A table of names and values, or nothing without rows. A value that is a list fills the columns if there are several,
    and is written with commas else. The title stands above the names.
    """
    if not rows:
        return ""
    lines = [f"| {' | '.join((title, *columns))} |", "|---" * (1 + len(columns)) + "|"]
    for name, value in rows.items():
        values = value if len(columns) > 1 else [value]
        lines.append(f"| {' | '.join((escaped(name).replace('_', ' '), *map(cell, values)))} |")
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(escaped, value))
    return "" if value is None else escaped(value)


def gallery(images: Mapping[str, Sequence[str]]) -> str:
    """Images under their prompts."""
    rows = [" ".join(f"![]({quote(path)})" for path in paths) for paths in images.values()]
    return "\n\n".join(f"*{escaped(prompt) or '(no prompt)'}*\n\n{row}" for prompt, row in zip(images, rows))
