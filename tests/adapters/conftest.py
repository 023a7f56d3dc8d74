# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of adapters."""

from pathlib import Path

import pytest

from tests.tiny import save_tiny_dit_pipeline


@pytest.fixture(scope="package")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> dict[str, Path]:
    """The pipeline of each model of the table."""
    dit = save_tiny_dit_pipeline(tmp_path_factory.mktemp("tiny-dit"))
    return {"unet": tiny_pipeline, "controlnet": tiny_pipeline, "transformer": dit}
