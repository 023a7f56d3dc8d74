# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The model card of a class-conditional result, and what of the result goes to the Hub."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from diffusers_difftune.publishing import files_to_upload, public_content
from tests.tiny import save_tiny_classes
from tests.training.runs import CLASS, arguments, load_script


SEVERAL_NAMES = "oak, quercus"  # as many classes of ImageNet have


def train(dit: Path, folder: Path, *flags: str) -> Path:
    images = save_tiny_classes(folder / "images")
    (images / "oak").rename(images / SEVERAL_NAMES)
    argv = arguments(dit, images, folder / "run", "--max_train_steps 1 --learning_rate 0.1")
    load_script(CLASS).main([*argv, *flags])
    return folder / "run"


@pytest.fixture(scope="module")
def result(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shown = ["--validation_classes", SEVERAL_NAMES, "elm"]
    return train(tiny_dit, tmp_path_factory.mktemp("run"), "--bank_samples", "2", *shown)


def code_of(result: Path) -> str:
    code = (result / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert '"path/to/this/folder"' in code and ").images[0]" in code
    return code.replace("path/to/this/folder", str(result)).replace(").images", ", num_inference_steps=2).images")


def test_the_hub_finds_it_as_a_class_conditional_model(result: Path) -> None:
    card = ModelCard((result / "README.md").read_text()).data
    assert {"class-conditional", "diffusers", "diffusers-training", "diff-tuning"} <= set(card.tags)
    assert not [tag for tag in card.tags if "text-to-image" in tag or "stable-diffusion" in tag]
    assert card.pipeline_tag == "unconditional-image-generation" and card.library_name == "diffusers"


def test_the_card_shows_images_under_the_names_of_their_classes(result: Path) -> None:
    card = (result / "README.md").read_text()
    for number, name in enumerate([SEVERAL_NAMES, "elm"]):
        assert f"*{name}*\n\n![](validation/step-1/{number}.png)" in card
    assert "| class dropout prob | 0.1 |" in card and "| class embeddings | keep |" in card


def test_its_code_makes_an_image(result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = code_of(result)
    assert 'class_labels=pipeline.get_label_ids(["oak"])' in code and "height" not in code
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert Image.open("image.png").size == (16, 16)


def test_its_code_makes_an_image_of_some_class_if_none_was_shown(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = train(tiny_dit, tmp_path, "--objective", "standard")
    assert "diff-tuning" not in ModelCard((result / "README.md").read_text()).data.tags
    code = code_of(result)
    assert "pipeline(class_labels=[0]" in code
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert Image.open("image.png").size == (16, 16)


def test_what_goes_to_the_hub(result: Path) -> None:
    files = set(files_to_upload(result))
    assert {"model_index.json", "README.md", "transformer/config.json", "scheduler/scheduler_config.json"} <= files
    assert "transformer/diffusion_pytorch_model.safetensors" in files and "validation/step-1/0.png" in files
    assert not [name for name in files if name.startswith(("knowledge_bank", "checkpoint"))]
    index = public_content(result / "model_index.json")
    assert index == str(result / "model_index.json"), "as it is, names of classes included"
    assert json.loads(Path(index).read_text())["id2label"] == {"0": "ash", "1": "elm", "2": SEVERAL_NAMES}
