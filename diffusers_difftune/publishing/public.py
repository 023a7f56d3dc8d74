# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What may be uploaded of a run folder, and nothing private in it."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, get_token

from ..errors import DiffTuneError


# What a run folder holds beside its result.
LEFT_OUT = ("checkpoint-*", "knowledge_bank", "logs", "*cache*", "wandb", "runs")

SECRET = re.compile(r"(^|_)(token|secret|password|api_key)$", re.IGNORECASE)
DOWNLOADED = re.compile(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]")
LOCAL_PATH = re.compile(r"^([/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\])")
# Of at least two parts, so that "/imagine" is none; nor is one in "a/b", "1/2" or an address.
PATH_IN_TEXT = re.compile(r"(?<![\w./\\:~-])(~|\.{1,2}|[A-Za-z]:)?[/\\](?=[^\s;,)/\\]+[/\\])")
SENTENCE = re.compile(r"[;,] ")
STATE_FILE = "training_state.json"  # of a checkpoint
CHECKPOINT_SUFFIXES = (".json", ".safetensors")
TEXT_SUFFIXES = (".csv", ".json", ".jsonl", ".md", ".txt", ".yaml", ".yml")


def files_to_upload(folder: Path, leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    """The names, relative to the run folder, of the files that [`upload`] uploads."""
    leave_out += inputs_inside(folder)
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)  # also what is written aside, .NAME.tmp
        left_out = len(parts) > 1 and any(fnmatch(parts[0], pattern) for pattern in LEFT_OUT)
        if path.is_file() and not hidden and not left_out and not any(fnmatch(parts[0], p) for p in leave_out):
            yield "/".join(parts)


def inputs_inside(folder: Path) -> tuple[str, ...]:
    """The names at the top of a run folder that `run_config.json` knows as logs, caches or data."""
    try:
        flags = json.loads((folder / "run_config.json").read_text(encoding="utf-8"))["flags"]
    except (OSError, ValueError, KeyError):
        return ()
    inputs = ("cache_dir", "knowledge_bank", "train_data_dir", "evaluation_data", "control_evaluation_data")
    paths = [Path(flags[name]) for name in inputs if flags.get(name)]
    paths += [folder / flags["logging_dir"]] if flags.get("logging_dir") else []
    top, inside = folder.resolve(), [path.resolve() for path in paths]
    return tuple(path.relative_to(top).parts[0] for path in inside if top in path.parents)


def public_content(path: Path) -> bytes | str:
    """What is uploaded of a file: its path, or its bytes where something had to be taken out."""
    if not (path.name == "model_index.json" or path.name.endswith("config.json")):
        return str(path)
    found = json.loads(path.read_text(encoding="utf-8"))
    public = public_facts(found)
    return str(path) if public == found else to_bytes(public)


def checkpoint_contents(checkpoint: Path) -> dict[str, bytes | str]:
    """What is uploaded of a checkpoint, by name: all that training goes on from, without pickles.

    `training_state.json` has the sizes of the files as they are uploaded.
    """
    files = [path for path in sorted(checkpoint.rglob("*")) if path.suffix in CHECKPOINT_SUFFIXES]
    found = {path.relative_to(checkpoint).as_posix(): public_content(path) for path in files}
    state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    public = state | {"settings": public_facts(state["settings"])}
    public["files"] = state["files"] | {name: len(data) for name, data in found.items() if isinstance(data, bytes)}
    return found | ({} if public == state else {STATE_FILE: to_bytes(public)})


def to_bytes(facts: Any) -> bytes:
    """JSON as it is uploaded."""
    return (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()


def public_facts(value: Any) -> Any:
    """What JSON can hold, such as the content of `run_config.json`, without tokens, and with the last part only of every path
    of this machine, also inside sentences. A path into the cache of downloaded models becomes the model's id.
    """
    if isinstance(value, dict):
        return {key: public_facts(item) for key, item in value.items() if not SECRET.search(str(key))}
    if isinstance(value, (list, tuple)):
        return [public_facts(item) for item in value]
    if isinstance(value, Path):
        return public_path(str(value))
    if not isinstance(value, str):
        return value
    is_local = LOCAL_PATH.match(value) or DOWNLOADED.search(value)
    if (is_local and not SENTENCE.search(value)) or (os.sep in value and os.path.exists(value)):
        return public_path(value)
    return public_sentence(value).replace(str(Path.home()), "~")


def public_path(path: str) -> str:
    """The last part of a path, or the id of a downloaded model."""
    if downloaded := DOWNLOADED.search(path):
        return "/".join(downloaded.groups())
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def public_sentence(text: str) -> str:
    """A text with the last part only of the paths in it."""
    parts, at = [], 0
    while begin := PATH_IN_TEXT.search(text, at):
        end = path_end(text, begin.start())
        parts += [text[at : begin.start()], public_path(text[begin.start() : end])]
        at = end
    return "".join(parts) + text[at:]


def path_end(text: str, start: int) -> int:
    """Where the path ends that begins at `start`: after spaces in it if that is there, and otherwise before the first one."""
    ends = [start + found.start() for found in re.finditer(r"[\s;,)]|$", text[start:])]
    return next((end for end in reversed(ends) if os.path.exists(text[start:end])), ends[0])


def refuse_secrets(operations: Sequence[CommitOperationAdd], token: str | None) -> None:
    """A last look: no text that is about to be uploaded may have the token in it, wherever it came from."""
    secret = (token or get_token() or "").encode()
    for operation in operations if secret else ():
        with operation.as_file() as file:
            if operation.path_in_repo.endswith(TEXT_SUFFIXES) and secret in file.read():
                raise DiffTuneError(
                    f"{operation.path_in_repo} has the Hub token in it and will not be uploaded; remove it."
                )
