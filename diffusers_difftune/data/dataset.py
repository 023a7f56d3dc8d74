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
"""The target data: images and captions, checked before anything expensive happens."""

import hashlib
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from filelock import FileLock
from PIL import Image
from tqdm.auto import tqdm

from ..atomic import write_bytes_atomic
from ..errors import DiffTuneError
from ..filehash import file_sha256
from .images import UnreadableImage, decode
from .plan import Slot
from .sources import as_captions, difftune_cache_dir, open_source


if TYPE_CHECKING:
    from ..training.config import DataConfig


logger = logging.getLogger(__name__)

# How many rows an error message lists.
MOST_LISTED = 100


class TargetData:
    """The rows to fine-tune on; [`load_target_data`] makes it.

    Args:
        dataset (`datasets.Dataset`): Has the column `image_column`, undecoded.
        image_column (`str`): The column with the images.
        rows (`np.ndarray`): The rows of `dataset` in use.
        captions (`list[list[str]]`): The captions of each row in use.
        index_dir (`Path`): Where file hashes are remembered.
        verify (`bool`, *optional*, defaults to `False`): Hash every file again.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_column: str,
        rows: np.ndarray,
        captions: list[list[str]],
        index_dir: Path,
        verify: bool = False,
    ) -> None:
        self._images = dataset.select_columns([image_column])
        self._column = image_column
        self._rows = rows
        self._captions = captions
        self.index_dir = index_dir
        self._verify = verify

    def __len__(self) -> int:
        return len(self._rows)

    def captions(self, row: int) -> list[str]:
        """The captions of a row, at least one."""
        return self._captions[row]

    def image(self, row: int) -> Image.Image:
        """The image of a row, decoded, of whatever mode and size it is."""
        return decode(self._images[int(self._rows[row])][self._column])

    def name(self, row: int) -> str:
        """How messages call a row: its number in the data, from 0, and its image's file if it has one."""
        image = self._images[int(self._rows[row])][self._column]
        file = f" {Path(image['path']).name}" if image and image["path"] else ""
        return f"row {self._rows[row]}{file}"

    def example(self, slot: Slot) -> tuple[Callable[[], Image.Image], list[str]]:
        """A function that decodes the image, and the captions, of the row in a slot of the batch plan."""
        return partial(self.image, slot.row), self._captions[slot.row]

    def distinct_captions(self) -> list[str]:
        """All captions, each once, in the order of their first appearance."""
        return list(dict.fromkeys(caption for captions in self._captions for caption in captions))

    def select(self, rows: list[int]) -> "TargetData":
        """Some of the rows."""
        captions = [self._captions[row] for row in rows]
        return TargetData(self._images, self._column, self._rows[rows], captions, self.index_dir, self._verify)

    @cached_property
    def images_key(self) -> str:
        """SHA-256 over the bytes of the images, in order; a file that was hashed before is not read again."""
        digest = hashlib.sha256()
        files = [file["filename"] for file in self._images.cache_files]
        bytes_column = pc.struct_field(self._images.data.column(self._column), "bytes")
        if files and not bytes_column.null_count:  # then all images are inside these few files
            for file in files:
                digest.update(file_sha256(file, self.index_dir, self._verify).encode())
            digest.update(self._column.encode() + np.asarray(self._rows, dtype="<i8").tobytes())
        else:
            for batch in self._images.select(self._rows).iter(1000):
                for image in batch[self._column]:
                    digest.update(self._image_hash(**(image or {})).encode())
        return digest.hexdigest()

    def _image_hash(self, bytes: bytes | None = None, path: str | None = None) -> str:
        if bytes is not None:
            return hashlib.sha256(bytes).hexdigest()
        try:
            return "no image" if path is None else file_sha256(path, self.index_dir, self._verify)
        except OSError:
            return "unreadable"

    @cached_property
    def content_key(self) -> str:
        """SHA-256 over the bytes of the images and the captions, in order."""
        return hashlib.sha256(json.dumps([self.images_key, self._captions]).encode()).hexdigest()


def load_target_data(config: "DataConfig", seed: int, cache_dir: str | Path | None = None) -> TargetData:
    """Opens the target data and checks every row of it; needs no weights.

    Images are decoded once to see that they can be; which of them cannot is remembered by their content. Every process
    of a run calls this; one at a time looks at the data, and those after it find what the first one learned.

    Args:
        config ([`DataConfig`]): The flags.
        seed (`int`): Draws the rows of `--max_train_samples`, as diffusers' scripts do.
        cache_dir (`str` or `Path`, *optional*): As `--cache_dir`.

    Returns:
        [`TargetData`]: The rows.

    Raises:
        DiffTuneError: A flag is out of range, the data cannot be opened, or rows lack a caption or a readable image.
    """
    check_data_flags(config)
    index_dir = difftune_cache_dir(cache_dir)
    source = f"{config.dataset_name} {config.dataset_config_name} {config.train_data_dir}"
    try:
        index_dir.mkdir(parents=True, exist_ok=True)
        turn = FileLock(index_dir / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.lock").acquire()
    except OSError as error:
        raise DiffTuneError(f"--cache_dir: {index_dir} cannot be written to: {error.strerror}.") from None
    with turn:
        return read_target_data(config, seed, cache_dir, index_dir)


def read_target_data(config: "DataConfig", seed: int, cache_dir: str | Path | None, index_dir: Path) -> TargetData:
    """[`load_target_data`] once it is this process's turn."""
    dataset = open_source(config, cache_dir)
    rows = np.arange(len(dataset))
    if config.max_train_samples is not None:
        if config.max_train_samples > len(dataset):
            raise DiffTuneError(
                f"--max_train_samples is {config.max_train_samples}, but the target data has {len(dataset)} rows; "
                "without the flag all rows are used."
            )
        shuffled = Dataset.from_dict({"row": rows}).shuffle(seed=seed)
        rows = np.array(shuffled[: config.max_train_samples]["row"], dtype=np.int64)
    if not len(rows):
        raise DiffTuneError("The target data has no rows; --dataset_name or --train_data_dir must name some.")

    values = dataset.select_columns([config.caption_column]).select(rows)[:][config.caption_column]
    captions = [as_captions(value, config.caption_column) for value in values]
    target = TargetData(dataset, config.image_column, rows, captions, index_dir, config.verify_cache)

    bad = bad_images(target)
    if bad and not config.skip_bad_images:
        raise DiffTuneError(
            f"{len(bad)} of {len(target)} images of the target data cannot be read: "
            f"{listed([f'{target.name(row)} ({reason})' for row, reason in bad.items()])}; "
            "repair or remove them, or leave them out with --skip_bad_images."
        )
    if bad:
        logger.warning(f"{len(bad)} of {len(target)} images cannot be read and are left out (--skip_bad_images).")
        target = target.select([row for row in range(len(target)) if row not in bad])
        if not len(target):
            raise DiffTuneError("--skip_bad_images leaves no rows: not one image of the target data can be read.")

    blank = [row for row in range(len(target)) if not has_captions(target.captions(row))]
    if blank:
        raise DiffTuneError(
            f"--caption_column: {len(blank)} of {len(target)} rows have an empty caption or none in the column "
            f"{config.caption_column}: {listed([target.name(row) for row in blank])}; every row needs one."
        )
    return target


def check_data_flags(config: "DataConfig") -> None:
    """The flags that can be judged without looking at the data."""
    for name in ("resolution", "crops_per_image", "max_train_samples"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise DiffTuneError(f"--{name} is {value}; it must be at least 1.")
    if config.dataloader_num_workers < 0:
        raise DiffTuneError(f"--dataloader_num_workers is {config.dataloader_num_workers}; it must be at least 0.")


def check_resolution(resolution: int, vae_scale_factor: int) -> None:
    """Raises a [`DiffTuneError`] if the VAE cannot halve images of this resolution as often as it does."""
    if resolution % vae_scale_factor:
        below = resolution - resolution % vae_scale_factor
        works = " or ".join(str(size) for size in (below, below + vae_scale_factor) if size)
        raise DiffTuneError(
            f"--resolution is {resolution}; this model's VAE needs a multiple of {vae_scale_factor}, such as {works}."
        )


def has_captions(captions: list[str]) -> bool:
    """Whether there are captions and none of them is empty."""
    return bool(captions) and all(caption and not caption.isspace() for caption in captions)


def bad_images(target: TargetData) -> dict[int, str]:
    """The rows whose images cannot be decoded, with the reason."""
    remembered = target.index_dir / "checked" / f"{target.images_key}.json"
    if remembered.is_file():
        return {int(row): reason for row, reason in json.loads(remembered.read_text()).items()}

    def why_bad(row: int) -> str | None:
        try:
            target.image(row)
        except UnreadableImage as error:
            return error.reason
        return None

    with ThreadPoolExecutor() as threads:
        reasons = threads.map(why_bad, range(len(target)))
        progress = tqdm(reasons, "Checking images", len(target), delay=2)
        bad = {row: reason for row, reason in enumerate(progress) if reason}
    remembered.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(remembered, json.dumps(bad).encode())
    return bad


def listed(names: list[str]) -> str:
    """The names, with commas; of very many the first ones."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more
