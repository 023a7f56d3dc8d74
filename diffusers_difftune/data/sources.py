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
"""Opens what `--dataset_name` or `--train_data_dir` names, as a table of images and captions."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import datasets.config
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DownloadMode, Image, IterableDataset, Value, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

from ..errors import DiffTuneError, first_sentence, quoted
from ..filehash import file_sha256
from .in_use import hold_while_running
from .labels import as_label, open_class_folders
from .places import Places
from .records import check_parquet, read_records


if TYPE_CHECKING:
    from ..training.config import DataConfig

COPIES = "parquet"  # in this library's cache: what was copied out of Parquet files, by their contents
METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def difftune_cache_dir(cache_dir: str | Path | None = None) -> Path:
    """Where this library keeps encodings and hashes: a folder of its own in `--cache_dir`."""
    return Path(cache_dir or HF_HOME) / "difftune"


def open_source(
    config: "DataConfig", cache_dir: str | Path | None = None, streaming: bool = False
) -> Dataset | IterableDataset:
    """The target data with its image column not yet decoded; the image and the caption or label column are there.

    Args:
        config ([`DataConfig`]): The flags.
        cache_dir (`str` or `Path`, *optional*): As `--cache_dir`.
        streaming (`bool`, *optional*, defaults to `False`): Do not download or copy, read while iterating.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: The rows.

    Raises:
        DiffTuneError: There is no such data, or it lacks a column.
    """
    if config.dataset_name is not None:
        dataset = open_named(config, cache_dir, streaming)
    elif config.train_data_dir is not None:
        dataset = open_folder(config, cache_dir, streaming)
    else:
        raise DiffTuneError(
            "Neither --dataset_name nor --train_data_dir is given; one of them must name the target data."
        )
    columns = column_names(dataset)
    image_columns = named_image_columns(config)
    text_flag, text_column = named_text_column(config)
    for flag, column in (image_columns | {text_flag: text_column}).items():
        if column not in columns:
            raise missing_column(flag, column, columns)
    if dataset.features is None:  # a stream of CSV or JSON files
        raise DiffTuneError("--streaming: this dataset does not say what its columns hold; leave the flag out.")
    dataset = dataset.select_columns(list(dict.fromkeys([*image_columns.values(), text_column])))
    for flag, column in image_columns.items():
        feature = dataset.features[column]
        if not may_be_images(feature):
            found = feature.dtype if isinstance(feature, Value) else type(feature).__name__
            raise DiffTuneError(f"--{flag}: the column {column} holds {found}, not images.")
        dataset = dataset.cast_column(column, Image(decode=False))
    if isinstance(dataset, Dataset):
        check_values(dataset, config, cache_dir)
    return dataset


def column_names(dataset: Dataset | IterableDataset) -> list[str]:
    """The names of the columns; of some streams only the first row knows them."""
    try:
        return dataset.column_names or list(next(iter(dataset), {}))
    except Exception as error:  # every loader has errors of its own
        raise DiffTuneError(f"The target data cannot be read: {first_sentence(error)}.") from error


def check_values(dataset: Dataset, config: "DataConfig", cache_dir: str | Path | None) -> None:
    """Raises a [`DiffTuneError`] if there is text that is no text, or an image that is not in the data but named there."""
    places = source_places(config, cache_dir)
    flag, text_column = named_text_column(config)
    for name, column in ({flag: text_column} | named_image_columns(config)).items():
        try:
            dataset.data.column(column).validate(full=True)
        except pa.ArrowInvalid as error:
            raise DiffTuneError(f"--{name}: the column {column} is damaged: {first_sentence(error)}.") from None
    for name, column in named_image_columns(config).items():
        values = dataset.data.column(column)
        named = pc.and_(pc.is_null(pc.struct_field(values, "bytes")), pc.is_valid(pc.struct_field(values, "path")))
        paths = pc.struct_field(values, "path")
        for row in pc.indices_nonzero(named).to_pylist():
            if problem := places.problem(path := paths[row].as_py()):
                raise DiffTuneError(f"--{name}: the image of row {row}, {quoted(path)}, {problem}.")


def source_places(config: "DataConfig", cache_dir: str | Path | None) -> Places:
    """Where the images that rows name may lie."""
    if config.dataset_name is None:
        folder = Path(config.train_data_dir or "").expanduser()
        return Places([folder.parent if folder.is_file() else folder])
    own = [place for place in (config.dataset_name, config.train_data_dir) if place and Path(place).exists()]
    downloads = (HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
    return Places([*own, *([cache_dir] if cache_dir else []), *downloads])


def named_image_columns(config: "DataConfig") -> dict[str, str]:
    """The columns that hold images, by the flags that name them; control images are the ControlNet script's alone."""
    flags = ("image_column", "conditioning_image_column")
    return {flag: getattr(config, flag) for flag in flags if getattr(config, flag, None) is not None}


def named_text_column(config: "DataConfig") -> tuple[str, str]:
    """The column that says what is in an image, after the flag that names it; labels are the class-conditional
    script's alone."""
    flag = "label_column" if hasattr(config, "label_column") else "caption_column"
    return flag, getattr(config, flag)


def may_be_images(feature: object) -> bool:
    """Whether `datasets` takes a column for images: images, bytes of files, names of files, or pairs of these."""
    if isinstance(feature, Value):
        return feature.dtype in ("string", "large_string", "binary", "large_binary")
    return isinstance(feature, Image) or (isinstance(feature, dict) and {"bytes", "path"} <= feature.keys())


def open_named(config: "DataConfig", cache_dir: str | Path | None, streaming: bool) -> Dataset | IterableDataset:
    """What `datasets` finds under `--dataset_name`."""
    try:
        splits = load_dataset(
            config.dataset_name,
            config.dataset_config_name,
            data_dir=config.train_data_dir,
            cache_dir=None if cache_dir is None else str(cache_dir),
            # a file that was edited and given its old time back is noticed only by reading it again
            download_mode=DownloadMode.REUSE_CACHE_IF_EXISTS if config.verify_cache else None,
            streaming=streaming,
        )
    except Exception as error:  # not found, a wrong configuration, a script …; every loader has errors of its own
        advice = ""
        if "scripts are no longer supported" in str(error):  # fusing/fill50k of diffusers' ControlNet example is one
            advice = (
                f"; if the Hub has made a Parquet copy, `hf download {config.dataset_name} --repo-type dataset --revision"
                " refs/convert/parquet --local-dir FOLDER` gets it for --train_data_dir FOLDER"
            )
        raise DiffTuneError(
            f"--dataset_name: {config.dataset_name} cannot be loaded: {first_sentence(cause(error))}{advice}."
        ) from error
    if "train" not in splits:
        raise DiffTuneError(
            f"--dataset_name: {config.dataset_name} has no split named train; its splits are {', '.join(splits)}."
        )
    return splits["train"]


def open_folder(config: "DataConfig", cache_dir: str | Path | None, streaming: bool) -> Dataset | IterableDataset:
    """The images that the metadata files under `--train_data_dir` name, or the Parquet files there."""
    folder = Path(config.train_data_dir or "").expanduser().absolute()
    if not folder.exists():
        raise DiffTuneError(f"--train_data_dir: there is no folder {folder}.")
    files = [folder] if folder.is_file() else visible_files(folder)
    if metadata := [path for path in files if path.name in METADATA_NAMES]:
        dataset = read_metadata(metadata, config, source_places(config, cache_dir))
        return dataset.to_iterable_dataset() if streaming else dataset
    if parquet := [path for path in files if path.suffix == ".parquet"]:
        return open_parquet(parquet, cache_dir, streaming, config.verify_cache)
    if hasattr(config, "label_column"):
        return open_class_folders(folder, files, config)
    found = f"{len(files)} other files, {files[0].relative_to(folder)} for one" if files else "nothing at all"
    raise DiffTuneError(
        f"--train_data_dir: {folder} has no metadata.jsonl, metadata.csv or Parquet file, but {found}; write a "
        f'metadata.jsonl with a line {{"file_name": "cat.png", "{config.caption_column}": "a cat"}} for each image.'
    )


def visible_files(folder: Path) -> list[Path]:
    """The files in a folder and in those beneath it, without hidden ones such as `.ipynb_checkpoints`.

    Links to folders are not followed: what they lead to is in the folder anyway.

    Raises:
        DiffTuneError: A link leads out of the folder.
    """
    places = Places([folder])
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *names):
            path = Path(parent, name)
            if path.is_symlink() and path.exists() and not name.startswith(".") and not places.has(str(path)):
                raise DiffTuneError(
                    f"--train_data_dir: {path} is a link that leads out of the folder, to {os.path.realpath(path)}; put a"
                    " copy or a hard link there."
                )
        files += [Path(parent, name) for name in names if not name.startswith(".") and Path(parent, name).is_file()]
    return sorted(files)


def read_metadata(files: list[Path], config: "DataConfig", places: Places) -> Dataset:
    """Reads metadata files, each of which names images relative to its own folder.

    `datasets` has a loader for this, but it goes by modification times, and its errors do not say which row is wrong.
    """
    image_columns = named_image_columns(config)
    text_flag, text_column = named_text_column(config)
    images: dict[str, list[str]] = {column: [] for column in image_columns.values()}
    texts: list = []
    for file in files:
        if others := [other.name for other in files if other.parent == file.parent and other != file]:
            raise DiffTuneError(
                f"--train_data_dir: {file.parent} has a {file.name} and a {others[0]}; remove one of them."
            )
        records = read_records(file)
        columns = list(dict.fromkeys(name for record in records for name in record))
        file_columns = {column: name_of_files(column, columns) for column in images}
        for flag, column in image_columns.items():
            if records and file_columns[column] not in columns:
                raise missing_column(flag, file_columns[column], columns, f"{file} has no column")
        if records and text_column not in columns:
            raise missing_column(text_flag, text_column, columns, f"{file} has no column")
        for line, record in enumerate(records, 1):
            for column, file_column in file_columns.items():
                name = record.get(file_column)
                if not isinstance(name, str) or not name:
                    raise DiffTuneError(f"--train_data_dir: row {line} of {file} names no file in {file_column}.")
                path = str(file.parent / name)
                if problem := places.problem(path):
                    raise DiffTuneError(
                        f"--train_data_dir: row {line} of {file} names {quoted(name)}, which {problem}."
                    )
                images[column].append(path)
            text = record.get(text_column)
            texts.append(
                as_captions(text, text_column) if text_flag == "caption_column" else as_label(text, text_column)
            )
    if not texts:
        raise DiffTuneError(f"--train_data_dir: {files[0]} has no rows.")
    return Dataset.from_dict({**images, text_column: texts})


def name_of_files(column: str, columns: list[str]) -> str:
    """Which column of a metadata file names the files of an image column: `file_name` for `image`, and for any other
    one `<column>_file_name`, as `datasets` has it, or else the column itself."""
    if column == "image":
        return "file_name"
    named = f"{column}_file_name"
    return named if named in columns or column not in columns else column


def open_parquet(
    files: list[Path], cache_dir: str | Path | None, streaming: bool, verify: bool
) -> Dataset | IterableDataset:
    """All rows of some Parquet files; `datasets` copies them into an Arrow cache that goes by the files' contents."""
    names = [str(file) for file in files if check_parquet(file)]  # `datasets` stumbles over files without rows
    if not names:
        raise DiffTuneError(f"--train_data_dir: {files[0]} has no rows.")
    try:
        if streaming:
            return load_dataset("parquet", data_files=names, split="train", streaming=True)
        cache_dir = difftune_cache_dir(cache_dir)
        hashes = " ".join(file_sha256(file, cache_dir, verify) for file in files)
        cache_dir = cache_dir / COPIES / hashlib.sha256(hashes.encode()).hexdigest()
        hold_while_running(cache_dir, source=os.path.dirname(names[0]) if len(names) > 1 else names[0])
        return load_dataset("parquet", data_files=names, split="train", cache_dir=str(cache_dir))
    except Exception as error:  # `datasets` and pyarrow have many for columns that differ and for damage
        several = f" and {len(files) - 1} more files" if len(files) > 1 else ""
        raise DiffTuneError(
            f"--train_data_dir: {files[0]}{several} cannot be read as Parquet: {first_sentence(cause(error))}."
        ) from error


def cause(error: BaseException) -> BaseException:
    """What `datasets` raised its error for: its own says only that there was one."""
    return cause(error.__cause__) if isinstance(error, DatasetsError) and error.__cause__ else error


def as_captions(value: object, column: str) -> list[str]:
    """The captions of a row: a string, a list of strings, or nothing."""
    captions = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(caption is None or isinstance(caption, str) for caption in captions):
        raise DiffTuneError(
            f"--caption_column: the column {column} holds {quoted(value)} of type {type(value).__name__}; "
            "captions must be strings or lists of strings."
        )
    return captions


def missing_column(flag: str, column: str, columns: list[str], problem: str = "there is no column") -> DiffTuneError:
    return DiffTuneError(f"--{flag}: {problem} {column}; the columns are {', '.join(columns)}.")
