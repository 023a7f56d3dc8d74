# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Classes for icon sets that have no categories: k-means on frozen features."""

import numpy as np


K = 10
RESTARTS = 5


def squared_distances(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Of every row from every centre, of shape `(N, K)`."""
    return ((rows[:, None] - centres[None]) ** 2).sum(-1)


def k_means(rows: np.ndarray, k: int = K, seed: int = 0) -> np.ndarray:
    """Lloyd's algorithm from seeded k-means++ starts (Arthur and Vassilvitskii, 2007), the best of five.

    Args:
        rows (`np.ndarray` of shape `(N, D)`): What to cluster.
        k (`int`, *optional*, defaults to 10): Clusters.
        seed (`int`, *optional*, defaults to 0): Seed of the starts.

    Returns:
        `np.ndarray` of shape `(K, D)`: The centres, that of the largest cluster first.
    """
    generator = np.random.default_rng(seed)
    found = [lloyd(rows, start(rows, k, generator)) for _ in range(RESTARTS)]
    centres = min(found, key=lambda centres: squared_distances(rows, centres).min(1).sum())
    sizes = np.bincount(nearest(rows, centres), minlength=k)
    return centres[np.argsort(-sizes, kind="stable")]


def start(rows: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    """Rows that are likely to lie far apart."""
    centres = rows[[generator.integers(len(rows))]]
    while len(centres) < k:
        distances = squared_distances(rows, centres).min(1)
        chosen = generator.choice(len(rows), p=distances / distances.sum())
        centres = np.concatenate([centres, rows[[chosen]]])
    return centres


def lloyd(rows: np.ndarray, centres: np.ndarray, steps: int = 100) -> np.ndarray:
    """Moves centres to the means of the rows nearest to them until they stay; one that has no rows stays where it is."""
    for _ in range(steps):
        owners = nearest(rows, centres)
        moved = np.stack(
            [rows[owners == i].mean(0) if (owners == i).any() else centre for i, centre in enumerate(centres)]
        )
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def nearest(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The centre each row belongs to, of shape `(N,)`."""
    return squared_distances(rows, centres).argmin(1)
