# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune conditions build`."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffusers_difftune.bank.bank import BANK_FILES, KnowledgeBank
from diffusers_difftune.cli import main
from diffusers_difftune.config import ControlNetConfig
from diffusers_difftune.controls import KINDS, MODEL_KINDS
from diffusers_difftune.data.dataset import load_target_data
from tests.controls.drawings import control
from tests.tiny import save_tiny_images, save_tiny_pipeline, tiny_image


@pytest.fixture
def cache(tmp_path: Path) -> list[str]:
    return ["--cache_dir", str(tmp_path / "cache")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_built(kind: str, tiny_images: Path, tmp_path: Path, cache: list[str]) -> None:
    model = ["--model", "drawing"] if kind in MODEL_KINDS else []
    assert main(["conditions", "build", str(tiny_images), str(tmp_path / "out"), "--kind", kind, *model, *cache]) == 0
    target = load_target_data(ControlNetConfig(train_data_dir=str(tmp_path / "out")), 0, tmp_path / "cache")
    assert len(target) == 6
    assert np.array_equal(target.conditions[4].convert("RGB"), control(kind, tiny_image(4)[0]))


def test_the_flags_of_the_data_have_their_effect(
    tmp_path: Path, cache: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    images = save_tiny_images(tmp_path / "images", count=8)
    file = images / "metadata.jsonl"
    file.write_text(file.read_text().replace('"text"', '"words"'))
    (images / "05.png").write_bytes(b"")
    out = str(tmp_path / "out")
    flags = ["--kind", "edge", "--caption_column", "words", "--skip_bad_images", "--max_train_samples", "8"]
    flags += ["--resolution", "8", "--batch_size", "3", "--seed", "4"]
    assert main(["conditions", "build", str(images), out, *flags, *cache]) == 0
    (block,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("What this command does")]
    words = " ".join(block.split())  # where lines break depends on the length of paths
    assert " images 7 of " in words and " conditions edge, 8 × 8 pixels " in words
    target = load_target_data(ControlNetConfig(train_data_dir=out), 0, tmp_path / "cache")
    captions = [target.captions(row)[0] for row in range(7)]
    expected = [tiny_image(index)[1] for index in range(8) if index != 5]
    assert sorted(captions) == sorted(expected) and captions != expected  # drawn with the seed
    assert target.image(0).size == target.conditions[0].size == (8, 8)


def test_a_parquet_file_and_a_name_of_datasets_will_do(tiny_images: Path, tmp_path: Path, cache: list[str]) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert main(["conditions", "build", str(tiny_images), str(once), "--kind", "edge", *cache]) == 0
    (file,) = (once / "data").iterdir()
    assert main(["conditions", "build", str(file), str(twice), "--kind", "edge", *cache]) == 0
    assert next((twice / "data").iterdir()).read_bytes() == file.read_bytes()


def test_a_bank_gets_its_conditions(
    bank: KnowledgeBank, tiny_pipeline: Path, tmp_path: Path, cache: list[str], capsys: pytest.CaptureFixture
) -> None:
    folder = Path(shutil.copytree(bank.folder, tmp_path / "bank"))
    flags = ["--kind", "sketch", "--pretrained_model_name_or_path", str(tiny_pipeline), *cache]
    assert main(["conditions", "build", str(folder), *flags]) == 0
    (conditions,) = (folder / "conditions").iterdir()
    assert f"{conditions} has the control images of the bank's 10 samples" in capsys.readouterr().out
    assert main(["bank", "inspect", str(folder)]) == 0
    assert "complete, and every shard is as it was written" in capsys.readouterr().out
    # a bank goes to and from the Hub without them: they are made again from it
    assert not any(path.match(pattern) for path in conditions.rglob("*.parquet") for pattern in BANK_FILES)


def test_the_pipeline_of_a_bank_is_what_its_manifest_says(
    bank: KnowledgeBank, tiny_pipeline: Path, tmp_path: Path, cache: list[str], capsys: pytest.CaptureFixture
) -> None:
    folder = Path(shutil.copytree(bank.folder, tmp_path / "bank"))
    manifest = folder / "manifest.json"
    assert main(["conditions", "build", str(folder), "--kind", "edge", *cache]) == 2
    assert "--pretrained_model_name_or_path: tiny is neither a folder" in capsys.readouterr().err
    manifest.write_text(manifest.read_text().replace('"model": "tiny"', f'"model": "{tiny_pipeline}"'))
    assert main(["conditions", "build", str(folder), "--kind", "edge", *cache]) == 0


def mistake(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one sentence of a command that is refused."""
    assert main(["conditions", "build", *arguments]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("difftune: ")]
    return error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["IMAGES", "OUT", "--kind", "canny"], "'canny' is no kind of control images; the kinds are edge, sketch"),
        (["IMAGES", "OUT", "--kind", "edge", "--model", "drawing"], "edge is computed without a model"),
        (["IMAGES", "OUT", "--kind", "depth", "--model", "some/where"], "The depth model some/where is neither"),
        (["IMAGES", "--kind", "edge"], "OUT is missing"),
        (["IMAGES", "IMAGES/out", "--kind", "edge"], "inside of"),
        (["IMAGES/absent", "OUT", "--kind", "edge"], "there is no such folder or file"),
        (["absent", "OUT", "--kind", "edge"], "DATASET: absent cannot be loaded"),
        (["IMAGES", "OUT", "--kind", "edge", "--image_column", "pic"], "--image_column: "),
        (["IMAGES", "OUT", "--kind", "edge", "--resolution", "0"], "--resolution is 0; it must be at least 1"),
        (["IMAGES", "OUT", "--kind", "edge", "--max_train_samples", "7"], "--max_train_samples is 7, but"),
        (["BANK", "OUT", "--kind", "edge"], "is a knowledge bank, whose control images are kept beside it"),
        (["BANK", "--kind", "edge", "--resolution", "16"], "--resolution is 16, but"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    message: str,
    tiny_images: Path,
    bank: KnowledgeBank,
    tmp_path: Path,
    cache: list[str],
    capsys: pytest.CaptureFixture,
) -> None:
    places = {"IMAGES": str(tiny_images), "OUT": str(tmp_path / "out"), "BANK": str(bank.folder)}
    given = [places.get(part, part.replace("IMAGES/", f"{tiny_images}/")) for part in arguments]
    assert message in mistake([*given, *cache], capsys)
    assert not (tmp_path / "out").exists() and not (bank.folder / "conditions").exists()


def test_damaged_images_are_listed(tmp_path: Path, cache: list[str], capsys: pytest.CaptureFixture) -> None:
    images = save_tiny_images(tmp_path / "images")
    (images / "01.png").write_bytes((images / "01.png").read_bytes()[:60])
    (images / "04.png").unlink()
    error = mistake([str(images), str(tmp_path / "out"), "--kind", "edge", *cache], capsys)
    assert "DATASET: 2 of 6 images cannot be read: row 1 01.png (damaged" in error
    assert "row 4 04.png (no such file " in error and "--skip_bad_images" in error


def test_other_settings_in_out_are_refused(
    tiny_images: Path, tmp_path: Path, cache: list[str], capsys: pytest.CaptureFixture
) -> None:
    command = [str(tiny_images), str(tmp_path / "out"), *cache, "--kind"]
    assert main(["conditions", "build", *command, "edge"]) == 0
    assert "holds a set of control images of other settings: kind is sketch, not edge;" in mistake(
        [*command, "sketch"], capsys
    )


def test_a_bank_of_another_pipeline_or_a_damaged_one_is_refused(
    bank: KnowledgeBank, tiny_pipeline: Path, tmp_path: Path, cache: list[str], capsys: pytest.CaptureFixture
) -> None:
    other = save_tiny_pipeline(tmp_path / "other", seed=1)
    folder = Path(shutil.copytree(bank.folder, tmp_path / "bank"))
    command = [str(folder), "--kind", "edge", "--pretrained_model_name_or_path", str(other), *cache]
    assert "whose weights are not those that the bank in" in mistake(command, capsys)
    command[4] = str(tiny_pipeline)
    vae = ["--pretrained_vae_model_name_or_path", str(other / "vae")]
    assert "whose weights are not those that the bank in" in mistake([*command, *vae], capsys)
    (folder / "data" / "shard-00000.parquet").unlink()
    assert "is damaged: data/shard-00000.parquet" in mistake(command, capsys)


def test_help_comes_without_loading_torch() -> None:
    code = "import sys; from diffusers_difftune.cli import main\ntry: main(['conditions', 'build', '--help'])\n"
    code += "except SystemExit: assert not {'torch', 'cv2', 'numpy', 'datasets'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "--skip_bad_images" in run.stdout and "drawing" in run.stdout
