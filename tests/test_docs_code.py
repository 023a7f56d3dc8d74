# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The Python code in the documents: what it imports exists, and takes the arguments it is called with."""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])


def blocks(document: Path) -> list[ast.Module]:
    """The code of a document."""
    found = re.findall(r"^( *)```python\n(.*?)^ *```", document.read_text(encoding="utf-8"), re.M | re.S)
    return [ast.parse(textwrap.dedent(code)) for _, code in found]


def names_of_ours(tree: ast.Module) -> dict[str, Any]:
    """What the code imports from this library, by the names it has there."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "diffusers_difftune":
            module = importlib.import_module(node.module)
            for alias in node.names:
                found[alias.asname or alias.name] = getattr(module, alias.name)
    return found


def calls(tree: ast.Module, names: dict[str, Any]) -> Iterator[tuple[ast.Call, Any]]:
    """The calls of what was imported, such as `Adapter(…)` and `KnowledgeBank.load(…)`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in names:
            yield node, names[called.id]
        elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id in names:
            yield node, getattr(names[called.value.id], called.attr)


def check(tree: ast.Module, names: dict[str, Any]) -> int:
    """Raises a `TypeError` for a call that does not fit; returns how many were looked at."""
    count = 0
    for call, function in calls(tree, names):
        given = [argument for argument in call.args if not isinstance(argument, ast.Starred)]
        keywords = [keyword.arg for keyword in call.keywords if keyword.arg is not None]
        is_whole = len(given) == len(call.args) and len(keywords) == len(call.keywords)
        signature = inspect.signature(function)
        bind = signature.bind if is_whole else signature.bind_partial
        try:
            bind(*given, **dict.fromkeys(keywords))
        except TypeError as error:
            raise TypeError(f"{ast.unparse(call)}: {error}") from None
        count += 1
    return count


def check_document(document: Path) -> int:
    """[`check`] of all code of a document."""
    names: dict[str, Any] = {}
    count = 0
    for tree in blocks(document):
        names |= names_of_ours(tree)  # a later block goes on with what an earlier one imported
        count += check(tree, names)
    return count


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_code_calls_what_there_is(document: Path) -> None:
    check_document(document)


def test_there_is_such_code() -> None:
    assert sum(map(check_document, DOCUMENTS)) >= 10


@pytest.mark.parametrize("code", ["Adapter()", "Adapter(unet, settings, colour=1)", "KnowledgeBank.load()"])
def test_a_call_that_does_not_fit_is_found(code: str) -> None:
    from diffusers_difftune import KnowledgeBank
    from diffusers_difftune.adapters import Adapter

    with pytest.raises(TypeError, match="argument"):
        check(ast.parse(code), {"Adapter": Adapter, "KnowledgeBank": KnowledgeBank})
