# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Images with their captions in text files of the same name beside them."""

from collections import Counter
from pathlib import Path

from datasets import Dataset

from ...errors import DiffTuneError
from ..images.formats import is_image_file
from ..report import DataReport, FileRows, listed
from ..source import Source
from .folders import Folder
from .records import read_text
from .splits import chosen, label, split_of_folders


def captioned_images(folder: Folder) -> dict[Path, Path]:
    """The images of a folder that have a text file of their name beside them, `cat.png` and `cat.txt`, with that."""
    texts = {file.with_suffix(""): file for file in folder.files if file.suffix.lower() == ".txt"}
    return {
        file: texts[file.with_suffix("")]
        for file in folder.files
        if is_image_file(file) and file.with_suffix("") in texts
    }


def open_captioned_images(folder: Folder, captioned: dict[Path, Path], source: Source, report: DataReport) -> Dataset:
    """Names of images, and the whole texts of the files beside them without the space around these, as captions. An image
    that has no text file, or one that cannot be read, raises a [`DiffTuneError`]."""
    images = [file for file in folder.files if is_image_file(file)]
    splits = {file: split_of_folders(folder.inner(file).parts[:-1], file) for file in images}
    used = chosen(splits.values(), source.wanted, folder.path, folder.inner(images[0]))
    rows = [file for file in images if splits[file] in used]
    if bare := [str(folder.inner(file)) for file in rows if file not in captioned]:
        raise DiffTuneError(
            f"{len(bare)} of {len(rows)} images of {folder.path} have no .txt file with their caption beside them: {listed(bare)};"
            " write them, or a metadata.jsonl for all images."
        )
    for (parent, split), count in Counter((file.parent, splits[file]) for file in images).items():
        name = str(parent.relative_to(folder.path))
        report.files.append(FileRows(label(split, used), name, count, split in used))
    report.left_out += folder.left_out([*images, *captioned.values()], "", "beside images with .txt captions")
    captions = [[read_text(captioned[file]).strip()] for file in rows]
    columns = {source.config.image_column: [str(file) for file in rows], source.text_column: captions}
    return Dataset.from_dict(columns)
