# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Depth, normals and segmentation by models of the Hub, through transformers and diffusers. No code of theirs runs."""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForDepthEstimation, AutoModelForSemanticSegmentation
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES,
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
)

from ..data.cache.place import difftune_cache_dir
from ..errors import DiffTuneError, first_sentence
from ..io.hashing import file_sha256
from ..io.hub import pinned
from .extractor import Extractor
from .pixels import normal_colors


# The model of each kind, and the commit of it that is used: what a condition is must not change from one day to another.
DEFAULT_MODELS = {
    "depth": ("depth-anything/Depth-Anything-V2-Small-hf", "5426e4f0f36572d16453bbda7a8389317b1bef99"),
    "normal": ("prs-eth/marigold-normals-v1-1", "09cfdd258cb281fa006cf1afcd2284376d16687d"),
    "segmentation": ("openmmlab/upernet-convnext-small", "550b68d291f9a7e4874065c6eec0676b2ba821e6"),
}
# What a model of the kind is called in its config: transformers' own classes, or diffusers' pipeline.
CLASSES = {
    "depth": set(MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES.values()),
    "normal": {"MarigoldNormalsPipeline"},
    "segmentation": set(MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.values()),
}
# These estimate distance, in metres; all other models how near something is.
METRIC_DEPTH = {"glpn", "zoedepth", "depth_pro"}
SEED = 0  # of Marigold's first noise, the same for every image


def model_extractor(
    kind: str,
    model: str | None,
    revision: str | None,
    device: str | torch.device,
    cache_dir: str | None,
    token: str | None,
) -> Extractor:
    """The extractor of `"depth"`, `"normal"` or `"segmentation"` by a model; see [`make_extractor`].

    The revision is pinned: its commit is found first, and everything is loaded from that commit. Settings have the `commit`, or a
    `fingerprint` of a folder's files.
    """
    if model is None:
        model, commit = DEFAULT_MODELS[kind]
        revision = revision or commit
    index = "model_index.json" if kind == "normal" else "config.json"
    local = Path(model).is_dir()
    default = (model, revision) == DEFAULT_MODELS[kind]  # a fixed commit, which may have a pickle
    try:
        config_file, where = pinned(model, revision, cache_dir, token, index)
        config = json.loads(config_file.read_text())
        check_class(kind, model, config)
        settings: dict[str, Any] = {"kind": kind, "model": Path(model).resolve().name if local else model}
        if local:
            settings["fingerprint"] = folder_fingerprint(Path(model), cache_dir)
        else:
            settings["commit"] = where["revision"]
        load = {"depth": load_depth, "normal": load_normals, "segmentation": load_segmentation}[kind]
        network, extract, parameters = load(model, where, None if default else True)
    except DiffTuneError:
        raise
    except Exception as error:  # the Hub client, requests, transformers and diffusers raise dozens of classes here
        raise DiffTuneError(
            f"The {kind} model {model} is neither a folder with a model nor one that can be had from the Hub:"
            f" {first_sentence(error)}."
        ) from error

    def extract_on_device(images: list[Image.Image]) -> list[Image.Image]:
        network.to(device)  # if it is there, this does nothing
        return extract(images)

    return Extractor(settings | {"parameters": parameters}, extract_on_device, lambda: network.to("cpu"))


def check_class(kind: str, model: str, config: dict[str, Any]) -> None:
    """Refuses a model for another task, or one that needs code of its own."""
    found = config.get("_class_name") if kind == "normal" else next(iter(config.get("architectures") or []), None)
    if not isinstance(found, str) or found not in CLASSES[kind]:  # a list names a module of the repository's own
        wanted = "a MarigoldNormalsPipeline" if kind == "normal" else f"a {kind} model of transformers"
        raise DiffTuneError(f"The {kind} model {model} is a {found or 'model without a class'}; it must be {wanted}.")


def folder_fingerprint(folder: Path, cache_dir: str | None) -> str:
    """A hash of the files of a model in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".bin", ".txt"))
    hashes = [
        (str(path.relative_to(folder)), file_sha256(path, difftune_cache_dir(cache_dir)))
        for path in files
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


Extract = Callable[[list[Image.Image]], list[Image.Image]]
# The network or pipeline, on the processor; what extracts with it, wherever it is; the parameters of the result.
Loaded = tuple[Any, Extract, dict[str, Any]]


def load_depth(model: str, where: dict[str, Any], safe: bool | None) -> Loaded:
    """Depth in each image's own range: the nearest is white, the farthest black."""
    processor, network = load_with_processor(AutoModelForDepthEstimation, model, where, safe)
    config = network.config
    metric = config.model_type in METRIC_DEPTH or getattr(config, "depth_estimation_type", None) == "metric"

    def to_images(outputs: Any, sizes: list[tuple[int, int]]) -> list[Image.Image]:
        found = processor.post_process_depth_estimation(outputs, target_sizes=sizes)
        return [depth_image(one["predicted_depth"].squeeze().float().cpu(), metric) for one in found]

    return network, in_equal_sizes(network, processor, to_images, model), {"metric": metric}


def depth_image(depth: torch.Tensor, metric: bool) -> Image.Image:
    """Estimated depth of shape (H, W) as an image."""
    nearness = -depth if metric else depth
    nearness = nearness - nearness.min()
    nearness = nearness / nearness.max().clamp(min=1e-6)
    return Image.fromarray((255 * nearness).round().to(torch.uint8).numpy()).convert("RGB")


def load_segmentation(model: str, where: dict[str, Any], safe: bool | None) -> Loaded:
    """The likeliest class of each pixel, in a colour of its own."""
    processor, network = load_with_processor(AutoModelForSemanticSegmentation, model, where, safe)
    palette = class_palette(network.config.num_labels)

    def to_images(outputs: Any, sizes: list[tuple[int, int]]) -> list[Image.Image]:
        found = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        return [Image.fromarray(palette[one.cpu().numpy()]) for one in found]

    return network, in_equal_sizes(network, processor, to_images, model), {"classes": len(palette)}


def class_palette(count: int) -> np.ndarray:
    """A colour for each class, uint8 of shape (count, 3): the bits of its number, from 1, spread over the channels.

    Low bits become the high bits of red, green and blue in turn, so that neighbouring numbers have colours that differ
    much. None is black, which stands for no condition.
    """
    numbers = np.arange(1, count + 1)
    colors = np.zeros((count, 3), np.uint8)
    for bit in range(24):
        colors[:, bit % 3] |= ((numbers >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colors


def load_normals(model: str, where: dict[str, Any], safe: bool | None) -> Loaded:
    """Marigold's normals: x to the right, y up, z to the viewer, with [−1, 1] as [0, 255]."""
    from diffusers import MarigoldNormalsPipeline  # loads much that the others do not need

    pipeline = MarigoldNormalsPipeline.from_pretrained(model, use_safetensors=safe, **where)
    pipeline.set_progress_bar_config(disable=True)

    def extract(images: list[Image.Image]) -> list[Image.Image]:
        # one by one, each from the same noise: an image's normals do not depend on its neighbours in a batch
        found = [pipeline(image, generator=torch.Generator().manual_seed(SEED)).prediction[0] for image in images]
        return [Image.fromarray(normal_colors(normals)) for normals in found]

    return pipeline, extract, {"seed": SEED}


def in_equal_sizes(network: Any, processor: Any, to_images: Callable[..., list[Image.Image]], model: str) -> Extract:
    """Gives a model images of one size together, others one by one; some models keep the size they are given."""

    def estimate(images: list[Image.Image]) -> list[Image.Image]:
        outputs = network(**processor(images=images, return_tensors="pt").to(network.device))
        return to_images(outputs, [(image.height, image.width) for image in images])

    @torch.no_grad()
    def extract(images: list[Image.Image]) -> list[Image.Image]:
        batches = [images] if len({image.size for image in images}) == 1 else [[image] for image in images]
        try:
            return [found for batch in batches for found in estimate(batch)]
        except (ValueError, RuntimeError) as error:
            sizes = " or ".join(sorted({f"{image.width} × {image.height}" for image in images})[:3])
            raise DiffTuneError(
                f"The model {model} does not take images of {sizes}: {first_sentence(error)}."
            ) from error

    return extract


def load_with_processor(auto_class: Any, model: str, where: dict[str, Any], safe: bool | None) -> tuple[Any, Any]:
    """A model of transformers and its preprocessing, by PIL: the same with and without torchvision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        processor = AutoImageProcessor.from_pretrained(model, backend="pil", trust_remote_code=False, **where)
    network = auto_class.from_pretrained(model, trust_remote_code=False, use_safetensors=safe, **where)
    return processor, network.eval()
