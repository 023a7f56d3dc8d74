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


ROOT = Path(__file__).parents[1]


def test_the_table_is_written_from_the_summary() -> None:
    spec = importlib.util.spec_from_file_location("fill_readme", ROOT / "benchmarks" / "fill_readme.py")
    fill_readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill_readme)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    summary = json.loads((ROOT / "docs" / "images" / "demo_summary.json").read_text())
    assert fill_readme.fill(readme, summary) == readme


def test_every_picture_and_page_that_the_readme_links_to_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [part.split(")")[0] for part in readme.split("](")[1:]]
    local = [link.split("#")[0] for link in links if not link.startswith(("http", "#"))]
    assert len(local) > 8
    assert [link for link in local if not (ROOT / link).exists()] == []
