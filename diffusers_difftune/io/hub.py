# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What a flag or an argument names: a folder of this machine, or a repository on the Hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download

from ..errors import DiffTuneError, first_sentence


# What is read of a model: never a pickle, nor code.
MODEL_FILES = ("*.json", "*.safetensors")


def folder_of(name: str | Path, what: str, files: Sequence[str] = MODEL_FILES, **where: Any) -> Path:
    """The local folder of a model or a bank; one on the Hub is downloaded first, or found in the cache.

    Args:
        name (`str` or `Path`): A folder, or an id on the Hub.
        what (`str`): What it is to be, with its article, for the message: `"a VAE"`.
        files (`Sequence[str]`, *optional*): Patterns of the files to download.
        where: As in `snapshot_download`: `revision`, `cache_dir`, `token`, `repo_type`.

    Raises:
        DiffTuneError: There is neither such a folder nor such a repository.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(str(name), allow_patterns=list(files), **where))
    except Exception as error:  # the Hub client and requests raise a dozen unrelated classes here
        raise DiffTuneError(
            f"{name} is neither a folder nor {what} that can be had from the Hub: {first_sentence(error)}."
        ) from error


def pinned(
    name: str | Path,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    file: str = "config.json",
) -> tuple[Path, dict[str, Any]]:
    """The config of a model, and where the rest of it is: at the same commit, whatever the repository becomes meanwhile.

    Returns:
        `tuple[Path, dict]`: The local file, and the arguments of `from_pretrained` beside the name; `revision` is the
        commit. Of a folder the file may be missing, and there are no arguments.

    Raises:
        Exception: What the Hub client raises, of which there are a dozen unrelated classes; callers say what the model is
            for.
    """
    if Path(name).is_dir():
        return Path(name, file), {}
    where: dict[str, Any] = {"cache_dir": cache_dir, "token": token}
    config = Path(hf_hub_download(str(name), file, revision=revision, **where))
    return config, where | {"revision": config.parent.name}  # …/snapshots/COMMIT/config.json
