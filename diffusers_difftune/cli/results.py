# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Files of figures that commands write: those of another measurement are not written over."""

import json
import tempfile
from pathlib import Path
from typing import Any

from ..errors import DiffTuneError


def check_is_free(flag: str, file: Path, settings: dict[str, Any], pipelines: list[str] | None = None) -> None:
    """Refuses to write over what the same command would not write.

    A command that is repeated, or goes on after it was killed, finds its own settings in the file, and writes it anew. Of
    pipelines that are compared, the file has a result for each of the first, in order.
    """
    if not file.exists():
        return
    try:
        content = json.loads(file.read_bytes())
        then, results = content["settings"], content.get("results", [])
        measured = [labelled(each["pipeline"], each["adapter"]) for each in results]
        changed = [name for name in settings if name != "difftune" and then.get(name) != settings[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DiffTuneError(f"{flag}: {file} is there and is no file of such figures; name another one.") from None
    clauses = [f"{name} was {then.get(name)} and is {settings[name]}" for name in changed]
    if pipelines is not None and measured != pipelines[: len(measured)]:
        clauses.insert(0, f"of {', '.join(measured)}, not of {', '.join(pipelines)}")
    if clauses:
        raise DiffTuneError(
            f"{flag}: {file} holds the figures of another measurement ({'; '.join(clauses)}), which would be overwritten; name"
            " another place, or delete it."
        )


def labelled(pipeline: str, adapter: str | None) -> str:
    """How a pipeline is called in a comparison, with the adapter on it."""
    return pipeline if adapter is None else f"{pipeline} + {adapter}"


def picture_beside(output: Path) -> Path:
    """Where the picture goes that belongs to a file of figures."""
    return output.with_suffix(".png")


def write_results(output: Path, content: dict[str, Any], sheet: bytes) -> None:
    """Writes the figures to what `--output` names, and the picture, a PNG, beside them."""
    from ..io.atomic import write_bytes_atomic

    try:
        write_bytes_atomic(output, (json.dumps(content, indent=2) + "\n").encode())
        write_bytes_atomic(picture_beside(output), sheet)
    except OSError as error:
        raise unwritable(output, error) from error


def check_output(output: Path) -> None:
    """Stops if what is found after hours of sampling could not be written to `--output`."""
    if output.suffix != ".json":
        raise DiffTuneError(f"--output is {output}; it must be the name of a .json file.")
    folder = output.absolute().parent
    if not folder.is_dir():
        raise DiffTuneError(f"--output {output} cannot be written, because its folder does not exist.")
    try:  # to write there: permissions alone do not tell, least of all the administrator
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{output.name}."):
            pass
        for file in (output, picture_beside(output)):
            if file.is_dir():
                raise DiffTuneError(f"--output {output} cannot be written, because {file} is a folder.")
    except OSError as error:
        raise unwritable(output, error) from error


def unwritable(output: Path, error: OSError) -> DiffTuneError:
    """What is said of an `--output` that the system does not write."""
    return DiffTuneError(
        f"--output {output} cannot be written: {error.strerror}; name a file in a folder that you can write to and that has"
        " room."
    )
