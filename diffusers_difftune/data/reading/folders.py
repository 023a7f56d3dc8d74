# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What lies in a folder of data, and what of it is not read."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from datasets.data_files import FILES_TO_IGNORE

from ...errors import DiffTuneError
from ...io.safe_paths import Places
from ..images.formats import is_image_file, is_unread


# What file systems and their indexers leave in any folder; in lower case.
SYSTEM_FOLDERS = frozenset(
    ("@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__")
)
SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
# Files that are about data and hold none.
DOCUMENT_SUFFIXES = frozenset(
    (".md", ".rst", ".json", ".yaml", ".yml", ".toml", ".log", ".py", ".sh", ".html", ".xml")
)
# What `difftune conditions build` puts beside its data: a picture of the first rows, and how they were made.
PREVIEW, PREVIEWED_BY = "preview.png", "conditions.json"
DOCUMENT_STEMS = frozenset(("readme", "license", "licence", "copying", "citation", "changelog"))


class Folder:
    """A folder of data, or a single file. `files` are those in it and in the `folders` beneath it, sorted.

    Hidden files and folders, and those of the operating system, are passed over; folders of `system` are known, to be told of.
    Links to folders are not followed: what they lead to is in the folder anyway. A link that leads out of the folder is a
    [`DiffTuneError`].
    """

    def __init__(self, path: Path) -> None:
        self.path, self.is_file = path, path.is_file()
        self.files: list[Path] = [path] if self.is_file else []
        self.folders: list[Path] = []
        self.system: list[Path] = []
        if not self.is_file:
            self._walk()

    def _walk(self) -> None:
        places = Places([self.path])
        for parent, folders, names in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in (*folders, *names):
                path = Path(parent, name)
                if path.is_symlink() and path.exists() and not name.startswith(".") and not places.has(str(path)):
                    raise DiffTuneError(
                        f"{path} is a link that leads out of the folder, to {os.path.realpath(path)}; put a copy or a hard"
                        " link there."
                    )
            self.system += [Path(parent, name) for name in folders if name.lower() in SYSTEM_FOLDERS]
            folders[:] = [name for name in folders if name.lower() not in SYSTEM_FOLDERS]
            self.folders += [Path(parent, name) for name in folders]
            self.files += [
                Path(parent, name)
                for name in names
                if not name.startswith(".")
                and name.lower() not in SYSTEM_FILES
                and not (name == PREVIEW and PREVIEWED_BY in names)
                and Path(parent, name).is_file()
            ]
        self.files.sort()
        self.folders.sort()

    def inner(self, file: Path) -> Path:
        """The path of a file within the folder; a single file's is its name."""
        return Path(file.name) if self.is_file else file.relative_to(self.path)

    def near(self, path: Path) -> Path | None:
        """The file that a path which leads nowhere most likely means, or `None`.

        It is written with backslashes, in upper or lower case, in another normal form of Unicode, with the name of its
        own folder before it, with another suffix, or it lies in another folder.
        """
        wanted = os.path.normpath(str(path).replace("\\", "/"))
        parts = Path(wanted).parts
        doubled = [number for number, part in enumerate(parts[:-1]) if part == parts[number + 1]]  # train/train/00.png
        without = [str(Path(*parts[:number], *parts[number + 1 :])) for number in doubled]
        for key in (*without, wanted, os.path.splitext(wanted)[0]):
            if found := self._by_name.get(plain(key)):
                return found[0]
        named = self._by_name.get(plain(os.path.basename(wanted)), [])
        return named[0] if len(named) == 1 else None

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """The files by their paths and by their names, and images by their paths without the suffix, all as people read them."""
        found: dict[str, list[Path]] = {}
        for file in self.files:
            stems = [str(file.with_suffix(""))] if is_image_file(file) else []
            for name in (str(file), file.name, *stems):
                found.setdefault(plain(name), []).append(file)
        return found

    def left_out(self, used: Iterable[Path | str], why_images: str, why_data: str) -> list[str]:
        """What of the files is neither used nor a document such as README.md, in phrases with a count, the reason and an
        example. Why images of a known format and Parquet files are not used is given, such as `"not named by the metadata"`.
        """
        spared = {os.path.normpath(file) for file in used}
        rest = [file for file in self.files if os.path.normpath(file) not in spared and not is_document(file)]
        if rest:  # a link and what it leads to are one image
            here = {os.path.normpath(file) for file in self.files}
            real = {os.path.realpath(file) for file in spared if file not in here or os.path.islink(file)}
            rest = [file for file in rest if os.path.realpath(file) not in real]
        images = [file for file in rest if is_image_file(file)]
        unread = [file for file in rest if is_unread(file)]
        tables = [file for file in rest if file.suffix.lower() == ".parquet"]
        texts = [file for file in rest if file.suffix.lower() in (".txt", ".caption")]
        others = sorted(set(rest) - {*images, *unread, *tables, *texts})
        phrases = [
            self.phrase(images, "image", why_images),
            self.phrase(unread, "file", f"of formats that are not read ({by_suffix(unread)})"),
            self.phrase(tables, "Parquet file", why_data),
            self.phrase(texts, "text file", "not read as captions"),
            self.phrase(others, "file", f"of other kinds ({by_suffix(others)})"),
        ]
        return [phrase for phrase in phrases if phrase]

    def phrase(self, files: list[Path], what: str, why: str) -> str:
        """`3 images not named by the metadata, a/00.png for one`, or nothing if there are none."""
        if not files:
            return ""
        many = len(files) > 1
        return f"{len(files)} {what}{'s' if many else ''} {why}, {self.inner(files[0])}{' for one' if many else ''}"


def is_document(file: Path) -> bool:
    """Whether a file is about the data and holds none, as README.md does."""
    return (
        file.name in FILES_TO_IGNORE or file.suffix.lower() in DOCUMENT_SUFFIXES or file.stem.lower() in DOCUMENT_STEMS
    )


def by_suffix(files: list[Path]) -> str:
    """`.avif 2, .heic 1`: how many files have each suffix."""
    counts = Counter(file.suffix.lower() or "no suffix" for file in files)
    return ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common())


def plain(path: str) -> str:
    """A path as people read it: composed, in lower case."""
    return unicodedata.normalize("NFC", path).casefold()


def why_near(path: str, near: Path) -> str:
    """How the name of a file that is there differs from the one that was looked for, as a clause after it."""
    if unicodedata.normalize("NFC", path) == unicodedata.normalize("NFC", str(near)):
        return ", whose accents are encoded otherwise (in another normal form of Unicode)"
    if "\\" in path and plain(path.replace("\\", "/")) == plain(str(near)):
        return ", with forward slashes"
    if plain(path) == plain(str(near)):
        return ", which is written in other capitals"
    return ""
