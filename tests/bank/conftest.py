# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline

from diffusers_difftune.bank.bank import KnowledgeBank
from tests.bank.building import load_pipeline, small_bank


@pytest.fixture(scope="session")
def pipeline(tiny_pipeline: Path) -> DiffusionPipeline:
    return load_pipeline(tiny_pipeline)


@pytest.fixture(scope="session")
def build(pipeline: DiffusionPipeline, tiny_pipeline: Path) -> Callable[..., KnowledgeBank]:
    """`build(folder, **changes)` builds a small bank."""

    def build(folder: Path, **changes: Any) -> KnowledgeBank:
        return small_bank(pipeline, tiny_pipeline, folder, **changes)

    return build


@pytest.fixture(scope="session")
def bank(build: Callable[..., KnowledgeBank], tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBank:
    """A whole small bank. Shared by all tests: copy its folder before changing it."""
    return build(tmp_path_factory.mktemp("bank") / "bank")
