# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Of drawings that look the same one is kept, and none that looks like a source drawing: two drawings are the same if the
root mean square difference of their pixels, in [0, 1], is less than `SAME`."""

import io
from collections import defaultdict

import numpy as np
from PIL import Image

from benchmarks.transfers.variants import plainest, subject


SAME = 0.02


def pixels(rows: list[dict]) -> np.ndarray:
    """Of shape `(N, 3072)`, in [0, 1]."""
    images = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows]
    return np.stack(images).reshape(len(rows), -1).astype(np.float32) / 255


def distinct(rows: list[dict], others: np.ndarray) -> list[dict]:
    """One drawing per subject and look, none that looks like one of the others."""
    all_names = {row["name"] for row in rows}
    variants = defaultdict(list)
    for row in rows:
        variants[subject(row["set"], row["name"], all_names, row["category"])].append(row["name"])
    plain = {plainest(found) for found in variants.values()}
    rows = [row for row in rows if row["name"] in plain]
    own = pixels(rows)
    new = differences(own, others).min(1) >= SAME
    apart = differences(own, own)
    kept: list[int] = []
    for index in np.flatnonzero(new):
        if not (apart[index, kept] < SAME).any():
            kept.append(int(index))
    print(
        f"{rows[0]['set']}: {len(all_names)} drawings, {len(plain)} subjects, {new.sum()} not a source's, {len(kept)} distinct"
    )
    return [rows[index] for index in kept]


def differences(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root mean square differences, of shape `(N, M)`."""
    squares = (rows**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * rows @ others.T
    return np.sqrt(np.maximum(squares, 0) / rows.shape[1])
