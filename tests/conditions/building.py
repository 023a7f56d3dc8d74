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
"""What tests of building control images share."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.training.control import to_images


def decoder(pipeline: Path) -> Callable[[torch.Tensor], list[Image.Image]]:
    """Decodes latents by a pipeline's VAE."""
    backbone = load_backbone(pipeline)
    backbone.load_encoders(torch.device("cpu"), torch.float32)
    return lambda latents: to_images(backbone.decode_latents(latents))
