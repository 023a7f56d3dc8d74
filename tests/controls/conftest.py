# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_difftune.bank.bank import KnowledgeBank
from tests.bank.building import load_pipeline, small_bank
from tests.controls.building import decoder


@pytest.fixture(scope="session")
def bank(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBank:
    """A whole bank of ten samples. Shared by all tests: copy its folder before changing it."""
    return small_bank(load_pipeline(tiny_pipeline), tiny_pipeline, tmp_path_factory.mktemp("bank") / "bank")


@pytest.fixture(scope="session")
def decode(tiny_pipeline: Path) -> Callable[[torch.Tensor], list[Image.Image]]:
    return decoder(tiny_pipeline)
