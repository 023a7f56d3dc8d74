# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Where the images of a data set may lie: in it, whatever its rows and links say."""

import os
import re
import stat
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from huggingface_hub.constants import ENDPOINT


# Protocols of archives, of which the last part of a path such as zip://cat.png::hf://datasets/… names the place.
ARCHIVES = ("zip", "tar", "gzip", "bz2", "xz", "lz4", "zstd")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Places:
    """Tells which files belong to a data set.

    A data set is often somebody else's, and what its rows name is opened: without this, rows could have any picture of
    this machine trained on, or any address asked from it.

    Args:
        folders (`Iterable[str | Path]`): The folders whose files belong to it. One in the Hub's cache has the files that
            its links lead to, too.
    """

    def __init__(self, folders: Iterable[str | Path]) -> None:
        self.roots: list[str] = []
        for folder in folders:
            root = Path(os.path.realpath(folder))
            self.roots.append(str(root))
            # …/snapshots/COMMIT/cat.png is a link to …/blobs/SHA256
            self.roots += [
                str(parent.parent / "blobs") for parent in (root, *root.parents) if parent.name == "snapshots"
            ]

    def has(self, path: str) -> bool:
        """Whether a path leads to a place in the folders, once links are followed."""
        parent, name = os.path.split(os.path.abspath(path))
        real = os.path.join(real_folder(parent), name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        return any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in self.roots)

    def problem(self, path: str) -> str | None:
        """What is wrong with the path of an image, as the end of a sentence that begins with it, or `None`.

        A file that is not there is no problem here.
        """
        if CONTROL_CHARACTERS.search(path):
            return "has control characters in its name"
        *archives, last = path.split("::")
        protocol, _, rest = last.rpartition("://")
        if any(hop.split("://")[0] not in ARCHIVES for hop in archives):
            return "is no path to an image"
        if protocol in ARCHIVES and rest:
            return "is no path to an image"
        if protocol:
            return None if last.startswith(("hf://", f"{ENDPOINT}/")) else "is an address elsewhere"
        if not self.has(last):
            return "lies outside of the data"
        try:
            mode = os.stat(last).st_mode
        except (OSError, ValueError):
            return None
        return None if stat.S_ISREG(mode) else "is no file"


@lru_cache(maxsize=10_000)
def real_folder(path: str) -> str:
    """A folder once links are followed; many files share one."""
    return os.path.realpath(path)
