# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Whether two runs left the same behind, bit for bit, and whether a checkpoint was lost."""

import hashlib
import json
from pathlib import Path
from typing import Any

from diffusers_difftune.training.checkpoint_files import what_is_missing


# What may differ: where a run was made, how it was started (the summary says what is still to come), and how long things took.
OF_THE_START = ("output_dir", "cache_dir", "resume_from_checkpoint", "summary")
OF_THE_CLOCK = ("images_per_second", "seconds")


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file in a run folder, leftovers too, by its name there."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: digest(name, path.read_bytes()) for name, path in files.items()}


def digest(name: str, data: bytes) -> str:
    """A hash over what must be the same in a file."""
    if name.endswith(".safetensors"):
        data = in_one_order(data)
    elif name.endswith((".json", ".jsonl")):
        lines = data.splitlines() if name.endswith(".jsonl") else [data]
        data = json.dumps([lasting(json.loads(line)) for line in lines], sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def in_one_order(data: bytes) -> bytes:
    """The tensors of a safetensors file and its metadata, sorted by name: the library writes metadata in any order."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = json.dumps(header.pop("__metadata__", {}), sort_keys=True).encode()
    return metadata + b"".join(
        json.dumps([name, tensor["dtype"], tensor["shape"]]).encode() + body[slice(*tensor["data_offsets"])]
        for name, tensor in sorted(header.items())
    )


def lasting(value: Any) -> Any:
    """JSON without what may differ."""
    if isinstance(value, list):
        return [lasting(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: lasting(each) for name, each in value.items() if name not in OF_THE_START + OF_THE_CLOCK}


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """In which files they differ, and how."""
    missing = [f"{name} is missing" for name in expected.keys() - found.keys()]
    left_over = [f"{name} is left over" for name in found.keys() - expected.keys()]
    other = [f"{name} differs" for name in expected.keys() & found.keys() if found[name] != expected[name]]
    return sorted(missing + left_over + other)


def lost(run_folder: Path, completed: set[str], limit: int | None) -> list[str]:
    """The checkpoints that were complete, must still be there, and are not whole.

    Args:
        run_folder (`Path`): The run folder, as a kill left it.
        completed (`set[str]`): The names of all checkpoints that were put into their place.
        limit (`int`, *optional*): `--checkpoints_total_limit`: so many of the newest ones must be there.
    """
    newest_first = sorted(completed, key=lambda name: int(name.split("-")[1]), reverse=True)
    return [name for name in newest_first[:limit] if what_is_missing(run_folder / name) is not None]
