# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The README's figures are those of the demo whose pictures it shows, and the links of all pages lead somewhere."""

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest


ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "training_scripts" / "recipes" / "README.md",
    *sorted(ROOT.glob("benchmarks/*.md")),
    *sorted(ROOT.glob("benchmarks/*/README.md")),
]


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


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"(?ms)^ *(```|~~~).*?^ *\1 *$", "", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: in lower case, of letters, digits, underscores and hyphens alone,
    with a hyphen for each space, and numbered where several headings are the same."""
    found, seen = set(), Counter()
    for heading in re.findall(r"(?m)^#{1,6} +(.*?)[ #]*$", prose(page)):
        shown = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", heading)  # of a link, its words
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(page: Path) -> list[str]:
    """What a page links to and what it shows, in its own repository."""
    text = re.sub(r"(`+)[^`]+\1", "", prose(page))  # without code
    found = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'(?:href|src)="([^"]+)"', text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def broken_links(page: Path) -> list[str]:
    """The links of a page to files or headings that are not there."""
    broken = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_picture_page_and_heading_that_is_linked_to_exists(page: Path) -> None:
    assert broken_links(page) == []


def test_there_are_links_to_look_at() -> None:
    assert len(links(ROOT / "README.md")) > 8
    assert sum("#" in link for page in PAGES for link in links(page)) > 10


def test_anchors_are_githubs(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    page.write_text(
        "# `x_0` & FID/KID: *why?*\n\n## See [this](other.md)\n\n## Twice\n\n## Twice ##\n\n"
        "```python\n# no heading\nx = a[0](other.md)\n```\n`[code](nowhere)` [there](https://somewhere.org/#x)\n"
    )
    assert anchors(page) == {"x_0--fidkid-why", "see-this", "twice", "twice-1"}
    assert broken_links(page) == ["other.md"]
    other.write_text('[a](page.md#twice-1) [b](page.md#twice-2) [c](#own) ![d](no.png) <img src="e.png">\n\n### Own\n')
    assert broken_links(page) == []
    assert broken_links(other) == ["page.md#twice-2", "no.png", "e.png"]
