# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which drawings of an icon set are variants of one another: skin tones, genders, directions, themes, backgrounds.

`subject("twemoji", "woman-artist-dark-skin-tone")` is `"artist"`, and of all drawings of one subject a target set keeps
one, `plainest(...)` of them, so that held-out drawings are no recoloured training drawings.
"""

import re
from collections.abc import Collection, Iterable


PEOPLE = ("man", "woman", "men", "women", "person", "people", "adult", "boy", "girl", "child")
GROUPS = ("family", "kiss", "couple-with-heart")  # whoever is in them
SAME = {
    "two-holding-hands": "holding-hands", "and-holding-hands": "holding-hands", "older": "old", "blonde-hair": "blond-hair",
    "merman": "mermaid", "merperson": "mermaid", "princess": "prince", "with-crown": "prince", "mrs-claus": "santa-claus",
    "mx-claus": "santa-claus", "ballet-dancer": "dancing",
}  # fmt: skip
NUMBER = re.compile(r"-[0-9]+$")


def plain_person(name: str) -> str:
    """An emoji's name without skin tones, direction and gender: `"man-running-light-skin-tone-facing-right"` is
    `"running"`; somebody of whom nothing else is said is a `"person"` or a `"child"`."""
    name = re.sub(r"(-(medium-light|medium-dark|light|medium|dark)-skin-tone|-facing-right$)", "", name)
    for group in GROUPS:
        if re.fullmatch(rf"{group}(-({'|'.join(PEOPLE)}))*", name):
            return group
    rest = "-".join(word for word in name.split("-") if word not in PEOPLE)
    if not rest:
        return "child" if {"boy", "girl", "child"} & set(name.split("-")) else "person"
    return SAME.get(rest, rest)


def subject(set_name: str, name: str, names: Collection[str] = (), category: str | None = None) -> str:
    """What a drawing shows, without what tells variants of one drawing from another.

    Args:
        set_name (`str`): The icon set.
        name (`str`): The drawing's name in it.
        names (`Collection[str]`, *optional*): All names of the set; where a suffix is no word of its own, it is taken
            off only if what is left is a name.
        category (`str`, *optional*): The drawing's category.
    """
    if set_name == "vscode-icons":  # themes, and folders opened
        return re.sub(r"-opened$", "", name).replace("-type-light-", "-type-")
    if set_name == "token-branded":
        return re.sub(r"-background$", "", name)
    if set_name == "fluent-emoji-flat":
        toneless = re.sub(r"(-(medium-light|medium-dark|light|medium|dark))+$", "", name)
        return plain_person(toneless if toneless in names else name)
    if set_name == "streamline-emojis":
        # Numbers tell skin tones of people from each other; animals, things and faces are other drawings.
        is_person = category == "Smiley People" and not re.search("-face|star-struck|rolling-on", name)
        return plain_person(NUMBER.sub("", name) if is_person else name)
    if set_name in ("twemoji", "openmoji"):
        return plain_person(name)
    return name


def plainest(names: Iterable[str]) -> str:
    """Of the variants of one drawing the one without skin tone, gender and direction, as far as there is one."""

    def marks(name: str) -> tuple:
        words = set(name.split("-"))
        gendered = bool(words & {"man", "woman", "men", "women", "boy", "girl"})
        return "skin-tone" in name, gendered, name.endswith("facing-right"), len(name), name

    return min(names, key=marks)
