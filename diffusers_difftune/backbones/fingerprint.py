# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which weights a pipeline folder holds, in one short string."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DiffTuneError
from ..io.hashing import file_sha256
from .pipeline_files import weight_files


CONFIG_NAMES = ("config.json", "scheduler_config.json")


def weights_fingerprint(
    folder: str | Path,
    components: Sequence[str],
    variant: str | None = None,
    cache_dir: str | Path | None = None,
    verify: bool = False,
    replaced: Mapping[str, Path] | None = None,
) -> str:
    """A fingerprint of components of a pipeline: SHA-256 over their configs and the bytes of their weight files.

    It does not depend on where the folder lies, on file names, or on weight files of other variants beside these. A component
    without weight files, such as a tokenizer, counts with all its files.

    Args:
        folder (`str` or `Path`): A local pipeline folder.
        components (`Sequence[str]`): Names of its subfolders.
        variant (`str`, *optional*): The variant of the weight files that would be loaded.
        cache_dir, verify: See [`file_sha256`].
        replaced (`Mapping[str, Path]`, *optional*): The folders of components that are elsewhere.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    total = hashlib.sha256()
    for component in sorted(components):
        subfolder = (replaced or {}).get(component, Path(folder, component))
        if not subfolder.is_dir():
            raise DiffTuneError(f"There is no folder {component} in {folder}.")
        files = [path for path in weight_files(subfolder, variant) if path.suffix != ".json"]
        if files:
            configs = [plain_config(subfolder / name) for name in CONFIG_NAMES if (subfolder / name).is_file()]
        else:
            configs = [plain_config(path) for path in subfolder.iterdir() if path.name in CONFIG_NAMES]
            files = sorted(path for path in subfolder.iterdir() if path.is_file() and path.name not in CONFIG_NAMES)
        parts = [component, *configs, *(file_sha256(path, cache_dir, verify) for path in files)]
        total.update(json.dumps(parts).encode())
    return total.hexdigest()


def hub_commit(folder: Path) -> str | None:
    """The commit of a pipeline in the Hub's cache, where folders are named …/snapshots/COMMIT; else `None`."""
    return folder.name if folder.parent.name == "snapshots" else None


def plain_config(path: Path) -> str:
    """A config without what saving it anew changes: versions, paths, order and layout."""
    config = json.loads(path.read_text())
    kept = {name: value for name, value in config.items() if name == "_class_name" or not name.startswith("_")}
    kept.pop("transformers_version", None)
    return json.dumps(kept, sort_keys=True)
