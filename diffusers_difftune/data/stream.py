# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Target data of unknown length, read while training."""

import logging
from collections.abc import Callable, Iterator
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
from .images.check import mismatch, way_out
from .images.decode import UnreadableImage, decode
from .plan import Slot
from .reading.opening import open_source
from .source import Source, as_captions


logger = logging.getLogger(__name__)

# Rows that are held to be drawn from at random; a stream cannot be shuffled as a whole.
SHUFFLE_BUFFER = 1000


class StreamedTarget:
    """Rows of a stream by their ordinal, the number of target rows that came before in the run.

    Every process, and every worker of its loader, reads the whole stream and decodes its own rows only (all rows with
    `--skip_bad_images`, which otherwise could not be counted). Ordinals should be asked for in ascending order; going
    back starts the stream anew. When the stream ends it begins again, shuffled differently.

    Args:
        config ([`DataConfig`]): The flags.
        seed (`int`): Shuffles the stream.
        cache_dir (`str` or `Path`, *optional*): As `--cache_dir`.

    Raises:
        DiffTuneError: A flag is out of range, the data cannot be opened, or its first row cannot be used.
    """

    def __init__(self, config: DataConfig, seed: int, cache_dir: str | Path | None = None) -> None:
        check_values(config)
        source = Source.of(config, cache_dir, streaming=True)
        self._image_column, self._caption_column = source.columns.image, source.columns.text
        self._condition_column = source.columns.control
        self._skip_bad, self._told_of_bad = config.skip_bad_images, False
        self._places = source.places
        with errors.flag(source.flag):
            opened = open_source(source)
        stream, self.report = cast(IterableDataset, opened.dataset), opened.report
        if config.max_train_samples is not None:
            stream = stream.take(config.max_train_samples)
        for row in self._usable(stream):
            self._captions(row, 0)
            self._image(row, 0)
            if self._condition_column is not None:
                self._condition(row, 0, partial(self._image, row, 0))
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
        image = partial(self._image, row, slot.ordinal)
        condition = None
        if self._condition_column is not None:
            image = cache(image)  # asked for twice
            condition = partial(self._condition, row, slot.ordinal, image)
        return Example(image, self._captions(row, slot.ordinal), condition)

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

    def _image(self, row: dict, ordinal: int) -> Image.Image:
        try:
            return self._decode(row[self._image_column])
        except UnreadableImage as error:
            raise bad_row("image", ordinal, f"read ({why(error, row[self._image_column])})") from None

    def _condition(self, row: dict, ordinal: int, image: Callable[[], Image.Image]) -> Image.Image:
        """The control image of a row, which must have the shape of the row's image."""
        try:
            condition = self._decode(row[self._condition_column])
        except UnreadableImage as error:
            reason = why(error, row[self._condition_column])
            raise bad_row("conditioning image", ordinal, f"read ({reason})") from None
        if reason := mismatch(image(), condition):
            raise bad_row("image", ordinal, f"used ({reason})")
        return condition

    def _decode(self, stored: dict | None) -> Image.Image:
        if stored and stored["bytes"] is None and stored["path"] is not None:
            if problem := self._places.problem(stored["path"]):
                raise UnreadableImage(f"{quoted(stored['path'])} {problem}")
        return decode(stored)

    def _is_bad(self, row: dict) -> bool:
        """Whether a row's images cannot be used; of the first one it is said why."""
        reason, column = None, self._image_column
        try:
            image = self._decode(row[column])
            if self._condition_column is not None:
                column = self._condition_column
                reason = mismatch(image, self._decode(row[column]))
        except UnreadableImage as error:
            reason = why(error, row[column])
        if reason and not self._told_of_bad:
            self._told_of_bad = True
            path = (row[column] or {}).get("path")
            logger.warning(
                f"An image of the stream cannot be used and is left out{f', {Path(path).name}' if path else ''} ({reason});"
                " others like it are left out without another word (--skip_bad_images)."
            )
        return bool(reason)

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


def why(error: UnreadableImage, stored: dict | None) -> str:
    """Why an image cannot be read, with the place where its file was looked for, or what to do with its format."""
    place = f" {stored['path']}" if stored and error.reason == "no such file" else ""
    return f"{error.reason}{place}{way_out(stored)}"


def bad_row(what: str, ordinal: int, problem: str) -> DiffTuneError:
    return DiffTuneError(
        f"The {what} of row {ordinal} of the stream cannot be {problem}; --skip_bad_images leaves such rows out."
    )
