# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""OpenCV is an extra."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from diffusers_difftune.cli import main
from diffusers_difftune.controls import MODEL_KINDS, make_extractor
from diffusers_difftune.errors import DiffTuneError
from tests.controls.tiny_models import save_dpt
from tests.tiny import tiny_image
from tests.training.runs import run


ROOT = Path(__file__).parents[2]
SAID = r'computed with OpenCV, which cannot be imported \(.*cv2.*\); install it with `pip install "diffusers-difftune\[control\]"`\.'


@pytest.fixture
def without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # whoever imports it now is told that it is not there
    for name in ("opencv", "edge", "sketch", "shapes"):
        monkeypatch.delitem(sys.modules, f"diffusers_difftune.controls.{name}", raising=False)


def test_one_file_imports_it_and_the_extra_has_it() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "diffusers_difftune").rglob("*.py")}
    assert [name for name, text in sources.items() if re.search(r"^\s*(import|from) cv2", text, re.MULTILINE)] == [
        "opencv.py"
    ]
    users = {name for name, text in sources.items() if "from .opencv import" in text}
    assert users == {"lines.py", "shapes.py", "make.py"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [name for name in project["dependencies"] if "opencv" in name]
    assert [name for name in project["optional-dependencies"]["control"] if "opencv" in name]


@pytest.mark.parametrize("kind", ["edge", "sketch", *MODEL_KINDS])
def test_what_needs_it_says_how_to_get_it(without_opencv: None, kind: str) -> None:
    with pytest.raises(DiffTuneError, match=SAID):
        make_extractor(kind, "drawing" if kind in MODEL_KINDS else None)


def test_models_do_not_need_it(without_opencv: None, tmp_path: Path) -> None:
    (found,) = make_extractor("depth", str(save_dpt(tmp_path / "model")))([tiny_image(0, (32, 32))[0]])
    assert found.size == (32, 32)


def test_a_command_says_so_before_it_reads_anything(
    without_opencv: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["conditions", "build", str(tmp_path / "absent"), str(tmp_path / "out"), "--kind", "sketch"]) == 2
    assert "diffusers-difftune[control]" in capsys.readouterr().err


def test_training_says_so_before_weights_are_loaded(
    without_opencv: None,
    tiny_pipeline: Path,
    tiny_conditions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", None)
    flags = "--condition_kind edge --retention_condition extracted --source_share 0.5"
    with pytest.raises(SystemExit):
        run("train_controlnet_difftune", tiny_pipeline, tiny_conditions, tmp_path / "run", flags)
    assert "diffusers-difftune[control]" in capsys.readouterr().err
