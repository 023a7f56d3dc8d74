# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""In what a run differs from the one that wrote a checkpoint, in words.

Data, banks and models are compared by hashes. What a person knows of them (names, numbers of rows) is kept beside the
hashes in words, under `facts`, and decides nothing.
"""

from collections.abc import Mapping
from typing import Any


FACTS = "facts"
# Settings that no flag is called like, beside those with a space in their name.
NAMES = {
    "global_batch_size": "the global batch (rows × processes × accumulation)",
    "image_reader": "the version of the rules by which images are read (docs/data.md)",
}
# What is compared by a hash: what it is called, and what is different where its facts are the same.
HASHED = {
    "model": ("the model", "has other weights, or another tokenizer, than it had"),
    "target_data": ("the target data", "has other images, captions or labels than it had"),
    "knowledge_bank": ("--knowledge_bank", "holds other samples than it did"),
    "evaluation_data": ("--evaluation_data", "has other rows than it had"),
    "control_evaluation_data": ("--control_evaluation_data", "has other rows than it had"),
}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that a checkpoint's run and the one that goes on from it must agree on and do not, as clauses such as
    `--seed was 0 and is 1`. What only one of the two knows is no difference."""
    facts = then.get(FACTS, {}), now.get(FACTS, {})
    clauses: list[str] = []
    for name, found in then.items():
        if name == FACTS or name not in now or now[name] == found:
            continue
        if name in HASHED:
            clauses.append(of_hashes(name, found, now[name], facts[0].get(name), facts[1].get(name)))
        elif name == "controlnet":
            kinds = {False: "no ControlNet", True: "a ControlNet"}
            clauses.append(f"it trained {kinds[bool(found)]} and this one trains {kinds[bool(now[name])]}")
        else:
            what = f"the {name}" if " " in name else NAMES.get(name, f"--{name}")
            clauses.append(f"{what} was {shown(found)} and is {shown(now[name])}")
    return clauses


def of_hashes(name: str, then: str | None, now: str | None, before: str | None, after: str | None) -> str:
    """The clause about something that is compared by its hash, or that one of the two runs does not have."""
    what, otherwise = HASHED[name]
    if then is None or now is None or before != after:
        return f"{what} was {before or 'not given'} and is {after or 'not given'}"
    return f"{what}, {after}, {otherwise}" if after else f"{what} {otherwise}"


def shown(value: Any) -> str:
    """A flag's value in a message."""
    if value is None:
        return "not given"
    text = str(value)
    return text if len(text) <= 200 else text[:199] + "…"
