# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Features of small drawings for FID and KID: EfficientNet-lite0 (ImageNet), projected to few dimensions.

    python examples/icons/features.py --fit examples/icons/make/raw/source_train.parquet    # made features.safetensors

Nothing is downloaded at run time. The projection is a whitening-free PCA fitted once on real source drawings: with a few
hundred samples, a Frechet distance in 1,280 dimensions would measure little but the number of samples.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffusers_difftune.evaluation.features import ProjectedFeatures, make_features
from diffusers_difftune.evaluation.metrics import extract_features
from diffusers_difftune.evaluation.projection import save_projection


PROJECTION = Path(__file__).resolve().parent / "features.safetensors"
NAME = "efficientnet-lite0-pca64"


class IconFeatures(ProjectedFeatures):
    """Images (N, 3, H, W), uint8 or float in [0, 1], to 64 features (N, 64), float64."""

    def __init__(self) -> None:
        super().__init__(PROJECTION)


def fit(parquet: Path, dimensions: int, count: int, seed: int) -> None:
    """Fits the projection on `count` drawings and writes `features.safetensors`."""
    import pyarrow.parquet as pq

    column = pq.read_table(parquet, columns=["image"])["image"].to_pylist()
    rows = np.random.default_rng(seed).permutation(len(column))[:count]
    drawings = [np.asarray(Image.open(io.BytesIO(column[i]["bytes"])).convert("RGB")) for i in rows]
    images = torch.from_numpy(np.stack(drawings)).permute(0, 3, 1, 2)
    extractor = make_features("efficientnet")
    features = extract_features(extractor, images, batch_size=100)
    explained = save_projection(PROJECTION, extractor.name, features, dimensions)
    print(f"{PROJECTION}: {dimensions} dimensions of {count} drawings explain {explained:.1%} of the variance")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, required=True, help="Parquet file of real drawings")
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fit(options.fit, options.dimensions, options.count, options.seed)
