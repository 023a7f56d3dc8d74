# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Train the two classifiers that samples are recognised by, and whose features distances are of.

    python benchmarks/glyphs/classifiers.py             # 10 minutes on one thread

Each is a small convolutional network that knows the letters of all sets, trained on half of the type families that are
trained on: no family of a set is in both halves, and the families that are held out are in neither. Writes
`outputs/glyphs/classifiers/<a or b>.safetensors` and, about real letters, `results/classifiers.json`.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.glyphs.read import class_names, families, read_glyphs  # noqa: E402
from benchmarks.glyphs.scripts import SETS, SOURCE  # noqa: E402
from benchmarks.glyphs.settings import CLASSIFIERS, DATA, RESULTS  # noqa: E402
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


NAMES = ("a", "b")
FEATURES = 128
STEPS, BATCH, RATE = 700, 256, 2e-3
SHIFT = 2  # pixels by which a batch is moved, at most
NOISE = 0.15  # highest deviation of the noise on every other batch


class Classifier(torch.nn.Module):
    """Letters of 24 × 24 pixels to classes.

    Args:
        classes (`int`): How many.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            *convolution(1, 32, 1),
            *convolution(32, 64, 2),
            *convolution(64, 64, 1),
            *convolution(64, 128, 2),
            *convolution(128, 128, 1),
            torch.nn.Flatten(),
            torch.nn.Linear(128 * 36, FEATURES),
            torch.nn.BatchNorm1d(FEATURES),
        )
        self.head = torch.nn.Linear(FEATURES, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.body(images.to(memory_format=torch.channels_last)).float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images).relu())


def convolution(channels: int, filters: int, stride: int) -> tuple[torch.nn.Module, ...]:
    """A convolution with what comes after it."""
    return (
        torch.nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False),
        torch.nn.BatchNorm2d(filters),
        torch.nn.ReLU(),
    )


class Judge:
    """A trained classifier, in the terms of the sets.

    Args:
        name (`str`): `"a"` or `"b"`.
        folder (`Path`): Where the classifiers are.
        offsets (`dict[str, tuple[int, int]]`): The first class and the number of classes of every set.
    """

    def __init__(self, name: str, folder: Path, offsets: dict[str, tuple[int, int]]) -> None:
        self.offsets = offsets
        self.model = Classifier(sum(count for _, count in offsets.values())).eval()
        self.model.load_state_dict(load_file(folder / f"{name}.safetensors"))

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Of shape `(N, 128)`, for images of shape `(N, 1, 24, 24)` in [−1, 1]."""
        return torch.cat([self.model.features(part) for part in images.split(512)])

    @torch.no_grad()
    def recognised(self, images: torch.Tensor, labels: torch.Tensor, name: str) -> torch.Tensor:
        """Which images are taken for their letter, among the letters of a set."""
        first, count = self.offsets[name]
        logits = torch.cat([self.model(part) for part in images.split(512)])
        return logits[:, first : first + count].argmax(1) == labels


def class_offsets(data: Path = DATA) -> dict[str, tuple[int, int]]:
    """The first class and the number of classes of every set, among the classes of a classifier."""
    offsets, first = {}, 0
    for name in SETS:
        count = len(class_names(data / f"{name}_train.parquet"))
        offsets[name] = (first, count)
        first += count
    return offsets


def halves(images: dict[str, Counter]) -> dict[str, int]:
    """Puts type families into two halves, so that each has about half of every set.

    Args:
        images (`dict[str, Counter]`): How many images of every family each set has.

    Returns:
        `dict[str, int]`: 0 or 1 for every family.
    """
    total = sum(images.values(), Counter())
    more = Counter()  # images that the first half has of a set beyond those of the second
    half = {}
    for family in sorted(total, key=lambda family: (-total[family], family)):
        excess = sum(images[name][family] * more[name] / sum(images[name].values()) ** 2 for name in images)
        half[family] = int(excess > 0)
        for name in images:
            more[name] += (-1) ** half[family] * images[name][family]
    return half


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, default=CLASSIFIERS)
    parser.add_argument("--results", type=Path, default=RESULTS / "classifiers.json")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    offsets = class_offsets(arguments.data)
    of_rows = {name: families(arguments.data / f"{name}_train.parquet") for name in SETS}
    half = halves({name: Counter(rows) for name, rows in of_rows.items()})
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, name in enumerate(NAMES):
        file = arguments.output / f"{name}.safetensors"
        if not file.is_file():
            model = train(arguments, offsets, of_rows, half, number)
            save_file(model.state_dict(), file)
        judge = Judge(name, arguments.output, offsets)
        found[name] = {
            "families": sum(value == number for value in half.values()),
            "accuracy": {part: accuracies(judge, arguments.data, part) for part in ("styles", "families")},
        }
        print(name, json.dumps(found[name]), flush=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(arguments.results, (json.dumps(found, indent=1) + "\n").encode())


def train(
    arguments: argparse.Namespace,
    offsets: dict[str, tuple[int, int]],
    of_rows: dict[str, list[str]],
    half: dict[str, int],
    number: int,
) -> Classifier:
    """Trains a classifier on its half of the families."""
    images, labels, weights = [], [], []
    for name in SETS:
        own = torch.tensor([half[family] == number for family in of_rows[name]])
        pixels, letters = read_glyphs(arguments.data / f"{name}_train.parquet")
        images.append(pixels[own])
        labels.append(letters[own] + offsets[name][0])
        # As many of the source as of all targets, and as many of one target as of another.
        share = 0.5 if name == SOURCE else 0.5 / (len(SETS) - 1)
        weights.append(torch.full((int(own.sum()),), share / int(own.sum())))
    every, of_class, weight = torch.cat(images), torch.cat(labels), torch.cat(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        model = Classifier(sum(count for _, count in offsets.values())).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
        started = time.process_time()
        for step in range(arguments.steps):
            rate = RATE * min(1, (step + 1) / 50) * (1 - step / arguments.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = torch.multinomial(weight, BATCH, replacement=True)
            batch = torch.roll(every[rows], torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist(), (2, 3))
            if step % 2:
                batch = (batch + NOISE * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(batch)).clamp(-1, 1)
            loss = F.cross_entropy(model(batch), of_class[rows], label_smoothing=0.05)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 100 == 0:
                print(NAMES[number], step, round(loss.item(), 3), round(time.process_time() - started), flush=True)
    return model.to(memory_format=torch.contiguous_format)


def accuracies(judge: Judge, data: Path, part: str) -> dict[str, float]:
    """The share of real letters of a part that are recognised, for every set."""
    shares = {}
    for name in SETS:
        images, labels = read_glyphs(data / f"{name}_{part}.parquet")
        shares[name] = round(judge.recognised(images, labels, name).float().mean().item(), 4)
    return shares


if __name__ == "__main__":
    main()
