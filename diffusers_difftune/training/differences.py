# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""In what a run differs from the one that wrote a checkpoint, in words.

Data, banks and models are compared by hashes. What a person knows of them (names, numbers of rows) is kept beside the
hashes, under `facts`, and decides nothing.
"""

from collections.abc import Mapping
from typing import Any


FACTS = "facts"
# Settings that no flag is called like.
NAMES = {
    "global_batch_size": "the global batch (rows × processes × accumulation)",
    "image_reader": "the version of the rules by which images are read (docs/data.md)",
    "extractor": "the extractor of control images",
    "control_evaluation": "--control_evaluation",
    "evaluation": "--evaluation",
}
# What is compared by a hash: what it is called, and what is different where its facts are the same.
HASHED = {
    "model": ("the model", "has other weights, or another tokenizer, than it had"),
    "target_data": ("the target data", "has other images, captions or labels than it had"),
    "knowledge_bank": ("--knowledge_bank", "holds other samples than it did"),
}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that two runs must agree on and do not, as clauses such as `--seed was 0 and is 1`.

    Args:
        then (`Mapping`): The settings of the run that wrote a checkpoint, with its facts; older ones have none.
        now (`Mapping`): Those of the run that wants to go on from it.

    Returns:
        `list[str]`: The clauses. What only one of the two knows is no difference.
    """
    known = {"then": then.get(FACTS) or {}, "now": now.get(FACTS) or {}}
    clauses: list[str] = []
    for name, found in then.items():
        if name == FACTS or name not in now or now[name] == found:
            continue
        if name in HASHED:
            clauses.append(of_hashes(name, found, now[name], known["then"].get(name), known["now"].get(name)))
        elif name == "controlnet":
            kinds = {False: "no ControlNet", True: "a ControlNet"}
            clauses.append(f"it trained {kinds[bool(found)]} and this one trains {kinds[bool(now[name])]}")
        elif isinstance(found, dict) and isinstance(now[name], dict):
            clauses += of_parts(name, found, now[name])
        else:
            clauses.append(f"{NAMES.get(name, f'--{name}')} was {shown(found)} and is {shown(now[name])}")
    return clauses


def of_hashes(name: str, then: str | None, now: str | None, was: Any, is_now: Any) -> str:
    """The clause about something that is compared by its hash, or that one of the two runs does not have."""
    what, otherwise = HASHED[name]
    before, after = described(was), described(is_now)
    if then is None or now is None:
        unknown = "given"
        return f"{what} was {'not given' if then is None else before or unknown} and is {'not given' if now is None else after or unknown}"
    if before and after and before != after:
        return f"{what} was {before} and is {after}"
    return f"{what}{f', {after},' if after else ''} {otherwise}"


def described(fact: Any) -> str | None:
    """Facts in words, such as `6 rows with 5 distinct captions from my/images`."""
    if not isinstance(fact, dict):
        return None
    words = []
    if "rows" in fact:
        words.append(counted(fact["rows"], "row"))
    if "captions" in fact:
        words.append(f"with {counted(fact['captions'], 'distinct ' + str(fact.get('called', 'caption')))}")
    if "samples" in fact:
        words.append(f"{counted(fact['samples'], 'sample')} of {fact.get('model')}")
    if "name" in fact:
        words.append(str(fact["name"]) + (f" at commit {fact['revision']}" if fact.get("revision") else ""))
    if "source" in fact:
        words.append(f"from {fact['source']}")
    return " ".join(words) or None


def of_parts(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Clauses about the parts of a setting that differ; `--evaluation` has those of the flags that begin so."""
    clauses = []
    for part in {**then, **now}:
        before, after = then.get(part), now.get(part)
        if before == after:
            continue
        if name in ("evaluation", "control_evaluation"):
            flag = f"{NAMES[name]}_{part}"
            both = f"was {shown(before)} and is {shown(after)}"
            clauses.append(f"{flag} has other rows than it had" if part == "data" else f"{flag} {both}")
        else:
            clauses.append(f"{NAMES.get(name, name)} had the {part} {shown(before)} and has {shown(after)}")
    return clauses


def counted(number: int, noun: str) -> str:
    """A number of things: `1 row`, `6 rows`, `3 classes`."""
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def shown(value: Any) -> str:
    """A flag's value in a message."""
    if value is None:
        return "not given"
    text = str(value)
    return text if len(text) <= 200 else text[:199] + "…"
