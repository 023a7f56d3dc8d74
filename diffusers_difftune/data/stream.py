# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Target data of unknown length, read while training."""

import logging
from collections.abc import Iterator
from functools import cache, partial
from itertools import count, islice
from pathlib import Path
from typing import cast

import numpy as np
from datasets import IterableDataset
from PIL import Image

from .. import errors
from ..config import DataConfig
from ..config.checks import check_values
from ..errors import DiffTuneError, first_sentence, quoted
from .dataset import Example, has_captions
from .images.check import load_images
from .images.decode import UnreadableImage, decode
from .plan import Slot
from .reading.opening import open_source
from .report import DataReport
from .source import Source, as_captions


logger = logging.getLogger(__name__)

# Rows that are held to be drawn from at random; a stream cannot be shuffled as a whole.
SHUFFLE_BUFFER = 1000


class StreamedTarget:
    """Rows of a stream by their ordinal, the number of target rows that came before in the run.

    Every process, and every worker of its loader, reads the whole stream and decodes its own rows only (all rows with
    `--skip_bad_images`, which otherwise could not be counted). Ordinals should be asked for in ascending order; going
    back starts the stream anew. When the stream ends it begins again, shuffled differently, as `seed` has it. The first row is
    looked at when the stream is opened.
    """

    def __init__(self, config: DataConfig, seed: int, cache_dir: str | Path | None = None) -> None:
        check_values(config)
        source = Source(config, cache_dir, streaming=True)
        self._image_column, self._caption_column = config.image_column, source.text_column
        self._condition_column = config.conditioning_image_column
        self._skip_bad, self._told_of_bad = config.skip_bad_images, False
        self._places = source.places
        self.report = DataReport()
        with errors.flag(source.flag):
            stream = cast(IterableDataset, open_source(source, self.report))
        if config.max_train_samples is not None:
            stream = stream.take(config.max_train_samples)
        for row in self._usable(stream):
            self._captions(row, 0)
            self._images(row, 0)
            break
        else:
            raise DiffTuneError("The streamed target data has no rows whose images can be read.")
        self._stream: IterableDataset = stream
        self._seed = seed
        self._rows: Iterator[dict] | None = None  # opened by the process that reads: files must not cross a fork
        self._next = 0

    def __len__(self) -> int:
        """1: to a batch plan a stream is a single row, another one every time; the plan's ordinals tell them apart."""
        return 1

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_rows": None}

    def example(self, slot: Slot) -> Example:
        """The row that fills a slot of the batch plan.

        Raises:
            DiffTuneError: The row has no caption or, raised by its functions, no readable image.
        """
        if self._rows is None or slot.ordinal < self._next:
            self._rows, self._next = self._endless(), 0
        row = next(islice(self._rows, slot.ordinal - self._next, None))
        self._next = slot.ordinal + 1
        images = cache(partial(self._images, row, slot.ordinal))
        condition = None if self._condition_column is None else lambda: images()[1]
        return Example(lambda: images()[0], self._captions(row, slot.ordinal), condition)

    def first_captions(self, number: int) -> list[str]:
        """The captions of the first `number` target rows of the run, each once."""
        rows = enumerate(islice(self._endless(), number))
        return list(dict.fromkeys(caption for ordinal, row in rows for caption in self._captions(row, ordinal)))

    def _captions(self, row: dict, ordinal: int) -> list[str]:
        with errors.flag("--caption_column"):
            captions = as_captions(row[self._caption_column], self._caption_column)
            if not has_captions(captions):
                raise DiffTuneError(f"Row {ordinal} of the stream has an empty caption or none.")
            return captions

    def _images(self, row: dict, ordinal: int) -> list[Image.Image]:
        """The image of a row, and its control image where there is one."""
        try:
            return self._load(row)
        except UnreadableImage as error:
            unusable = "read" if self._condition_column is None else "used"
            raise DiffTuneError(
                f"The image of row {ordinal} of the stream cannot be {unusable} ({error.reason}); --skip_bad_images leaves such"
                " rows out."
            ) from None

    def _load(self, row: dict) -> list[Image.Image]:
        column = self._condition_column
        control = None if column is None else partial(self._decode, row[column])
        return load_images(partial(self._decode, row[self._image_column]), control)

    def _decode(self, stored: dict | None) -> Image.Image:
        if stored and stored["bytes"] is None and stored["path"] is not None:
            if problem := self._places.problem(stored["path"]):
                raise UnreadableImage(f"{quoted(stored['path'])} {problem}")
        return decode(stored)

    def _is_bad(self, row: dict) -> bool:
        """Whether a row's images cannot be used; of the first one it is said why."""
        try:
            self._load(row)
        except UnreadableImage as error:
            if not self._told_of_bad:
                self._told_of_bad = True
                path = (row[self._image_column] or {}).get("path")
                name = f", {Path(path).name}" if path else ""
                logger.warning(
                    f"An image of the stream cannot be used and is left out{name} ({error.reason}); others like it are left"
                    " out without another word (--skip_bad_images)."
                )
            return True
        return False

    def _usable(self, stream: IterableDataset) -> Iterator[dict]:
        """The rows of one pass; with `--skip_bad_images` only those whose images can be read."""
        # in a loader's worker, iterating over the stream itself would give a part of it only
        batches = stream.iter(batch_size=1)
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:  # the network, a damaged file; every loader has errors of its own
                raise DiffTuneError(
                    f"The stream of target data cannot be read on: {first_sentence(error)}."
                ) from error
            if batch is None:
                return
            row = {name: values[0] for name, values in batch.items()}
            if not (self._skip_bad and self._is_bad(row)):
                yield row

    def _endless(self) -> Iterator[dict]:
        """The rows of epoch after epoch."""
        for epoch in count():
            # not by `set_epoch`: the workers of a loader share that number, and would change it for each other
            generator = np.random.default_rng([self._seed, epoch])
            yield from self._usable(self._stream.shuffle(generator=generator, buffer_size=SHUFFLE_BUFFER))
