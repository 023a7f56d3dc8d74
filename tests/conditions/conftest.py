# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_difftune.bank.bank import KnowledgeBank
from tests.bank.building import load_pipeline, small_bank
from tests.conditions.building import decoder


@pytest.fixture(scope="session")
def bank(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBank:
    """A whole bank of ten samples. Shared by all tests: copy its folder before changing it."""
    return small_bank(load_pipeline(tiny_pipeline), tiny_pipeline, tmp_path_factory.mktemp("bank") / "bank")


@pytest.fixture(scope="session")
def decode(tiny_pipeline: Path) -> Callable[[torch.Tensor], list[Image.Image]]:
    return decoder(tiny_pipeline)
