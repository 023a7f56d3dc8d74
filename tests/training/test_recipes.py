# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The recipes: each is a whole run for its script, says what it is, and two of them do run."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from diffusers_difftune.cli import make_parser
from diffusers_difftune.cli.train import SCRIPTS
from diffusers_difftune.config import (
    ClassConditionalConfig,
    ControlNetConfig,
    TextToImageConfig,
    TextToImageLoraConfig,
)
from diffusers_difftune.config.parse import flags_file, parse_config
from tests.tiny import tiny_image

from .runs import CLASS, FULL, LORA, ROOT, check_flags, load_script, log


FOLDER = ROOT / "training_scripts" / "recipes"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
CONFIGS = {
    CLASS: ClassConditionalConfig,
    FULL: TextToImageConfig,
    LORA: TextToImageLoraConfig,
    "train_controlnet_difftune": ControlNetConfig,
}
EIGHT = ["food101", "sun397", "df20_mini", "caltech101", "cub200", "artbench10", "flowers102", "stanford_cars"]
SOURCES = (
    "Model and data.",
    "Paper:",
    "Reference code:",
    "DiffFit's paper:",
    "Upstream's example:",
    "Upstream's default:",
)
SOURCES += ("Our default:", "Our guess:", "Our choice")
# What makes a recipe small; the rest stays as it is.
TINY = "--resolution 16 --max_train_steps 2 --train_batch_size 4 --gradient_accumulation_steps 1 --bank_samples 4 --bank_steps 2"


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def values_of(name: str) -> dict:
    return yaml.safe_load(text_of(name))


def head_of(name: str) -> str:
    """The comment that a recipe begins with."""
    return text_of(name).split("\n\n")[0]


def command_of(name: str) -> list[str]:
    """The command in it, as words."""
    (command,) = re.findall(r"^#   (difftune train .*)$", head_of(name), re.MULTILINE)
    return shlex.split(command)


def script_of(name: str) -> str:
    return SCRIPTS[command_of(name)[2]]


def test_a_file_comes_before_a_recipe_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert flags_file("sd15_lora").samefile(FOLDER / "sd15_lora.yaml")
    assert flags_file("nothing") == Path("nothing")
    Path("sd15_lora").write_text("rank: 1")
    assert flags_file("sd15_lora") == Path("sd15_lora")


def readme_rows() -> dict[str, list[str]]:
    """The table of recipes: the other cells by the file."""
    rows = [line.strip("| ").split(" | ") for line in README.splitlines() if ".yaml](" in line and line[0] == "|"]
    return {re.match(r"\[(\w+)\.yaml\]\(\1\.yaml\)$", cells[0])[1]: cells[1:] for cells in rows}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_whole_run_for_its_script(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = command_of(name)[3:]
    assert flags == ["--config", name], "nothing else is needed"

    monkeypatch.chdir(tmp_path)  # outputs go into the working directory
    config = parse_config(CONFIGS[script_of(name)], flags)
    check_flags(config)
    for key, value in values_of(name).items():
        found = getattr(config, key)
        assert found == (float(value) if isinstance(found, float) else value), key
        assert isinstance(value, bool) == isinstance(found, bool), f"{key}: true and false, and nothing else is one"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_sets_nothing_twice_and_says_where_each_value_comes_from(name: str) -> None:
    source, keys = "", []
    for line in text_of(name).removeprefix(head_of(name)).splitlines():
        if line.startswith("# "):
            source = line.removeprefix("# ")
        elif line:
            keys.append(line.split(":")[0])
            assert source.startswith(SOURCES), f"{keys[-1]} is under '{source}'"
        else:
            source = ""  # a comment speaks for the lines up to the next empty one
    assert len(keys) == len(set(keys)) == len(values_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_whether_it_was_run_and_what_it_needs(name: str) -> None:
    head = head_of(name)
    assert all(line.startswith("#") for line in head.splitlines())
    assert "# Not run by us. Memory" in head, "when one is run, say on what, here and in the README"
    assert re.search(r"[Tt]ime:? ", head) and "# Data: " in head


def test_the_readme_lists_every_recipe_with_its_script_and_data() -> None:
    rows = readme_rows()
    assert sorted(rows) == NAMES
    for name, (task, data, sources, was_run) in rows.items():
        values = values_of(name)
        assert task == f"`{command_of(name)[2]}`"
        assert f"`{values.get('dataset_name') or values['train_data_dir']}`" in data
        assert sources and was_run == "no"


def test_the_readmes_commands_have_flags_that_exist() -> None:
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", "")
    commands = [shlex.split(line, comments=True) for line in blocks.splitlines() if line]
    for words in commands:
        if words[:2] == ["difftune", "train"]:
            parse_config(CONFIGS[SCRIPTS[words[2]]], words[3:])
        elif words[0] == "difftune":
            make_parser().parse_args(words[1:])
    assert {"difftune", "hf"} == {words[0] for words in commands}


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]*)\)", README)
    local = [link.split("#")[0] for link in links if not link.startswith("http")]
    assert [link for link in local if not (FOLDER / link).is_file()] == []


def test_the_eight_transfers_differ_in_their_data_alone() -> None:
    data = ("dataset_name", "train_data_dir", "image_column", "label_column", "max_train_samples", "output_dir")
    recipes = [values_of(f"dit_{name}") for name in EIGHT]
    shared = [{key: value for key, value in recipe.items() if key not in data} for recipe in recipes]
    assert all(other == shared[0] for other in shared)
    assert len({recipe["output_dir"] for recipe in map(values_of, NAMES)}) == len(NAMES)
    paper = {"max_train_steps": 24000, "train_batch_size": 32, "source_share": 0.2, "retention_weight": 0.1}
    paper |= {"reconsolidation_power": 1.0, "retention_power": 1.0, "use_ema": True, "class_dropout_prob": 0.1}
    assert paper.items() <= shared[0].items()


def run_recipe(name: str, flags: str, folder: Path) -> dict:
    """Runs a recipe for two steps in this process, and returns the settings that it ran with."""
    config = f"--config {FOLDER / name}.yaml --output_dir {folder / 'run'} --mixed_precision no {TINY}"
    load_script(script_of(name)).main(f"{config} {flags}".split())
    steps = log(folder / "run")
    assert [line["step"] for line in steps] == [1, 2]
    assert any(line["loss_retention"] > 0 for line in steps)
    return json.loads((folder / "run" / "run_config.json").read_text())


def test_a_class_conditional_recipe_runs(tiny_dit: Path, tmp_path: Path) -> None:
    """The one whose data are a table of files, as DF-20 Mini comes."""
    data = tmp_path / "DF20M"
    data.mkdir()
    rows = [{"image_path": f"{row}.JPG", "species": "", "class_id": str(row % 3 * 10)} for row in range(6)]
    for row, fields in enumerate(rows):
        tiny_image(row)[0].save(data / fields["image_path"], format="JPEG")
    with (data / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    settings = run_recipe(
        "dit_df20_mini", f"--pretrained_model_name_or_path {tiny_dit} --train_data_dir {data}", tmp_path
    )
    assert settings["flags"]["use_ema"] and settings["flags"]["learning_rate"] == 1e-4
    index = json.loads((tmp_path / "run" / "model_index.json").read_text())
    assert [index["id2label"][str(row)] for row in range(3)] == ["0", "10", "20"]


def test_a_text_to_image_recipe_runs(tiny_pipeline: Path, tiny_images: Path, tmp_path: Path) -> None:
    settings = run_recipe(
        "sd15_text_to_image", f"--pretrained_model_name_or_path {tiny_pipeline} --dataset_name {tiny_images}", tmp_path
    )
    assert settings["flags"]["gradient_checkpointing"] and settings["flags"]["learning_rate"] == 1e-5
    assert (tmp_path / "run" / "model_index.json").is_file()
