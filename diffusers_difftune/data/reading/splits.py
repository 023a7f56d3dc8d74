# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which split a file or a row belongs to by the names of its folders and its file, and which splits are read.

The words are those of `datasets`, so that a folder means the same by `--train_data_dir` as by `--dataset_name`. They count
in upper case, too, since a folder `Test` is meant to be held out as much as one `test`.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from datasets.data_files import NON_WORDS_CHARS, SPLIT_KEYWORDS, resolve_pattern, sanitize_patterns
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from ...errors import DiffTuneError, first_sentence
from ..report import NO_SPLIT, DataReport
from ..source import ANY, HELD_OUT, TO_TRAIN, Source
from .folders import Folder


TRAIN = "train"
WORDS = {str(split): re.compile("|".join(words), re.IGNORECASE) for split, words in SPLIT_KEYWORDS.items()}
# a word stands between separators, or at an end of the name: test-2 and my_test, not latest
WORD = re.compile(rf"(?:^|(?<=[{NON_WORDS_CHARS}]))[A-Za-z]+(?=[{NON_WORDS_CHARS}]|$)")
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\..+")
# The Hub's own Parquet copy of a data set: CONFIGURATION/SPLIT/0000.parquet, or partial-SPLIT of a large one
CONVERTED = re.compile(r"\d{4}\.parquet")


def splits_named(name: str) -> list[str]:
    """The splits that the words of a name stand for: `["test"]` for `my_eval-2`."""
    words = WORD.findall(name)
    return [split for split, pattern in WORDS.items() if any(pattern.fullmatch(word) for word in words)]


def split_of_folders(folders: Iterable[str], place: Path) -> str | None:
    """The split of what lies in folders within the data, given from the outermost; the innermost one that names a split
    decides. `place` is for messages."""
    for name in reversed(list(folders)):
        if found := splits_named(name):
            return only(found, name, place)
    return None


def split_of_file(file: PurePath, place: Path) -> str | None:
    """The split of a file with rows in it, by its folders within the data or else by its own name. `place` is for messages."""
    if split := split_of_folders(file.parts[:-1], place):
        return split
    if found := splits_named(file.name):
        return only(found, file.name, place)
    shard = SHARD.fullmatch(file.name)
    return shard[1] if shard and file.parts[:-1] == ("data",) else None


def only(found: list[str], name: str, place: Path) -> str:
    if len(found) > 1:
        raise DiffTuneError(
            f"{name} of {place} names the splits {' and '.join(found)}; rename it, or give that folder or file itself."
        )
    return found[0]


def chosen(splits: Iterable[str | None], wanted: str, folder: Path | str, example: Path | str) -> set[str | None]:
    """The splits to read.

    Training reads the split train where something is named so, and else what names no split. Measuring reads what is held
    out. Data of a single split are read whole by whatever does not train. The split of what names none is `None`; the folder
    and a file of it are for messages.
    """
    found = set(splits)
    held_out = sorted(split for split in found if split not in (TRAIN, None))
    if not held_out and (len(found) < 2 or wanted != HELD_OUT):
        return {TRAIN} if TRAIN in found else found
    if wanted != TO_TRAIN and len(found) == 1:
        return found
    if wanted == HELD_OUT:
        if len(held_out) != 1:
            several = f"the splits {', '.join(held_out)}" if held_out else "the split train and files of no split"
            raise DiffTuneError(f"{folder} has {several}; give the folder or the file of the one to measure by.")
        return set(held_out)
    if TRAIN in found:
        return {TRAIN}
    if None in found:
        return {None}
    declared = [split for split in held_out if split in WORDS]
    if wanted == ANY or (len(held_out) == 1 and not declared):  # data/flowers-00000-of-00002.parquet names no split
        return found
    raise DiffTuneError(
        f"{folder} has no split train, but {', '.join(held_out)} ({example} for one); to train on it, give the folder or the"
        " file itself."
    )


def label(split: str | None, used: set[str | None]) -> str:
    """How a report calls a split: `"train"` where the data names none, unless what names none is left out."""
    return split or (TRAIN if None in used else NO_SPLIT)


def chosen_name(names: Sequence[str], wanted: str, data: str) -> str:
    """The split of a data set whose splits have names, as in [`chosen`]."""
    others = [split for split in names if split != TRAIN]
    if wanted == HELD_OUT and len(others) == 1:
        return others[0]
    if wanted == HELD_OUT and others:
        raise DiffTuneError(f"{data} has the splits {', '.join(others)}; give data with the one to measure by.")
    if TRAIN not in names:
        if wanted == ANY and len(names) == 1:
            return names[0]
        raise DiffTuneError(f"{data} has no split named train; its splits are {', '.join(names)}.")
    return TRAIN


def configurations(folder: Path, files: Sequence[Path]) -> dict[str, dict[Path, str]]:
    """The configurations of the Hub's own Parquet copy of a data set, `CONFIGURATION/SPLIT/0000.parquet`: the split of
    each file by the configuration's name; nothing if the folder is no such copy."""
    found: dict[str, dict[Path, str]] = {}
    for file in files:
        parts = file.relative_to(folder).parts
        if len(parts) == 3 and CONVERTED.fullmatch(parts[2]):
            found.setdefault(parts[0], {})[file] = parts[1].removeprefix("partial-")
    return {name: splits for name, splits in found.items() if any(splits_named(split) for split in splits.values())}


def card_configurations(folder: Path, files: Sequence[Path]) -> tuple[dict[str, dict[Path, str]], str | None]:
    """The configurations that a data set's card (README.md) declares, and which of them is the default.

    Those without any of `files` are left out: they are for files that are read otherwise.
    """
    readme = folder / "README.md"
    try:
        if not readme.is_file() or not readme.read_text(encoding="utf-8-sig", errors="replace").startswith("---"):
            return {}, None
        declared = MetadataConfigs.from_dataset_card_data(DatasetCard.load(readme).data)
        default = declared.get_default_config_name() if declared else None
    except Exception as error:  # of YAML, of the Hub's client and of `datasets`
        raise DiffTuneError(f"{readme} declares no readable data: {first_sentence(error)}.") from error
    found = {}
    for name, settings in declared.items():
        base = folder / str(settings.get("data_dir") or "")
        if "data_files" in settings:
            patterns = sanitize_patterns(settings["data_files"])
            splits = {
                Path(path): split
                for split, all_of in patterns.items()
                for each in all_of
                for path in matches(each, base)
            }
        else:  # all of a folder, by the names in it
            inside = [file for file in files if "data_dir" in settings and base in file.parents]
            splits = {file: split_of_file(file.relative_to(base), file) or TRAIN for file in inside}
        if mine := {file: splits[file] for file in files if file in splits}:
            found[name] = mine
    return found, default if default in found else None


def matches(pattern: str, base: Path) -> list[str]:
    """The files in a folder that a pattern of a card means; none elsewhere."""
    if "://" in pattern or pattern.startswith(("/", "~")) or ".." in PurePath(pattern).parts:
        return []
    try:
        return resolve_pattern(pattern, str(base))
    except FileNotFoundError:
        return []


def chosen_configuration(
    found: dict[str, dict[Path, str]], name: str | None, default: str | None, folder: Path
) -> str | None:
    """The configuration to read, `None` if there are none; raises a [`DiffTuneError`] if there are several and no choice, or
    not the one that is asked for."""
    names = ", ".join(sorted(found))
    if name is not None and name not in found:
        problem = f"has the configurations {names}" if found else "has no configurations; leave the flag out"
        raise DiffTuneError(f"--dataset_config_name is {name}, and {folder} {problem}.")
    if name is None and default is None and len(found) > 1:
        raise DiffTuneError(f"{folder} has the configurations {names}; choose one with --dataset_config_name.")
    return name or default or next(iter(found), None)


def refuse_configuration(source: Source) -> None:
    """Raises a [`DiffTuneError`] if a configuration is asked for of data that have none, unless the flag is about other data."""
    if source.wanted != ANY:
        chosen_configuration({}, source.config.dataset_config_name, None, source.place)


def file_splits(folder: Folder, files: Sequence[Path], source: Source, report: DataReport) -> dict[Path, str | None]:
    """The split of each file with rows, by the configuration that is read or by the names of folders and files; of a single
    file it is `None`, and so it is read whole. Files that the configuration does not have are told to the report."""
    if folder.is_file:
        refuse_configuration(source)
        return dict.fromkeys(files)
    found, default = card_configurations(folder.path, files)
    found = found or configurations(folder.path, files)
    name = source.config.dataset_config_name
    if source.wanted == ANY and name not in found:  # the flag is about other data
        name = None
    name = chosen_configuration(found, name, default, folder.path)
    if name is None:
        return {file: split_of_file(folder.inner(file), file) for file in files}
    others = [file for file in files if file not in found[name]]
    report.left_out += [folder.phrase(others, "file", f"not of configuration {name}")] if others else []
    return {file: found[name][file] for file in files if file in found[name]}
