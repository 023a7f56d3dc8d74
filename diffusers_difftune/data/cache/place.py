# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Where this library keeps what it makes once."""

from pathlib import Path

from huggingface_hub.constants import HF_HOME


def difftune_cache_dir(cache_dir: str | Path | None = None) -> Path:
    """This library's folder in the cache of the Hugging Face libraries, which is `--cache_dir` or their own default."""
    return Path(cache_dir or HF_HOME) / "difftune"
