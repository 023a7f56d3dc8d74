# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What is to be read: where the target data are, and which of their columns hold what."""

from dataclasses import dataclass
from pathlib import Path

import datasets.config
from huggingface_hub.constants import HF_HUB_CACHE

from .. import errors
from ..config import DataConfig
from ..errors import DiffTuneError, quoted
from ..io.safe_paths import Places


# What a reader wants of data that have splits: to train on it, to measure by what training has not seen, or anything.
TO_TRAIN, HELD_OUT, ANY = "train", "held-out", "any"


@dataclass(frozen=True)
class Source:
    """Target data to be read.

    Attributes:
        config ([`DataConfig`]): The flags; in `dataset_name`, a data set on the Hub or a folder that is read by the rules of
            `datasets`, in `train_data_dir`, a folder or file that is read by those of this library.
        cache_dir (`str` or `Path`, *optional*): The cache of the Hugging Face libraries.
        wanted (`str`): Which split is read of data that have several: train, to train on it (`TO_TRAIN`); what is held
            out, to measure by it (`HELD_OUT`); or, of data with a single split, whichever that is (`ANY`).
        streaming (`bool`): Whether rows are read while iterating, and nothing is downloaded or copied before.
        named_by (`str`, *optional*): The flag that named the data, for messages, if it is none of the config's.
    """

    config: DataConfig
    cache_dir: str | Path | None = None
    wanted: str = TO_TRAIN
    streaming: bool = False
    named_by: str | None = None

    def __post_init__(self) -> None:
        if self.config.dataset_name is None and self.config.train_data_dir is None:
            raise DiffTuneError(
                "Neither --dataset_name nor --train_data_dir is given; one of them must name the target data."
            )

    @property
    def flag(self) -> str:
        """The flag that says where the data are, for messages."""
        return self.named_by or ("--train_data_dir" if self.config.dataset_name is None else "--dataset_name")

    @property
    def place(self) -> Path:
        """The folder or file that the data lie in, if they lie on this machine."""
        return Path(self.config.train_data_dir or self.config.dataset_name or "").expanduser().absolute()

    @property
    def places(self) -> Places:
        """Where the images that rows name may lie."""
        name, folder = self.config.dataset_name, self.config.train_data_dir
        if name is None:
            return Places([self.place.parent if self.place.is_file() else self.place])
        own = [place for place in (name, folder) if place and Path(place).exists()]
        downloads = (HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
        return Places([*own, *([self.cache_dir] if self.cache_dir else []), *downloads])

    @property
    def has_labels(self) -> bool:
        """Whether rows have labels and no captions."""
        return self.config.label_column is not None

    @property
    def text_column(self) -> str:
        """The column with the captions, or the labels."""
        return self.config.label_column or self.config.caption_column or ""

    @property
    def text_flag(self) -> str:
        """The flag that names the column of captions or labels."""
        return self._flag("--label_column" if self.has_labels else "--caption_column")

    @property
    def image_columns(self) -> dict[str, str]:
        """The columns that hold images, by the flags that name them."""
        control = self.config.conditioning_image_column
        controls = {} if control is None else {self._flag("--conditioning_image_column"): control}
        return {self._flag("--image_column"): self.config.image_column} | controls

    @property
    def columns(self) -> dict[str, str]:
        """All columns, by the flags that name them."""
        return self.image_columns | {self.text_flag: self.text_column}

    def _flag(self, name: str) -> str:
        return f"{self.named_by}: {name}" if self.named_by else name

    def as_text(self, value: object) -> "list[str] | str | None":
        """The captions or the label of a row of a metadata file, as they are read. All labels become names, since a column
        holds values of one type."""
        with errors.flag(self.text_flag):
            if not self.has_labels:
                return as_captions(value, self.text_column)
            if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
                raise wrong_type(value, self.text_column, "a label is a name or a whole number")
            return None if value is None else str(value)


def as_captions(value: object, column: str) -> list[str]:
    """The captions of a row: a string, a list of strings, or nothing; a [`DiffTuneError`] if it is something else."""
    captions = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(caption is None or isinstance(caption, str) for caption in captions):
        raise wrong_type(value, column, "captions must be strings or lists of strings")
    return captions


def wrong_type(value: object, column: str, rule: str) -> DiffTuneError:
    return DiffTuneError(f"The column {column} holds {quoted(value)} of type {type(value).__name__}; {rule}.")


def check_has(
    columns: list[str], wanted: dict[str, str], problem: str = "there is no column", advice: str = ""
) -> None:
    """Raises a [`DiffTuneError`] if a column that a flag names is not among those that are there."""
    for flag, column in wanted.items():
        if column not in columns:
            raise DiffTuneError(f"{problem} {column}; the columns are {', '.join(columns)}{advice}.", flag)
