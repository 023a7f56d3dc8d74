# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Images and prompts encoded once, row by row: a row that was encoded before, for whatever data, is found again.

What a row is encoded to is a function of the bytes of its image, or of its prompt, and of the settings that the cache's folders go by.
It does not depend on other rows: where an image is cropped is drawn from its bytes, and batches always have the same size,
since a batch of another size is rounded otherwise.
"""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from ...backbones import Backbone
from ...errors import DiffTuneError
from ...io.random import counter_generator
from ...publishing.public import DOWNLOADED
from ..images.decode import READER_VERSION, ImageTransform, load_rgb
from .place import difftune_cache_dir
from .store import Rows, find_or_encode, row_key, to_arrow


if TYPE_CHECKING:
    from ...config import DataConfig
    from ..dataset import TargetData


logger = logging.getLogger(__name__)

# Part of all settings; count up when the same inputs come to be encoded or stored differently, by other batches for one.
CACHE_VERSION = 3
ROWS_AT_ONCE = 16  # images that are read and decoded together, and prompts that are encoded together
PIXELS_AT_ONCE = 2**20  # of images that are encoded together
# What is kept of each view of an image beside its posterior.
VIEW = pa.schema(
    {"key": pa.binary(32), "top": pa.int64(), "left": pa.int64(), "height": pa.int64(), "width": pa.int64()}
)


class ImageCache:
    """The latent posteriors of the target images, unscaled: of each crop, and with 2 `flips` of each in both directions."""

    def __init__(self, rows: Rows, flips: int) -> None:
        self._rows, self._flips = rows, flips

    def __len__(self) -> int:
        return len(self._rows)

    def crops(self, row: int) -> int:
        return self._rows.records(row) // self._flips

    def coordinates(self, row: int, crop: int = 0) -> tuple[int, int]:
        """Top and left of a crop in the resized image, in pixels."""
        record = crop * self._flips
        return int(self._rows.value("top", row, record)), int(self._rows.value("left", row, record))

    def original_size(self, row: int) -> tuple[int, int]:
        """Height and width of a row's image before it was resized."""
        return int(self._rows.value("height", row)), int(self._rows.value("width", row))

    def posterior(self, row: int, crop: int = 0, flip: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of a row's latents, each of shape (C, h, w), float32."""
        if flip and self._flips == 1:
            raise IndexError("This cache was built without --random_flip.")
        mean, std = torch.tensor(self._rows.value("posterior", row, crop * self._flips + flip))
        return mean, std


class PromptCache:
    """What the denoiser is conditioned on, by prompt; of a row for each prompt."""

    def __init__(self, rows: Rows, prompts: list[str]) -> None:
        self._rows = rows
        self._index = {prompt: index for index, prompt in enumerate(prompts)}

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, prompt: str) -> dict[str, torch.Tensor]:
        index = self._index[prompt]
        return {name: torch.tensor(self._rows.value(name, index)) for name in self._rows.columns}


def build_image_cache(
    target: "TargetData",
    backbone: Backbone,
    config: "DataConfig",
    cache_dir: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ImageCache:
    """Encodes the target images, but for those that were encoded before, for whatever data.

    An image that is square after resizing, or any image with `--center_crop`, has one crop. Of other images
    `--crops_per_image` crops are encoded, spread over the image, the same ones in every run. With `--random_flip` each
    crop is encoded in both directions.

    Every process of a run calls this; the first one encodes and the others wait for it. The encoders are loaded only if
    there is something to encode. The VAE works in `dtype`, and what it encodes is kept as float32.

    Raises:
        DiffTuneError: The VAE's output is not finite in `dtype`, or a file of the cache is damaged.
    """
    cache_dir = difftune_cache_dir(cache_dir)
    transform = ImageTransform(backbone.resolution, config.image_interpolation_mode)
    at_once = max(1, min(ROWS_AT_ONCE, PIXELS_AT_ONCE // backbone.resolution**2))
    keys = [row_key(found) for found in target.images.hashes]
    flips = (False, True) if config.random_flip else (False,)
    settings = {
        "version": CACHE_VERSION,
        "reader": READER_VERSION,
        "encoder": backbone.fingerprint_of(["vae"], cache_dir, config.verify_cache),
        "dtype": str(backbone.encoder_dtype("vae", dtype)).removeprefix("torch."),
        "resolution": backbone.resolution,
        "interpolation": config.image_interpolation_mode,
        "crops": 1 if config.center_crop else config.crops_per_image,
        "center_crop": config.center_crop,
        "flip": config.random_flip,
    }

    def views(row: int) -> list[tuple[dict[str, Any], torch.Tensor]]:
        loaded = load_rgb(target.image(row))
        image = transform.resize(loaded)
        boxes = [transform.crop_box(image.size)]
        if not config.center_crop and image.width != image.height:
            spread = [spread_crop(keys[row], crop, config.crops_per_image) for crop in range(config.crops_per_image)]
            boxes = [transform.crop_box(image.size, at) for at in spread]
        facts = {"key": keys[row], "height": loaded.height, "width": loaded.width}
        return [
            (facts | {"top": top, "left": left}, transform.to_tensor(image, top, left, flip))
            for top, left in boxes
            for flip in flips
        ]

    def encode(rows: list[int]) -> Iterator[pa.Table]:
        backbone.load_encoders(torch.device(device), dtype)
        with ThreadPoolExecutor() as threads:  # PIL decodes and resizes without Python's lock
            for some in in_batches(rows, ROWS_AT_ONCE):
                facts, pixels = zip(*(view for of_row in threads.map(views, some) for view in of_row))
                posterior = torch.cat([encoded(part) for part in in_batches(pixels, at_once)]).float().cpu()
                finite = posterior.isfinite().flatten(1).all(1).tolist()
                if broken := {fact["key"] for fact, is_finite in zip(facts, finite) if not is_finite}:
                    bad = [target.name(row) for row in some if keys[row] in broken]
                    raise DiffTuneError(
                        f"The VAE's output is not finite in {settings['dtype']} for {', '.join(bad)};"
                        " --mixed_precision no encodes in float32."
                    )
                table = pa.Table.from_pylist(list(facts), VIEW)
                yield table.append_column("posterior", to_arrow(posterior.numpy()))

    def encoded(pixels: list[torch.Tensor]) -> torch.Tensor:
        mean, std = backbone.encode_images(torch.stack(filled_up(pixels, at_once)))
        return torch.stack([mean, std], dim=1)[: len(pixels)]

    use = (model_name(backbone.folder), data_name(config))
    cache = ImageCache(find_or_encode(cache_dir, "images", settings, keys, use, encode), len(flips))
    several = sum(cache.crops(row) > 1 for row in range(len(cache)))
    if several:
        logger.info(
            f"{several} of {len(cache)} images are not square: {config.crops_per_image} crops of each are cached "
            "(--crops_per_image); --center_crop takes the centre only, --no_cache a new random crop every time."
        )
    return cache


def build_prompt_cache(
    prompts: list[str],
    backbone: Backbone,
    cache_dir: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    data: str = "prompts",
    verify: bool = False,
) -> PromptCache:
    """Encodes each distinct prompt once, but for those that were encoded before; see [`build_image_cache`].

    The text encoders work in `dtype`, and what the backbone returns is kept. `data` is what the prompts are of, as
    `difftune cache list` says it; see [`data_name`]. With `verify`, the encoders' files are hashed again.
    """
    cache_dir = difftune_cache_dir(cache_dir)
    prompts = sorted(set(prompts))
    keys = [row_key(prompt) for prompt in prompts]
    tokenizers = sorted(path.name for path in backbone.folder.glob("tokenizer*"))
    encoders = [name for name in backbone.weight_components if name not in (backbone.denoiser_name, "vae")]
    settings = {
        "version": CACHE_VERSION,
        "pipeline": backbone.pipeline_class.__name__,
        "encoder": backbone.fingerprint_of([*encoders, *tokenizers], cache_dir, verify),
        "tokenizer": backbone.tokenizer_key,
        "dtype": str(dtype).removeprefix("torch."),
    }

    def encode(rows: list[int]) -> Iterator[pa.Table]:
        backbone.load_encoders(torch.device(device), dtype)
        for some in in_batches(rows, ROWS_AT_ONCE):
            # padded to one constant shape, so that a prompt's encoding does not depend on its neighbours in the batch
            encoded = backbone.encode_prompts(filled_up([prompts[row] for row in some], ROWS_AT_ONCE))
            columns = {name: to_arrow(values[: len(some)].cpu().numpy()) for name, values in encoded.items()}
            yield pa.table({"key": pa.array([keys[row] for row in some], pa.binary(32))} | columns)

    use = (model_name(backbone.folder), data)
    return PromptCache(find_or_encode(cache_dir, "prompts", settings, keys, use, encode), prompts)


def in_batches(items: list | tuple, size: int) -> Iterator[list]:
    """The items in lists of at most so many."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def filled_up(items: list, size: int) -> list:
    """The items, the last one repeated so that there are so many."""
    return items + items[-1:] * (size - len(items))


def spread_crop(key: bytes, crop: int, count: int) -> tuple[float, float]:
    """Two numbers in [0, 1) that pick the crop-th of `count` crops of an image, each from a part of its own."""
    top, left = counter_generator(0, "cached crop", crop, int.from_bytes(key[:8], "little")).random(2)
    return (crop + top) / count, (crop + left) / count


def model_name(folder: Path) -> str:
    """What a pipeline's folder is called: the id of a model from the Hub, or its path."""
    downloaded = DOWNLOADED.search(str(folder))
    return "/".join(downloaded.groups()) if downloaded else os.path.abspath(folder)


def data_name(config: "DataConfig") -> str:
    """What the data of a configuration are called."""
    if config.dataset_name is not None:
        return " ".join(filter(None, (config.dataset_name, config.dataset_config_name)))
    return os.path.abspath(Path(config.train_data_dir or "").expanduser())
