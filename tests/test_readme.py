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
"""The README's figures are those of the demo whose pictures it shows."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest


ROOT = Path(__file__).parents[1]


@pytest.fixture
def fill_readme() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fill_readme", ROOT / "benchmarks" / "fill_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_words_follow_the_figures(fill_readme: ModuleType) -> None:
    def summary(forgotten: float, kid: float, error: float = 0.01) -> dict:
        errors = {"loss_change_target_standard_error": 0.02, "forgetting_source_standard_error": 0.02}
        figures = errors | {"loss_change_target": -0.1, "forgetting_source": 0.1, "kid_target_std": 3.0}
        standard, pretrained = figures | {"kid_target": 20.0}, figures | {"kid_target": 30.0}
        difftune = figures | {"forgetting_source": forgotten, "kid_target": kid}
        # on the same drawings, so the errors above do not add up to these
        paired = {"loss_change_target": 0.0, "loss_change_target_standard_error": error}
        paired |= {"forgetting_source": forgotten - 0.1, "forgetting_source_standard_error": error}
        return {"pretrained": pretrained, "standard": standard, "difftune": difftune, "difference": paired}

    assert "forgot less than standard fine-tuning (-5.0 ± 1.0 % on the same drawings)" in fill_readme.reading(
        summary(0.05, 20.0)
    )
    assert "forgot more than" in fill_readme.reading(summary(0.15, 20.0))
    assert "forgot neither clearly less nor" in fill_readme.reading(summary(0.085, 20.0))
    assert "forgot less than" in fill_readme.reading(summary(0.085, 20.0, error=0.005))
    assert "both methods come nearer" in fill_readme.reading(summary(0.05, 20.0))
    assert "only standard fine-tuning comes nearer" in fill_readme.reading(summary(0.05, 27.0))
    assert fill_readme.reading(summary(0.05, 20.0)).count("learned the target as well") == 1


def test_the_table_is_written_from_the_summary(fill_readme: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    images = ROOT / "docs" / "images"
    table = fill_readme.table(json.loads((images / "demo_summary.json").read_text()))
    assert fill_readme.fill(readme, fill_readme.BEGIN, fill_readme.END, table) == readme
    if (images / "controlnet_summary.json").is_file():
        found = [images / "controlnet_summary.json", fill_readme.EVIDENCE]
        text = fill_readme.controlnet_text(*(json.loads(file.read_text()) for file in found))
        markers = fill_readme.CONTROLNET_BEGIN, fill_readme.CONTROLNET_END
        assert fill_readme.fill(readme, *markers, text) == readme


def test_every_picture_and_page_that_the_readme_links_to_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [part.split(")")[0] for part in readme.split("](")[1:]]
    local = [link.split("#")[0] for link in links if not link.startswith(("http", "#"))]
    assert len(local) > 8
    assert [link for link in local if not (ROOT / link).exists()] == []
