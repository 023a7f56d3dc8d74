# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Make `splits/*.csv` and `features.safetensors` again; they are committed, so that only a change of the rules needs this.

    pip install -e ".[icons]"
    python benchmarks/transfers/make_splits.py

- **Targets**: of the variants of a drawing (variants.py) one is kept, of drawings that look the same one, and none that looks
  like a source drawing. Classes are the set's categories, or clusters of features where it has none.
- **Source**: the source sets of the embedded pipeline with its own held-out drawings, and as it was trained, of the skin
  tones of a person at most two. A class is a set and its category or cluster, so that style and subject are both in it.
- **Features**: EfficientNet's, projected by a PCA of as many real drawings of every set.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "icons" / "make")]
from common import thin_skin_tones  # noqa: E402
from fetch import DEMO_TARGETS, HERE, OTHER_TARGETS, SOURCES, distinct_sources, draw, split_sources  # noqa: E402

from benchmarks.transfers.clusters import k_means, nearest  # noqa: E402
from benchmarks.transfers.distinct import distinct, pixels  # noqa: E402
from benchmarks.transfers.settings import FEATURES  # noqa: E402
from benchmarks.transfers.splits import (  # noqa: E402
    SOURCE,
    Entry,
    class_names,
    counts,
    split_by_class,
    write_split,
)
from diffusers_difftune.evaluation.features import make_features  # noqa: E402
from diffusers_difftune.evaluation.metrics import extract_features  # noqa: E402
from diffusers_difftune.evaluation.projection import save_projection  # noqa: E402


DIMENSIONS = 64
FITTED_ON = 300  # drawings of every set that the PCA is fitted on, if it has as many
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache_dir", type=Path, default=HERE / "raw" / "npm", help="Where packages are kept.")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    drawn = {name: draw(name, arguments.cache_dir, 32, arguments.threads) for name in DEMO_TARGETS + OTHER_TARGETS}
    everything = [row for rows in drawn.values() for row in rows]
    sources = distinct_sources(everything, arguments.cache_dir, 32, arguments.threads)
    train, held_out = split_sources(sources, 800, SEED)
    train = [train[i] for i in thin_skin_tones([row["text"] for row in train], [row["set"] for row in train], SEED)]
    targets = {name: distinct(drawn[name], pixels(sources)) for name in OTHER_TARGETS}

    features = all_features({SOURCE: train + held_out} | targets)
    source_parts = dict.fromkeys(names(train), "train") | dict.fromkeys(names(held_out), "held_out")
    source = [row for row in train + held_out if row["category"] or not has_categories(train, row["set"])]
    fit_on = source_parts | {name: "rest" for rows in targets.values() for name in names(rows)}
    explained = fit(features, fit_on)
    print(f"{FEATURES}: {DIMENSIONS} dimensions explain {explained:.1%} of the variance")
    projected = project(features)

    labels = {}
    for name in SOURCES:
        own = [row for row in source if row["set"] == name]
        for key, label in classes(own, projected, [n for n in names(own) if source_parts[n] == "train"]).items():
            labels[key] = f"{name}: {label}"
    write(SOURCE, labels, source_parts)
    for name, rows in targets.items():
        own_labels = classes(rows, projected, names(rows))
        parts = split_by_class({n: label for (_, n), label in own_labels.items()}, SEED)
        write(name, own_labels, {(name, n): part for n, part in parts.items()})


def names(rows: list[dict]) -> list[tuple[str, str]]:
    """What tells drawings apart: set and name."""
    return [(row["set"], row["name"]) for row in rows]


def all_features(sets: dict[str, list[dict]]) -> dict[tuple[str, str], np.ndarray]:
    """The 1,280 features of every drawing."""
    extractor, found = make_features("efficientnet"), {}
    for name, rows in sets.items():
        print(f"features of {name}: {len(rows)} drawings", flush=True)
        images = torch.from_numpy(pixels(rows).reshape(-1, 32, 32, 3) * 255).round().to(torch.uint8)
        values = extract_features(extractor, images.permute(0, 3, 1, 2).contiguous(), batch_size=16)
        found |= dict(zip(names(rows), values.numpy(), strict=True))
    return found


def fit(features: dict[tuple[str, str], np.ndarray], keys) -> float:
    """Fits the projection on as many drawings of every set and writes it."""
    by_set = defaultdict(list)
    for key in keys:
        by_set[key[0]].append(key)
    generator = np.random.default_rng(SEED)
    chosen = []
    for name in sorted(by_set):
        own = sorted(by_set[name])
        chosen += [own[i] for i in generator.permutation(len(own))[:FITTED_ON]]
    rows = torch.from_numpy(np.stack([features[key] for key in chosen]))
    return save_projection(FEATURES, "efficientnet-lite0", rows, DIMENSIONS)


def project(features: dict[tuple[str, str], np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """The features as they are measured with."""
    projection = make_features(str(FEATURES))
    mean, components = projection.mean.numpy(), projection.components.numpy()
    return {key: (values - mean) @ components for key, values in features.items()}


def has_categories(rows: list[dict], icon_set: str) -> bool:
    return any(row["category"] for row in rows if row["set"] == icon_set)


def classes(
    rows: list[dict], features: dict[tuple[str, str], np.ndarray], fitted_on: list[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """The class of each drawing of a set: its category, or the cluster it is nearest to."""
    if rows[0]["category"]:
        return {key: row["category"] for key, row in zip(names(rows), rows, strict=True)}
    centres = k_means(np.stack([features[key] for key in sorted(fitted_on)]), seed=SEED)
    owners = nearest(np.stack([features[key] for key in names(rows)]), centres)
    return {key: f"cluster {owner}" for key, owner in zip(names(rows), owners, strict=True)}


def write(name: str, labels: dict[tuple[str, str], str], parts: dict[tuple[str, str], str]) -> None:
    entries = [Entry(*key, label, parts[key]) for key, label in labels.items()]
    write_split(name, entries)
    print(f"{name}: {dict(counts(entries))}, {len(class_names(entries))} classes")


if __name__ == "__main__":
    main()
