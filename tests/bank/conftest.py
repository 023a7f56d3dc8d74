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
