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
"""Target data of unknown length, read while training."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import IterableDataset
from PIL import Image

from ..errors import DiffTuneError
from .dataset import check_flags, has_captions
from .images import open_image, why_unreadable
from .plan import Slot
from .sources import as_captions, open_source


if TYPE_CHECKING:
    from ..training.config import DataConfig

logger = logging.getLogger(__name__)

# Rows that are held to be drawn from at random; a stream cannot be shuffled as a whole.
SHUFFLE_BUFFER = 1000


class StreamedTarget:
    """Rows of a stream by their ordinal, the number of target rows that came before in the run.

    Every process, and every worker of its loader, reads the whole stream and decodes its own rows only. Ordinals should
    be asked for in ascending order; going back starts the stream anew. When the stream ends it begins again, shuffled
    differently. A batch plan for it has `num_target=1`, since only the ordinals matter.

    Args:
        stream (`datasets.IterableDataset`): Has the image column, undecoded, and the caption column.
        config ([`DataConfig`]): The flags.
        seed (`int`): Shuffles the stream.
    """

    def __init__(self, stream: IterableDataset, config: "DataConfig", seed: int) -> None:
        if config.max_train_samples is not None:
            stream = stream.take(config.max_train_samples)
        self._stream = stream.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        self._image_column, self._caption_column = config.image_column, config.caption_column
        self._skip_bad = config.skip_bad_images
        self._rows: Iterator[dict] | None = None
        self._next = 0

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_rows": None}  # a loader's worker reads the stream itself

    def example(self, slot: Slot) -> tuple[Callable[[], Image.Image], list[str]]:
        """A function that opens the image, and the captions, of the row that fills a slot of the batch plan.

        Raises:
            DiffTuneError: The row has no caption or no readable image, or the stream has no rows.
        """
        if self._rows is None or slot.ordinal < self._next:
            self._rows, self._next = self._endless(), 0
        while self._next < slot.ordinal:
            next(self._rows)
            self._next += 1
        row = next(self._rows)
        self._next += 1
        captions = as_captions(row[self._caption_column], self._caption_column)
        if not has_captions(captions):
            raise DiffTuneError(f"--caption_column: row {slot.ordinal} of the stream has an empty caption or none.")
        if not self._skip_bad and (reason := why_unreadable(self._opener(row))):
            raise DiffTuneError(
                f"The image of row {slot.ordinal} of the stream cannot be read ({reason}); --skip_bad_images leaves such "
                "rows out."
            )
        return self._opener(row), captions

    def _opener(self, row: dict) -> Callable[[], Image.Image]:
        return partial(open_image, row[self._image_column])

    def _endless(self) -> Iterator[dict]:
        """The rows of epoch after epoch; with `--skip_bad_images` only those whose images can be read."""
        epoch = 0
        while True:
            self._stream.set_epoch(epoch)
            empty = True
            for row in self._stream:
                if self._skip_bad and why_unreadable(self._opener(row)):
                    continue
                empty = False
                yield row
            if empty:
                raise DiffTuneError("The streamed target data has no rows whose images can be read.")
            epoch += 1


def stream_target_data(config: "DataConfig", seed: int, cache_dir: str | Path | None = None) -> StreamedTarget:
    """Opens the target data as a stream and checks its columns and first row.

    Args:
        config ([`DataConfig`]): The flags.
        seed (`int`): Shuffles the stream.
        cache_dir (`str` or `Path`, *optional*): As `--cache_dir`.

    Returns:
        [`StreamedTarget`]: The rows.

    Raises:
        DiffTuneError: A flag is out of range, the data cannot be opened, or its first row cannot be used.
    """
    check_flags(config)
    target = StreamedTarget(open_source(config, cache_dir, streaming=True), config, seed)
    target.example(Slot(is_source=False, row=0, epoch=0, ordinal=0))
    return target
