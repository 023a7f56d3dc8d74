# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fonts of Debian packages, and which of them are of one type family."""

import functools
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError


# Words of a family's name that say of which width, weight, size, script or purpose a member is.
MEMBER_WORDS = """
    display pali mono cond cn std no2 style script code monospace console condensed condenced condencerd narrow caption
    compressed ui text titling book minus extra light medium regular bold demi thin heavy black semibold upright inclined
    slanted italic modern ps tt otf o gpl&gnu gnu&gpl gnu-gpl dict diagnostic dot high xspace bunong moe variable width
    georgian tamil bengali armenian hebrew thai ethiopic devanagari lao khmer sinhala assamese marathi nepali classical
""".split()  # noqa: SIM905 (as a list it would fill sixty lines)
MEMBER = re.compile(rf"\b({'|'.join(MEMBER_WORDS)}|\d+)\b|(?<=patch)(sans|serif|stencil)", re.IGNORECASE)
# Small capitals in the place of small letters, ornaments, pixels and pictures.
UNFIT = re.compile(
    r"\bSC\b|caps|unicase|initials|keyboard|symbol|emoji|\bmath|music|dingbat|ornament|swash|tengwar|sample|cupola|"
    "d050000l|nushu",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Font:
    """A font file.

    Attributes:
        path (`Path`): Where it is.
        family (`str`): The name of its type family, without what tells members of a family apart.
        characters (`frozenset[int]`): The code points it draws.
    """

    path: Path
    family: str
    characters: frozenset[int]


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """The version of each package that is installed."""
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *packages]
    try:
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:  # not Debian
        return {}
    return {name: version for name, _, version in (line.partition(" ") for line in lines) if version}


def package_fonts(packages: Sequence[str]) -> list[Font]:
    """The fonts of packages, by their file names."""
    listed = subprocess.run(["dpkg", "--listfiles", *packages], capture_output=True, text=True, check=True).stdout
    files = {line for line in listed.splitlines() if line.lower().endswith((".ttf", ".otf"))}
    fonts = (read_font(Path(file)) for file in sorted(files, key=lambda file: (Path(file).name, file)))
    return [font for font in fonts if font is not None]


@functools.cache
def read_font(path: Path) -> Font | None:
    """What a font file says of itself; `None` if it cannot be used."""
    try:
        with TTFont(path, lazy=True) as font:
            names, characters = font["name"], font.getBestCmap()
            name = names.getDebugName(16) or names.getDebugName(1) or path.stem
    except (TTLibError, KeyError, OSError) as error:
        print(f"{path} is left out: {error}", file=sys.stderr)
        return None
    if not characters or UNFIT.search(f"{name} {path.stem}"):
        return None
    return Font(path, family_key(name), frozenset(characters))


def family_key(name: str) -> str:
    """The name of a family without what tells its members apart: Noto Sans Georgian and Noto Sans Mono are Noto Sans."""
    return " ".join(MEMBER.sub(" ", name.replace("_", " ")).lower().split()) or name.lower()
