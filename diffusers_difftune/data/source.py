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
class Columns:
    """The columns of the target data.

    Attributes:
        image (`str`): Holds the images.
        text (`str`): Holds the captions, or the labels.
        control (`str`, *optional*): Holds the control images of ControlNet training.
        has_labels (`bool`): Whether `text` holds labels.
        whose (`str`): The flag of the data that they are the columns of, if that is not the run's target data; for messages.
    """

    image: str = "image"
    text: str = "text"
    control: str | None = None
    has_labels: bool = False
    whose: str = ""

    @classmethod
    def of(cls, config: DataConfig, whose: str = "") -> "Columns":
        """The columns that the flags of a task name."""
        text = config.caption_column if config.label_column is None else config.label_column
        return cls(
            config.image_column, text or "", config.conditioning_image_column, config.label_column is not None, whose
        )

    @property
    def text_flag(self) -> str:
        """The flag that names the column of captions or labels."""
        return self._flag("--label_column" if self.has_labels else "--caption_column")

    @property
    def images(self) -> dict[str, str]:
        """The columns that hold images, by the flags that name them."""
        control = {} if self.control is None else {self._flag("--conditioning_image_column"): self.control}
        return {self._flag("--image_column"): self.image} | control

    @property
    def flags(self) -> dict[str, str]:
        """All columns, by the flags that name them."""
        return self.images | {self.text_flag: self.text}

    def _flag(self, name: str) -> str:
        return f"{self.whose}: {name}" if self.whose else name

    def as_text(self, value: object) -> "list[str] | str | None":
        """The captions or the label of a row, as they are read."""
        with errors.flag(self.text_flag):
            return as_label(value, self.text) if self.has_labels else as_captions(value, self.text)


@dataclass(frozen=True)
class Source:
    """Target data to be read.

    Attributes:
        columns ([`Columns`]): Its columns.
        folder (`str`, *optional*): A folder or file that is read by the rules of this library, or of `name` a part.
        name (`str`, *optional*): A data set on the Hub, or a folder that is read by the rules of `datasets`.
        configuration (`str`, *optional*): Which of several configurations.
        wanted (`str`): Which split is read of data that have several: train, to train on it (`TO_TRAIN`); what is held
            out, to measure by it (`HELD_OUT`); or, of data with a single split, whichever that is (`ANY`).
        cache_dir (`Path`, *optional*): The cache of the Hugging Face libraries.
        streaming (`bool`): Whether rows are read while iterating, and nothing is downloaded or copied before.
        skip_bad (`bool`): Whether rows are left out whose images are not there.
        verify (`bool`): Whether files are hashed that were hashed before.
    """

    columns: Columns = Columns()
    folder: str | None = None
    name: str | None = None
    configuration: str | None = None
    wanted: str = TO_TRAIN
    cache_dir: Path | None = None
    streaming: bool = False
    skip_bad: bool = False
    verify: bool = False

    @classmethod
    def of(
        cls,
        config: DataConfig,
        cache_dir: str | Path | None = None,
        streaming: bool = False,
        wanted: str = TO_TRAIN,
        flag: str | None = None,
    ) -> "Source":
        """What the flags of a task name; or, with other places in them, what another flag does."""
        if config.dataset_name is None and config.train_data_dir is None:
            raise DiffTuneError(
                "Neither --dataset_name nor --train_data_dir is given; one of them must name the target data."
            )
        return cls(
            Columns.of(config, flag or ""),
            config.train_data_dir,
            config.dataset_name,
            config.dataset_config_name,
            wanted,
            None if cache_dir is None else Path(cache_dir),
            streaming,
            config.skip_bad_images,
            config.verify_cache,
        )

    @property
    def flag(self) -> str:
        """The flag that says where the data are, for messages."""
        return self.columns.whose or ("--train_data_dir" if self.name is None else "--dataset_name")

    @property
    def place(self) -> Path:
        """The folder or file that the data lie in, if they lie on this machine."""
        return Path(self.folder or self.name or "").expanduser().absolute()

    @property
    def places(self) -> Places:
        """Where the images that rows name may lie."""
        if self.name is None:
            return Places([self.place.parent if self.place.is_file() else self.place])
        own = [place for place in (self.name, self.folder) if place and Path(place).exists()]
        downloads = (HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
        return Places([*own, *([self.cache_dir] if self.cache_dir else []), *downloads])


def as_captions(value: object, column: str) -> list[str]:
    """The captions of a row: a string, a list of strings, or nothing.

    Raises:
        DiffTuneError: It is something else.
    """
    captions = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(caption is None or isinstance(caption, str) for caption in captions):
        raise wrong_type(value, column, "captions must be strings or lists of strings")
    return captions


def as_label(value: object, column: str) -> str | None:
    """The label of a row of a metadata file. All become names, since a column holds values of one type.

    Raises:
        DiffTuneError: It is no label.
    """
    if value is not None and not (isinstance(value, (str, int)) and not isinstance(value, bool)):
        raise wrong_type(value, column, "a label is a name or a whole number")
    return None if value is None else str(value)


def wrong_type(value: object, column: str, rule: str) -> DiffTuneError:
    return DiffTuneError(f"The column {column} holds {quoted(value)} of type {type(value).__name__}; {rule}.")


def check_has(
    columns: list[str], wanted: dict[str, str], problem: str = "there is no column", advice: str = ""
) -> None:
    """Raises a [`DiffTuneError`] if a column that a flag names is not among those that are there."""
    for flag, column in wanted.items():
        if column not in columns:
            raise DiffTuneError(f"{problem} {column}; the columns are {', '.join(columns)}{advice}.", flag)
