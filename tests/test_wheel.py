# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What is installed: the wheel has the package's files and no others, and works without a clone."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import diffusers_difftune

from .test_project import ROOT, tracked_files


# From a folder with the project to one with its source distribution, and from that to the wheel, as `python -m build` does it.
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
LINK = ROOT / "diffusers_difftune" / "scripts"


def build(kind: str, project: Path, output: Path) -> Path:
    words = [sys.executable, "-c", BUILD, f"build_{kind}", str(output)]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return output / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution of what git has."""
    clone, folder = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("sdist")
    for path in [*tracked_files(), LINK]:
        copy = clone / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy, follow_symlinks=False)
    with tarfile.open(build("sdist", clone, folder)) as archive:
        archive.extractall(folder, filter="data")
    shutil.rmtree(clone)
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel, as if it was installed there."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build("wheel", sdist, folder)) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    (file,) = wheel.glob("*.dist-info/METADATA")
    return message_from_string(file.read_text(encoding="utf-8"))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_has_the_packages_files_and_no_others(wheel: Path) -> None:
    """The scripts and recipes are those of training_scripts, which the package's link names."""
    expected = {}
    for path in tracked_files():
        name = path.relative_to(ROOT)
        if name.parts[0] == "training_scripts":
            name = Path("diffusers_difftune", "scripts", *name.parts[1:])
        if name.parts[0] == "diffusers_difftune":
            expected[str(name)] = path.read_bytes()
    assert LINK.is_symlink() and LINK.resolve() == ROOT / "training_scripts"
    found = {name: content for name, content in files_in(wheel).items() if ".dist-info" not in name}
    assert sorted(found) == sorted(expected)
    assert found == expected
    assert {"diffusers_difftune/scripts/recipes/sd15_lora.yaml", "diffusers_difftune/py.typed"} <= set(found)


def test_the_source_distribution_is_the_repository(sdist: Path) -> None:
    """So that its tests can be run; the link is a folder there."""
    found = files_in(sdist)
    expected = {str(path.relative_to(ROOT)) for path in tracked_files()}
    made = re.compile(r"build/.*|PKG-INFO|setup\.cfg|diffusers_difftune\.egg-info/.*|diffusers_difftune/scripts/.*")
    assert expected - set(found) == set()
    assert [name for name in set(found) - expected if not made.fullmatch(name)] == []


def test_metadata_is_what_an_index_can_show(metadata: Message) -> None:
    assert metadata["Version"] == diffusers_difftune.__version__
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Requires-Python"] == ">=3.11"
    classifiers = metadata.get_all("Classifier")
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(classifiers)
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    targets = re.findall(r"\]\(([^)]*)\)|<img[^>]* src=\"([^\"]*)\"", text)
    assert text.startswith("# diffusers-difftune") and len(targets) >= 3
    assert [target for pair in targets for target in pair if target and not target.startswith("https://")] == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("-m diffusers_difftune --version", 0, f"diffusers-difftune {diffusers_difftune.__version__}"),
        ("-m diffusers_difftune train lora --help", 0, "--lora_alpha"),
        ("-m diffusers_difftune train lora --resolution x", 2, "error: Argument --resolution: invalid int value"),
        ("-m diffusers_difftune.scripts.train_controlnet_difftune --help", 0, "--controlnet_model_name_or_path"),
    ],
)
def test_the_commands_work_without_a_clone(words: str, code: int, said: str, wheel: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(wheel)}

    def run(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)

    where = "import diffusers_difftune; print(diffusers_difftune.__file__)"
    assert Path(run("-c", where).stdout.strip()).is_relative_to(wheel), "not the clone"
    done = run(*words.split())
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
