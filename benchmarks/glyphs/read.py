# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Reading what render.py wrote."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image


def read_glyphs(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of a Parquet file in [−1, 1], of shape `(N, 1, 24, 24)`, and their labels, of shape `(N,)`."""
    table = pq.read_table(file, columns=["image", "label"])
    pixels = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"].to_pylist()]
    images = torch.from_numpy(np.stack(pixels)).unsqueeze(1).float() / 127.5 - 1
    return images, torch.tensor(table["label"].to_pylist())


def families(file: Path) -> list[str]:
    """The type family of every row."""
    return pq.read_table(file, columns=["family"])["family"].to_pylist()


def class_names(file: Path) -> list[str]:
    """The names of a set's classes."""
    features = json.loads(pq.read_schema(file).metadata[b"huggingface"])["info"]["features"]
    return features["label"]["names"]
