# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Where the prompts of a knowledge bank come from, and which sample gets which."""

import hashlib
import json
from pathlib import Path

from ..errors import DiffTuneError, first_sentence
from ..io.random import seeded_order


def read_prompts(source: str, own: str = "captions") -> list[str]:
    """The prompts that a flag such as `--bank_prompts` names, other than the captions of the target data. Blank lines and missing
    values are left out, repeated prompts are not.

    Args:
        source (`str`):
            `"empty"`, a text file with one prompt a line, or `DATASET#COLUMN` for a column of a dataset, which is a
            folder or an id on the Hub.
        own (`str`, *optional*, defaults to `"captions"`): What else the flag may say, for its message.
    """
    if source == "empty":
        return [""]
    path = Path(source)
    prompts: list[str | None]
    if path.is_file():
        try:
            prompts = [*path.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError:
            raise DiffTuneError(f"{source} is not a text file in UTF-8.") from None
    elif "#" in source:
        prompts = column_prompts(*source.rsplit("#", 1))
    else:
        raise DiffTuneError(
            f"There is no file '{source}'; give {own}, empty, a text file with one prompt a line, or DATASET#COLUMN."
        )
    kept = [prompt.strip() for prompt in prompts if prompt and prompt.strip()]
    if not kept:
        raise DiffTuneError(f"There is no prompt in {source}.")
    return kept


def column_prompts(dataset: str, column: str) -> list[str | None]:
    """The strings of a column of the first split of a dataset; a list of strings counts as several prompts."""
    from datasets import load_dataset

    try:
        splits = load_dataset(dataset)
    except Exception as error:  # every loader has errors of its own
        raise DiffTuneError(f"The dataset {dataset} cannot be loaded: {first_sentence(error)}.") from error
    rows = splits["train"] if "train" in splits else next(iter(splits.values()))
    if column not in rows.column_names:
        raise DiffTuneError(f"The dataset {dataset} has no column {column}; it has {', '.join(rows.column_names)}.")
    prompts: list[str | None] = []
    for value in rows[column]:
        prompts.extend(value if isinstance(value, list) else [value])
    if not all(prompt is None or isinstance(prompt, str) for prompt in prompts):
        raise DiffTuneError(f"The column {column} of {dataset} does not hold strings.")
    return prompts


def draw_prompts(prompts: list[str], count: int, seed: int) -> list[str]:
    """The prompt of each of `count` samples: all prompts in a seeded order, then all in another, and so on."""
    if not prompts:
        raise DiffTuneError("There are no prompts to sample with.")
    drawn: list[str] = []
    for epoch in range(-(-count // len(prompts))):
        drawn.extend(prompts[row] for row in seeded_order(seed, "bank prompts", epoch, len(prompts)))
    return drawn[:count]


def prompts_sha256(prompts: list[str]) -> str:
    """The hash of the prompts of all samples, in order."""
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
