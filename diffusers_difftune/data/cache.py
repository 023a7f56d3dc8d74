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
"""Images and prompts encoded once, in memory-mapped Arrow files whose names are hashes of all that went into them."""

import hashlib
import json
import logging
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from filelock import FileLock

from ..atomic import atomic_folder
from ..backbones import Backbone
from ..bank.fingerprint import weights_fingerprint
from ..errors import DiffTuneError, first_sentence
from .images import ImageTransform, load_rgb
from .plan import counter_generator
from .sources import difftune_cache_dir


if TYPE_CHECKING:
    from ..training.config import DataConfig
    from .dataset import TargetData


logger = logging.getLogger(__name__)

# Part of every key; count up when the same inputs come to be encoded or stored differently.
CACHE_VERSION = 1
ROWS_AT_ONCE = 16  # images that are read and decoded together, however few of them are encoded together


class TensorColumn:
    """A column of equally shaped tensors in a memory-mapped Arrow file; reading a row copies that row and no more."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.chunks = [from_arrow(chunk) for chunk in column.chunks]
        self.starts = np.cumsum([0, *map(len, self.chunks)]).tolist()

    def __getitem__(self, index: int) -> torch.Tensor:
        chunk = bisect_right(self.starts, index) - 1
        return torch.tensor(self.chunks[chunk][index - self.starts[chunk]])


class ImageCache:
    """The latent posteriors of the target images, unscaled, for each cached crop and flip.

    Args:
        path (`str` or `Path`): An Arrow file that [`build_image_cache`] wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        table = Dataset.from_file(str(path)).data
        self._posterior = TensorColumn(table["posterior"])
        self._top, self._left = table["top"].to_numpy(), table["left"].to_numpy()
        self._flips = 1 + int(table["flip"].to_numpy().max())
        # where each row's records start: crop after crop, and of each crop unflipped, flipped
        rows = table["row"].to_numpy()
        self._first = np.searchsorted(rows, np.arange(rows[-1] + 2)).tolist()

    def __reduce__(self) -> tuple:
        return ImageCache, (self.path,)  # a loader's worker maps the file itself

    def __len__(self) -> int:
        return len(self._first) - 1

    def crops(self, row: int) -> int:
        """How many crops of a row are cached."""
        return (self._first[row + 1] - self._first[row]) // self._flips

    def coordinates(self, row: int, crop: int = 0) -> tuple[int, int]:
        """Top and left of a crop in the resized image, in pixels."""
        record = self._first[row] + crop * self._flips
        return int(self._top[record]), int(self._left[record])

    def posterior(self, row: int, crop: int = 0, flip: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of a row's latents, each of shape (C, h, w), float32.

        Raises:
            IndexError: `flip` is asked for and the cache was built without.
        """
        if flip and self._flips == 1:
            raise IndexError("This cache was built without --random_flip.")
        mean, std = self._posterior[self._first[row] + crop * self._flips + flip]
        return mean, std


class PromptCache:
    """What the denoiser is conditioned on, by prompt.

    Args:
        path (`str` or `Path`): An Arrow file that [`build_prompt_cache`] wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        table = Dataset.from_file(str(path)).data
        self._index = {prompt: index for index, prompt in enumerate(table["prompt"].to_pylist())}
        self._columns = {name: TensorColumn(table[name]) for name in table.column_names if name != "prompt"}

    def __reduce__(self) -> tuple:
        return PromptCache, (self.path,)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, prompt: str) -> dict[str, torch.Tensor]:
        index = self._index[prompt]
        return {name: column[index] for name, column in self._columns.items()}


def build_image_cache(
    target: "TargetData",
    backbone: Backbone,
    config: "DataConfig",
    cache_dir: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch_size: int = 16,
) -> ImageCache:
    """Encodes the target images, or finds that this was done before.

    An image that is square after resizing, or any image with `--center_crop`, has one crop. Of other images
    `--crops_per_image` crops are encoded, spread over the image, the same ones in every run. With `--random_flip` each
    crop is encoded in both directions.

    Every process of a run calls this; the first one builds and the others wait for it. The encoders are loaded only if
    there is something to encode.

    Args:
        target ([`TargetData`]): The target data.
        backbone ([`Backbone`]): Whose VAE to use.
        config ([`DataConfig`]): The flags.
        cache_dir (`str` or `Path`, *optional*): As `--cache_dir`.
        device (`torch.device`, *optional*): Where to encode.
        dtype (`torch.dtype`, *optional*): Precision of the VAE; results are kept as float32.
        batch_size (`int`, *optional*, defaults to 16): Images encoded at once.

    Returns:
        [`ImageCache`]: The encoded images.

    Raises:
        DiffTuneError: The VAE's output is not finite in `dtype`.
    """
    cache_dir = difftune_cache_dir(cache_dir)
    transform = ImageTransform(config.resolution, config.image_interpolation_mode)
    key = cache_key(
        images=target.images_key,
        encoders=encoders_fingerprint(backbone, cache_dir, config.verify_cache),
        dtype=str(dtype),
        resolution=config.resolution,
        interpolation=config.image_interpolation_mode,
        crops=1 if config.center_crop else config.crops_per_image,
        flip=config.random_flip,
    )

    def views(row: int) -> list[tuple[int, int, int, bool, torch.Tensor]]:
        image = transform.resize(load_rgb(target.image(row)))
        if config.center_crop or image.width == image.height:
            boxes = [transform.crop_box(image.size)]
        else:
            spread = [spread_crop(row, crop, config.crops_per_image) for crop in range(config.crops_per_image)]
            boxes = [transform.crop_box(image.size, at) for at in spread]
        flips = (False, True) if config.random_flip else (False,)
        return [(row, *box, flip, transform.to_tensor(image, *box, flip)) for box in boxes for flip in flips]

    def encode(batch: dict[str, list[int]]) -> pa.Table:
        records = [record for of_row in threads.map(views, batch["row"]) for record in of_row]
        rows, tops, lefts, flips, pixels = zip(*records)
        parts = [torch.stack(backbone.encode_images(part)) for part in torch.stack(pixels).split(batch_size)]
        posterior = torch.cat(parts, dim=1).transpose(0, 1).float().cpu()
        if not posterior.isfinite().all():
            raise DiffTuneError(
                f"The VAE's output is not finite in {str(dtype).removeprefix('torch.')} for some of the images "
                f"{batch['row'][0]} to {batch['row'][-1]}; --mixed_precision no encodes in float32."
            )
        table = {"row": rows, "top": tops, "left": lefts, "flip": np.array(flips, dtype=np.int8)}
        return pa.table(table | {"posterior": to_arrow(posterior.numpy())})

    def build(folder: Path) -> None:
        backbone.load_encoders(torch.device(device), dtype)
        rows = Dataset.from_dict({"row": range(len(target))})
        write_dataset(rows, encode, ROWS_AT_ONCE, key, folder, "Encoding images")

    with ThreadPoolExecutor() as threads:  # PIL decodes and resizes without Python's lock
        cache = opened(ImageCache, find_or_build(cache_dir / "images" / key, build), len(target))
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
    batch_size: int = 64,
    verify: bool = False,
) -> PromptCache:
    """Encodes each distinct prompt once, or finds that this was done before; see [`build_image_cache`].

    Args:
        prompts (`list[str]`): The prompts; repeated ones are encoded once, their order does not matter.
        backbone ([`Backbone`]): Whose text encoders to use.
        cache_dir (`str` or `Path`, *optional*): As `--cache_dir`.
        device (`torch.device`, *optional*): Where to encode.
        dtype (`torch.dtype`, *optional*): Precision of the text encoders; results stay as the backbone returns them.
        batch_size (`int`, *optional*, defaults to 64): Prompts encoded at once.
        verify (`bool`, *optional*, defaults to `False`): Hash the encoders' files again.

    Returns:
        [`PromptCache`]: The encoded prompts.
    """
    cache_dir = difftune_cache_dir(cache_dir)
    prompts = sorted(set(prompts))
    key = cache_key(prompts=prompts, encoders=encoders_fingerprint(backbone, cache_dir, verify), dtype=str(dtype))

    def encode(batch: dict[str, list[str]]) -> pa.Table:
        # padded to one constant shape, so that a prompt's encoding does not depend on its neighbours in the batch
        encoded = backbone.encode_prompts(list(batch["prompt"]))
        return pa.table({"prompt": batch["prompt"]} | {k: to_arrow(v.cpu().numpy()) for k, v in encoded.items()})

    def build(folder: Path) -> None:
        backbone.load_encoders(torch.device(device), dtype)
        write_dataset(Dataset.from_dict({"prompt": prompts}), encode, batch_size, key, folder, "Encoding prompts")

    return opened(PromptCache, find_or_build(cache_dir / "prompts" / key, build), len(prompts))


def find_or_build(folder: Path, build: Callable[[Path], None]) -> Path:
    """The Arrow file in `folder`, after `build` filled the folder if it is not there.

    A file lock and not a barrier makes the other processes wait: building may take longer than a barrier's time limit,
    and each machine of several may have a cache of its own.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not folder.exists():
                with atomic_folder(folder) as aside:
                    build(aside)
    return folder / "data.arrow"


def opened(cache_class: type, file: Path, count: int) -> Any:
    """The cache in a file, if there is a whole one of so many rows or prompts in it.

    Raises:
        DiffTuneError: The file is damaged, or cut off.
    """
    try:
        cache = cache_class(file)
        if len(cache) == count:
            return cache
        found = f"{len(cache)} of {count} are there"
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        found = first_sentence(error)
    raise DiffTuneError(f"{file} of the cache is damaged ({found}); delete {file.parent}, and it is made again.")


def write_dataset(rows: Dataset, encode: Callable, batch_size: int, key: str, folder: Path, description: str) -> None:
    """Writes what `encode` makes of batches of `rows` to `folder`, as a dataset with our key for a fingerprint."""
    rows.map(
        encode,
        batched=True,
        batch_size=batch_size,
        remove_columns=rows.column_names,
        cache_file_name=str(folder / "data.arrow"),
        new_fingerprint=key,
        desc=description,
    )


def cache_key(**parts) -> str:
    """A hash over everything that a cache depends on."""
    return hashlib.sha256(json.dumps({"version": CACHE_VERSION, **parts}, sort_keys=True).encode()).hexdigest()


def encoders_fingerprint(backbone: Backbone, cache_dir: Path, verify: bool = False) -> str:
    """The fingerprint of everything in the pipeline that encodes images and prompts."""
    tokenizers = sorted(path.name for path in backbone.folder.glob("tokenizer*"))
    components = [name for name in backbone.weight_components if name != backbone.denoiser_name]
    found = weights_fingerprint(backbone.folder, [*components, *tokenizers], backbone.variant, cache_dir, verify)
    return found if backbone.tokenizer_key is None else f"{found} {backbone.tokenizer_key}"


def spread_crop(row: int, crop: int, count: int) -> tuple[float, float]:
    """Two numbers in [0, 1) that pick the crop-th of `count` crops, each crop from a part of the image of its own."""
    top, left = counter_generator(0, "cached crop", crop, row).random(2)
    return (crop + top) / count, (crop + left) / count


def to_arrow(array: np.ndarray) -> pa.Array:
    """A numpy array as nested Arrow lists of fixed size, so that the file knows the shape and type of a row."""
    values = pa.array(array.reshape(-1))
    for size in reversed(array.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


def from_arrow(array: pa.Array) -> np.ndarray:
    """The inverse of [`to_arrow`], as a read-only view of the same memory."""
    shape = []
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    return array.to_numpy(zero_copy_only=True).reshape(-1, *shape)
