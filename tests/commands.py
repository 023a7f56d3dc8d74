# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The shell commands of the documents: in blocks of Markdown, in their prose, and in the docstrings of programs."""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "benchmarks" / "evidence.md",  # not the log beside it: what was done then, with the flags of then
    ROOT / "training_scripts" / "recipes" / "README.md",
    *sorted(ROOT.glob("benchmarks/**/README.md")),
    *sorted(ROOT.glob("examples/**/README.md")),
]
PROGRAMS = [
    path for folder in ("training_scripts", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")
]
FIRST_WORDS = ("accelerate", "cd", "difftune", "git", "hf", "make", "npm", "pip", "pre-commit", "python", "torchrun")


@dataclass(frozen=True)
class Command:
    """A command of a document.

    Attributes:
        place (`str`): The file that it is in.
        words (`tuple[str, ...]`): Its words, without comments.
        is_whole (`bool`): Whether it is meant to be run as it stands; where "…" or "..." stands for what is left out, and in
            prose, it is not.
    """

    place: str
    words: tuple[str, ...]
    is_whole: bool = True

    def __str__(self) -> str:
        return f"{self.place}: {' '.join(self.words)}"


def all_commands() -> list[Command]:
    """Every command of every document and docstring."""
    return [command for page in PAGES for command in commands_of_page(page)] + [
        command for program in sorted(PROGRAMS) for command in commands_of_program(program)
    ]


def commands_of_page(page: Path) -> list[Command]:
    """The commands in a page's blocks of shell and diffs, and those that its prose quotes."""
    text = page.read_text(encoding="utf-8")
    place = str(page.relative_to(ROOT))
    found = []
    for kind, block in re.findall(r"(?ms)^ *```(\w+)\n(.*?)^ *```$", text):
        if kind == "diff":  # what it is changed into
            block = "\n".join(line[2:] for line in block.splitlines() if not line.startswith("-"))
        if kind in ("bash", "sh", "shell", "diff"):
            found += commands_in(block, place)
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", text)
    quoted = [re.sub(r"\s+", " ", code) for code in re.findall(r"(?s)(?<!`)`([^`]+)`(?!`)", prose)]
    started = [code for code in quoted if re.match(rf"(?:{'|'.join(FIRST_WORDS)}) \S", code)]
    return found + [
        Command(place, part.words, is_whole=part.words[0] == "pip")  # prose leaves out what it does not speak of
        for code in started
        for part in commands_in(code, place)
    ]


def commands_of_program(program: Path) -> list[Command]:
    """The commands that the docstring of a program says how to call it by: indented lines that begin with a program."""
    text = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8"))) or ""
    lines, taken = [], False
    for line in text.splitlines():
        begins = re.match(rf"(?: {{4}})?(?:{'|'.join(FIRST_WORDS)}) [\w./-]", line) is not None
        is_going_on = taken and bool(lines) and lines[-1].split("#")[0].rstrip().endswith("\\")
        taken = is_going_on or (begins and line.startswith("    "))
        if taken:
            lines.append(line)
    return commands_in("\n".join(lines), str(program.relative_to(ROOT)))


def commands_in(block: str, place: str) -> list[Command]:
    """The commands of a block of shell."""
    joined = re.sub(r"\\\n\s*", " ", block)
    found = []
    for line in joined.splitlines():
        words = shlex.split(line, comments=True)
        for part in split_at(words, ("&&", "||", ";")):
            left_out = any(word in ("…", "...") or "…" in word for word in part)
            kept = tuple(word for word in part if "…" not in word and word != "...")
            if kept and not kept[0].startswith("-"):  # flags alone are no command
                found.append(Command(place, kept, is_whole=not left_out))
            elif kept:
                found.append(Command(place, ("accelerate", "launch", "training_scripts/…", *kept), is_whole=False))
    return found


def split_at(words: list[str], borders: tuple[str, ...]) -> list[list[str]]:
    """Parts of a list of words, without the borders between them."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word in borders:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]
