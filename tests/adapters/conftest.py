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
"""Fixtures of the tests of adapters."""

from pathlib import Path

import pytest

from tests.tiny import save_tiny_dit_pipeline


@pytest.fixture(scope="package")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> dict[str, Path]:
    """The pipeline of each model of the table."""
    dit = save_tiny_dit_pipeline(tmp_path_factory.mktemp("tiny-dit"))
    return {"unet": tiny_pipeline, "controlnet": tiny_pipeline, "transformer": dit}
