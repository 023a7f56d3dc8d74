# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The columns that hold images, captions and labels."""

from typing import TYPE_CHECKING

from datasets import Image, Value

from ..errors import DiffTuneError, quoted


if TYPE_CHECKING:
    from ..config import DataConfig


def named_image_columns(config: "DataConfig") -> dict[str, str]:
    """The columns that hold images, by the flags that name them; control images are the ControlNet script's alone."""
    columns = {"image_column": config.image_column, "conditioning_image_column": config.conditioning_image_column}
    return {flag: column for flag, column in columns.items() if column is not None}


def named_text_column(config: "DataConfig") -> tuple[str, str]:
    """The column that says what is in an image, after the flag that names it; labels are the class-conditional
    script's alone."""
    if config.label_column is not None:
        return "label_column", config.label_column
    return "caption_column", config.caption_column or ""


def may_be_images(feature: object) -> bool:
    """Whether `datasets` takes a column for images: images, bytes of files, names of files, or pairs of these."""
    if isinstance(feature, Value):
        return feature.dtype in ("string", "large_string", "binary", "large_binary")
    return isinstance(feature, Image) or (isinstance(feature, dict) and {"bytes", "path"} <= feature.keys())


def name_of_files(column: str, columns: list[str]) -> str:
    """Which column of a metadata file names the files of an image column: `file_name` for `image`, and for any other
    one `<column>_file_name`, as `datasets` has it, or else the column itself."""
    if column == "image":
        return "file_name"
    named = f"{column}_file_name"
    return named if named in columns or column not in columns else column


def as_captions(value: object, column: str) -> list[str]:
    """The captions of a row: a string, a list of strings, or nothing."""
    captions = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(caption is None or isinstance(caption, str) for caption in captions):
        raise DiffTuneError(
            f"--caption_column: the column {column} holds {quoted(value)} of type {type(value).__name__}; "
            "captions must be strings or lists of strings."
        )
    return captions


def missing_column(
    flag: str, column: str, columns: list[str], problem: str = "there is no column", advice: str = ""
) -> DiffTuneError:
    return DiffTuneError(f"--{flag}: {problem} {column}; the columns are {', '.join(columns)}{advice}.")
