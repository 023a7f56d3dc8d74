# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Images with their captions in text files of the same name beside them."""

from collections import Counter
from pathlib import Path

from datasets import Dataset

from ...errors import DiffTuneError
from ..images.decode import is_image_file
from ..report import DataReport, FileRows
from .folders import Folder
from .splits import chosen, label, split_of_folders


def captioned_images(folder: Folder) -> dict[Path, Path]:
    """The images of a folder that have a text file of their name beside them, `cat.png` and `cat.txt`, with that."""
    texts = {file.with_suffix(""): file for file in folder.files if file.suffix.lower() == ".txt"}
    return {
        file: texts[file.with_suffix("")]
        for file in folder.files
        if is_image_file(file) and file.with_suffix("") in texts
    }


def open_captioned_images(
    folder: Folder,
    captioned: dict[Path, Path],
    image_column: str,
    caption_column: str,
    wanted: str,
    report: DataReport,
) -> Dataset:
    """Images and the text files beside them, whose whole text without the space around it is the caption.

    Args:
        folder ([`Folder`]): `--train_data_dir`.
        captioned (`dict[Path, Path]`): The images that have a text file, with that.
        image_column (`str`): The column to put the images into.
        caption_column (`str`): The column to put the captions into.
        wanted (`str`): Which splits are read, as in [`chosen`].
        report ([`DataReport`]): Told what is read and what is not.

    Returns:
        `datasets.Dataset`: Names of files and captions.

    Raises:
        DiffTuneError: An image has no text file, or a text file cannot be read.
    """
    images = [file for file in folder.files if is_image_file(file)]
    splits = {file: split_of_folders(folder.inner(file).parts[:-1], file) for file in images}
    used = chosen(splits.values(), wanted, folder.path, folder.inner(images[0]))
    rows = [file for file in images if splits[file] in used]
    if bare := [str(folder.inner(file)) for file in rows if file not in captioned]:
        shown = ", ".join(bare[:20]) + (f" and {len(bare) - 20} more" if len(bare) > 20 else "")
        raise DiffTuneError(
            f"--train_data_dir: {len(bare)} of {len(rows)} images of {folder.path} have no .txt file with their caption"
            f" beside them: {shown}; write them, or a metadata.jsonl for all images."
        )
    for (parent, split), count in Counter((file.parent, splits[file]) for file in images).items():
        name = str(parent.relative_to(folder.path))
        report.files.append(FileRows(label(split, used), name, count, split in used))
    report.left_out += folder.left_out([*images, *captioned.values()], "", "beside images with .txt captions")
    captions = [[read_caption(captioned[file])] for file in rows]
    return Dataset.from_dict({image_column: [str(file) for file in rows], caption_column: captions})


def read_caption(file: Path) -> str:
    """The text of a file, without the space around it."""
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DiffTuneError(f"--train_data_dir: {file} is not UTF-8 text; save it as such.") from None
    except OSError as error:
        raise DiffTuneError(f"--train_data_dir: {file} cannot be read: {error.strerror}.") from None
