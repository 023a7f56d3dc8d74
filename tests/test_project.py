# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for every file of the project, and for the package as a whole."""

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
import yaml

import diffusers_difftune


ROOT = Path(__file__).parents[1]
HEADER = "# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors\n# SPDX-License-Identifier: Apache-2.0\n"
HEAVY = ("accelerate", "datasets", "diffusers", "matplotlib", "peft", "torch", "torchmetrics", "transformers")
LONGEST_FILE = 400
TEXT_SUFFIXES = {"", ".cff", ".cfg", ".ini", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}


def tracked_files() -> list[Path]:
    """The files of the repository; tests of them are skipped outside of one."""
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("this is not a git repository")
    return [ROOT / name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]


def tracked_text() -> dict[str, str]:
    paths = [path for path in tracked_files() if path.suffix in TEXT_SUFFIXES and path != Path(__file__)]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def in_a_new_process(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_every_source_file_has_the_license_header() -> None:
    sources = {name: text for name, text in tracked_text().items() if name.endswith(".py") and text}
    assert len(sources) > 20
    missing = [name for name, text in sources.items() if not text.startswith(HEADER)]
    assert missing == []


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("the address of a package registry", r"index-url|/simple/|pythonhosted\.org|registry\.(npmjs|yarnpkg)"),
        ("a path of somebody's machine", r"/root/|/Users/[a-z]+/|[A-Z]:\\\\Users\\\\(?!me)"),
        ("an import of torchvision", r"(?m)^\s*(import|from) torchvision"),
        ("an unfinished thought", r"\b(TODO|FIXME|XXX)\b"),
        ("a token", r"\bhf_[A-Za-z0-9]{30,}"),
    ],
)
def test_no_file_has(what: str, pattern: str) -> None:
    found = [f"{name}: {match[0]}" for name, text in tracked_text().items() if (match := re.search(pattern, text))]
    assert found == [], what


def test_no_registry_settings_are_committed() -> None:
    names = {path.name for path in tracked_files()}
    assert not names & {".npmrc", ".pypirc", "pip.conf", "pip.ini", ".yarnrc"}


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and for type checking included, but for those of the package itself, which has the names of all.

    (That rooms import from lower layers only is a contract in pyproject.toml, which `make quality` checks.)
    """
    graph = grimp.build_graph("diffusers_difftune", cache_dir=None)
    assert len(graph.modules) > 100 and "diffusers_difftune.scripts.train_controlnet_difftune" in graph.modules
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules - {"diffusers_difftune"}}
    assert [" <- ".join(circle) for circle in circles_of(imports)] == []


def circles_of(imports: dict[str, set[str]]) -> list[list[str]]:
    """Circles of imports, each with an import that is in none before it; without that, all of them would be gone."""
    imports, found = {name: set(imported) for name, imported in imports.items()}, []
    while True:
        try:
            TopologicalSorter(imports).prepare()
        except CycleError as error:
            imported, importer, *_ = error.args[1]
            imports[importer].remove(imported)
            found.append(error.args[1])
        else:
            return found


def test_circles_of_imports_are_found() -> None:
    assert circles_of({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    (circle,) = circles_of({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert set(circle) == {"a", "b", "c"}


def test_no_file_is_too_long_to_be_read_in_one_sitting() -> None:
    package = ROOT / "diffusers_difftune"
    sources = [path for path in tracked_files() if path.suffix == ".py" and path.is_relative_to(package)]
    lengths = {str(path.relative_to(package)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert len(lengths) > 100
    assert not [name for name, length in lengths.items() if length > LONGEST_FILE]


def test_importing_the_package_is_light() -> None:
    code = "import sys, diffusers_difftune; print([name for name in sys.argv[1:] if name in sys.modules])"
    code = code.replace("sys.argv[1:]", repr(HEAVY))
    assert in_a_new_process(code) == "[]"
    assert in_a_new_process(code.replace("diffusers_difftune;", "diffusers_difftune.cli;")) == "[]"


def test_the_objective_loads_no_pipelines() -> None:
    code = "import sys; from diffusers_difftune import DiffTuningObjective; print('transformers' in sys.modules, "
    code += "any(name.startswith('diffusers.pipelines') for name in sys.modules), 'datasets' in sys.modules)"
    assert in_a_new_process(code) == "False False False"


def test_public_names_exist_and_are_documented() -> None:
    for name in diffusers_difftune.__all__:
        value = getattr(diffusers_difftune, name)
        if name != "__version__":
            assert len(inspect.getdoc(value) or "") > 40, name
    assert set(diffusers_difftune.__all__) <= set(dir(diffusers_difftune))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = diffusers_difftune.nothing


def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert {"make quality", "make wheel", "make test"} <= set(script.read_text().splitlines())
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "test-slow", "style", "quality", "wheel", "help"):
        assert re.search(rf"(?m)^{target}:", makefile), target


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    assert pinned["torch"] == "2.13.0"
    wanted = project["dependencies"] + [
        item for extra in ("test", "quality", "release") for item in project["optional-dependencies"][extra]
    ]
    names = {re.split(r"[\[<>=]", item)[0].lower().replace("_", "-") for item in wanted} - {"diffusers-difftune"}
    assert names <= set(pinned), "constraints.txt has a version of everything the tests install"

    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {pin for hook in hooks for pin in hook["additional_dependencies"]} == {f"ruff=={pinned['ruff']}"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == diffusers_difftune.__version__
    assert citation["license"] == project["license"] == "Apache-2.0"


def test_papers_to_read_before_use_are_there() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
    assert "How to add a backbone" in (ROOT / "CONTRIBUTING.md").read_text()
    assert (ROOT / "benchmarks" / "log.md").is_file()


def test_committed_json_and_yaml_can_be_read() -> None:
    for name, text in tracked_text().items():
        if name.endswith(".json"):
            json.loads(text)
        elif name.endswith((".yaml", ".yml", ".cff")):
            yaml.safe_load(text)
