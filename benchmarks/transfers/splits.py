# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which drawings the benchmark trains on and which it measures with, and their classes: `splits/<set>.csv`, committed.

A file has a line per drawing: its name in the icon set, its class and its part. A target set has the parts `train` and
`held_out`, and `rest`: real drawings of the same kind, which the real-vs-real floor is measured with. The source sets,
together in `source.csv`, have `train` and `held_out`.
"""

import csv
import io
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusers_difftune.io.atomic import write_bytes_atomic


SPLITS = Path(__file__).resolve().parent / "splits"
SOURCE = "source"
PARTS = ("train", "held_out", "rest")
NUM_TRAIN = 250  # drawings of a target set to fine-tune on


@dataclass(frozen=True)
class Entry:
    """A drawing's place in the benchmark.

    Attributes:
        icon_set (`str`): The icon set.
        name (`str`): Its name in that.
        label (`str`): Its class.
        part (`str`): One of `PARTS`.
    """

    icon_set: str
    name: str
    label: str
    part: str


def read_split(name: str, folder: Path = SPLITS) -> list[Entry]:
    """The drawings of a target set, or of all source sets.

    Args:
        name (`str`): A target set, or `"source"`.
        folder (`Path`, *optional*): Where the CSV files are.
    """
    with open(folder / f"{name}.csv", newline="", encoding="utf-8") as file:
        return [Entry(**({"icon_set": name} | row)) for row in csv.DictReader(file)]


def write_split(name: str, entries: Sequence[Entry], folder: Path = SPLITS) -> None:
    """Writes what [`read_split`] reads."""
    columns = (["icon_set"] if name == SOURCE else []) + ["name", "label", "part"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    ordered = sorted(entries, key=lambda entry: (entry.icon_set, entry.name))
    writer.writerows([getattr(entry, column) for column in columns] for entry in ordered)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(folder / f"{name}.csv", text.getvalue().encode())


def class_names(entries: Sequence[Entry]) -> list[str]:
    """The classes in the order of their ids."""
    return sorted({entry.label for entry in entries})


def counts(entries: Sequence[Entry]) -> Counter:
    """Drawings by part."""
    return Counter(entry.part for entry in entries)


def num_held_out(drawings: int) -> int:
    """How many of a target set are held out: half of them, at least 300 and at most 600."""
    return max(300, min(600, drawings // 2))


def split_by_class(labels: dict[str, str], seed: int, train: int = NUM_TRAIN) -> dict[str, str]:
    """Draws the parts of a target set, every class in each by its share.

    Args:
        labels (`dict[str, str]`): The class of each name.
        seed (`int`): Seed of the draw.
        train (`int`, *optional*, defaults to 250): Drawings to train on.

    Returns:
        `dict[str, str]`: The part of each name.
    """
    generator = random.Random(seed)
    by_class = defaultdict(list)
    for name in sorted(labels):
        by_class[labels[name]].append(name)
    places = {}  # of a class, drawings lie evenly from 0 to 1, so that any stretch has its share of every class
    for label in sorted(by_class):
        names = by_class[label]
        generator.shuffle(names)
        places |= {name: (index + generator.random()) / len(names) for index, name in enumerate(names)}
    ordered = sorted(places, key=places.__getitem__)
    held_out = num_held_out(len(ordered))
    parts = ["held_out"] * held_out + ["train"] * train + ["rest"] * len(ordered)
    return dict(zip(ordered, parts))
