# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune evaluate` from end to end, and what it refuses."""

import errno
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.backbones.dit import DiTBackbone
from diffusers_difftune.cli import main as difftune
from diffusers_difftune.cli.common import new_accelerator
from diffusers_difftune.cli.results import check_is_free
from diffusers_difftune.config import DataConfig
from diffusers_difftune.data.dataset import load_target_data
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.clip_score import ClipScore
from diffusers_difftune.evaluation.features import make_features
from diffusers_difftune.evaluation.kid_difference import kid_difference
from diffusers_difftune.evaluation.metrics import distances, extract_features
from diffusers_difftune.evaluation.real_images import drawn_rows, read_images
from diffusers_difftune.evaluation.samples import sample_images
from tests.evaluation.models import LORA, save_adapter
from tests.tiny import LABELS, save_tiny_classes, save_tiny_images, save_tiny_pipeline, tiny_image
from tests.tiny_features import save_clip, save_projection_of_efficientnet


class Place:
    """Held-out data, features and a CLIP model that all tests share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held_out = save_tiny_images(folder / "held-out", 20)
        self.features = save_projection_of_efficientnet(folder / "three.safetensors")
        self.clip = save_clip(folder / "clip")
        self.other = save_tiny_pipeline(folder / "other", seed=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("evaluate"))


def evaluate(place: Place, output: Path, *words: object, features: object = None, clip: object = "none") -> dict:
    command = [*words, "--features", features or place.features, "--clip_model", clip, "--steps", 2]
    assert difftune(["evaluate", *map(str, command), "--output", str(output)]) == 0
    return json.loads(output.read_text())


def test_the_precision_of_an_earlier_run_of_the_process_is_forgotten():
    for earlier in ("bf16", "no"):
        AcceleratorState._reset_state()  # tests before this one have used one as well
        Accelerator(mixed_precision=earlier)
        assert new_accelerator().mixed_precision == "no"
        assert new_accelerator("bf16").mixed_precision == "bf16"
    AcceleratorState._reset_state()


def test_figures_of_two_pipelines(place, tiny_pipeline, tmp_path, capsys, caplog):
    words = [tiny_pipeline, place.other, place.held_out, "--num_images", 9, "--seed", 3]
    found = evaluate(place, tmp_path / "e.json", *words, clip=place.clip)
    first, second = found["results"]
    assert (first["pipeline"], second["pipeline"]) == (str(tiny_pipeline), str(place.other))
    assert found["settings"] | {"num_images": 9, "steps": 2, "seed": 3, "resolution": 16} == found["settings"]
    assert found["settings"]["features"] == "efficientnet-lite0-pca3" and found["settings"]["clip_model"] == "clip"

    # by hand
    data = load_target_data(DataConfig(train_data_dir=str(place.held_out)), 0)
    rows = drawn_rows(data, 20)
    extractor = make_features(str(place.features))
    images = read_images(data, rows[:9], 16)
    prompts = [data.captions(row)[0] for row in rows[:9]]
    pipeline = load_backbone(place.other).pipeline(None, torch.device("cpu"), torch.float32)
    given = {"seed": 3, "steps": 2, "guidance_scale": 3.0, "batch_size": 16}
    samples = sample_images(pipeline, prompts, **given)
    first_pipeline = load_backbone(tiny_pipeline).pipeline(None, torch.device("cpu"), torch.float32)
    samples_of_first = sample_images(first_pipeline, prompts, **given)
    expected = distances(extract_features(extractor, images), extract_features(extractor, samples), seed=3)
    assert second["fid"] == pytest.approx(expected["fid"], rel=1e-4)
    assert second["kid"] == pytest.approx(expected["kid"], rel=1e-4)
    assert (second["num_real"], second["num_generated"], second["num_floor"]) == (9, 9, 9)
    others = extract_features(extractor, read_images(data, rows[9:18], 16))
    floor = [first[f"{name}_floor"] for name in ("fid", "kid", "precision", "recall")]
    assert floor == [second[f"{name}_floor"] for name in ("fid", "kid", "precision", "recall")]
    assert floor[0] == pytest.approx(distances(extract_features(extractor, images), others)["fid"], rel=1e-6)
    score = ClipScore(str(place.clip))
    assert second["clip_score"] == pytest.approx(score(samples, prompts), abs=0.01)
    assert second["clip_score_real"] == first["clip_score_real"] == pytest.approx(score(images, prompts), abs=1e-3)
    difference = kid_difference(*(extract_features(extractor, x) for x in (images, samples, samples_of_first)))
    found_difference = second["kid_difference"], second["kid_difference_standard_error"]
    assert found_difference == pytest.approx(difference, rel=1e-3) and "kid_difference" not in first
    assert first["clip_score"] != second["clip_score"] and first["fid"] != second["fid"]

    printed = capsys.readouterr().out
    for shown in ("FID", "CLIP score", str(place.other), f"{second['fid']:.2f}", "real images (the floor)"):
        assert shown in printed
    assert "9 samples against 9 real images, floor of 9 against 9" in printed
    (block,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("What this command does")]
    assert "  samples    9 of each, 16 × 16 pixels, 2 steps, guidance 3\n" in block
    with Image.open(tmp_path / "e.png") as sheet:
        pixels = np.asarray(sheet)
        assert pixels.shape[1] > 8 * 192 and pixels.shape[0] > 3 * 192
        first_real = sheet.crop((24 + 220, 24, 24 + 220 + 192, 24 + 192))
    drawn = tiny_image(rows[0])[0].resize((192, 192), Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(first_real), np.asarray(drawn)), "the real images come first, pixel by pixel"

    again = evaluate(place, tmp_path / "again.json", *words, clip=place.clip)
    assert again == found, "deterministic"


def test_another_vae_makes_other_samples(place, tiny_pipeline, tmp_path):
    words = [tiny_pipeline, place.held_out, "--num_images", 9]
    vae = ["--pretrained_vae_model_name_or_path", place.other / "vae"]
    own = evaluate(place, tmp_path / "own.json", *words)["results"][0]
    other = evaluate(place, tmp_path / "other.json", *words, *vae)["results"][0]
    assert own["kid"] != other["kid"] and own["kid_floor"] == other["kid_floor"]


def test_the_floor_has_as_many_images_as_there_are(place, tiny_pipeline, tmp_path):
    halves = evaluate(place, tmp_path / "halves.json", tiny_pipeline, place.held_out)["results"][0]
    assert (halves["num_real"], halves["num_generated"], halves["num_floor"]) == (20, 20, 10)
    more = save_tiny_images(tmp_path / "more", 26)
    words = [tiny_pipeline, place.held_out, "--floor_data", more]
    full = evaluate(place, tmp_path / "full.json", *words)["results"][0]
    assert full["num_floor"] == 20
    assert {name: full[name] for name in ("fid", "kid", "recall")} == {
        name: halves[name] for name in ("fid", "kid", "recall")
    }


def test_too_few_images_for_a_fid_still_have_all_else(place, tiny_pipeline, tmp_path, capsys):
    words = [tiny_pipeline, place.held_out, "--num_images", 9]
    found = evaluate(place, tmp_path / "e.json", *words, features="efficientnet")["results"][0]
    assert found["fid"] is None and found["fid_floor"] is None and found["num_features"] == 1280
    assert np.isfinite([found["kid"], found["precision"], found["recall"]]).all()
    assert "FID needs more images than features, 1281 or more" in capsys.readouterr().out


def test_other_prompts_and_a_pretrained_pipeline_beside_it(place, tiny_pipeline, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\n")
    words = [place.other, place.held_out, "--num_images", 8, "--prompts", prompts, "--pretrained", tiny_pipeline]
    found = evaluate(place, tmp_path / "e.json", *words, clip=place.clip)["results"]
    assert [entry["pipeline"] for entry in found] == [str(tiny_pipeline), str(place.other)]
    captions = evaluate(place, tmp_path / "c.json", place.other, place.held_out, "--num_images", 8)["results"][0]
    assert captions["fid"] != found[1]["fid"] and captions["fid_floor"] == found[1]["fid_floor"]


def test_classes(place, tiny_dit, tmp_path, capsys):
    backbone = load_backbone(tiny_dit)
    names = [name for names in backbone.classes.id2label.values() for name in names.split(", ")][:2]
    data = save_tiny_classes(tmp_path / "data", 24)
    for label, name in zip(sorted(path.name for path in data.iterdir()), names):
        (data / label).rename(data / name)
    (data / sorted({path.name for path in data.iterdir()} - set(names))[0]).rename(tmp_path / "gone")
    found = evaluate(place, tmp_path / "e.json", tiny_dit, data, "--num_images", 8, clip="no/such-model")
    (entry,) = found["results"]
    assert entry["without_class"] is False and "clip_score" not in entry and found["settings"]["clip_model"] is None

    other = save_tiny_classes(tmp_path / "other", 24)
    assert difftune(["evaluate", str(tiny_dit), str(other), "--features", str(place.features)]) == 2
    said = f"difftune: DATA: the data have the class ash, which is none of {tiny_dit}'s 3.\n"
    assert capsys.readouterr().err.endswith(said)
    words = [tiny_dit, data, "--num_images", 8, "--prompts", "empty"]
    assert evaluate(place, tmp_path / "null.json", *words)["results"][0]["without_class"] is True


@pytest.fixture(scope="module")
def class_adapter(place, tiny_dit) -> Path:
    """An adapter of the tiny DiT for classes that it does not know."""
    settings = replace(LORA, always_trained=DiTBackbone.always_trained)
    return save_adapter(place.folder / "class-adapter", tiny_dit, settings, classes=sorted(LABELS))


def test_names_of_classes_are_the_adapter_s(place, tiny_dit, class_adapter, tmp_path, monkeypatch, capsys):
    asked: list[str] = []

    def watched(pipeline, prompts, **given):
        asked.extend(prompts)
        return sample_images(pipeline, prompts, **given)

    monkeypatch.setattr("diffusers_difftune.evaluation.sample_quality.sample_images", watched)
    data, prompts = save_tiny_classes(tmp_path / "data", 9), tmp_path / "prompts.txt"
    words = [tiny_dit, data, "--num_images", 8, "--prompts", prompts]
    prompts.write_text("oak\n1\n")
    evaluate(place, tmp_path / "e.json", *words, "--adapter", class_adapter)
    assert sorted(asked) == ["1"] * 4 + ["2"] * 4
    asked.clear()
    prompts.write_text("dog\n")  # of the pretrained model
    evaluate(place, tmp_path / "pretrained.json", *words)
    assert asked == ["7"] * 8
    said = r"difftune: --prompts: 'dog' is no class of \S+ \+ \S+; give ids from 0 to 999, or names of its 3 classes, such as ash\."
    for text, expected in (("dog\n", said), ("1000\n", said.replace("dog", "1000"))):
        prompts.write_text(text)
        given = [*words, "--adapter", class_adapter, "--features", place.features, "--output", tmp_path / "e.json"]
        assert difftune(["evaluate", *map(str, given)]) == 2
        assert re.fullmatch(expected, capsys.readouterr().err.splitlines()[-1])


def test_an_adapter_on_the_hub_is_downloaded_once(place, tiny_pipeline, tmp_path, monkeypatch):
    adapter = save_adapter(tmp_path / "lora", tiny_pipeline)
    words, asked = [tiny_pipeline, place.held_out, "--num_images", 8, "--adapter"], []

    def download(name, **given):
        asked.append((name, given["cache_dir"], given["token"]))
        return str(adapter)

    monkeypatch.setattr("diffusers_difftune.io.hub.snapshot_download", download)
    where = ["--cache_dir", tmp_path / "cache", "--hub_token", "mine"]
    (on_hub,) = evaluate(place, tmp_path / "hub.json", *words, "user/lora", *where)["results"]
    assert asked == [("user/lora", str(tmp_path / "cache"), "mine")]
    (here,) = evaluate(place, tmp_path / "here.json", *words, adapter)["results"]
    assert on_hub == here | {"adapter": "user/lora"}


def test_a_disk_that_fills_up_is_said_in_a_sentence(place, tiny_pipeline, tmp_path, monkeypatch, capsys):
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("diffusers_difftune.io.atomic.write_bytes_atomic", full)
    words = [tiny_pipeline, place.held_out, "--features", place.features, "--clip_model", "none", "--steps", 1]
    assert difftune(["evaluate", *map(str, words), "--output", str(tmp_path / "e.json")]) == 2
    said = f"--output {tmp_path}/e.json cannot be written: No space left on device; name a file in a folder"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{pipe} {data} --num_images 7", "--num_images is 7; it must be at least 8"),
        ("{pipe} {data} --num_images 21", "--num_images is 21, and .*held-out has 20 rows; give at most as many"),
        ("{pipe} {data} --steps 0", "--steps is 0; it must be at least 1"),
        ("{pipe} {data} --guidance_scale 0.5", "--guidance_scale is 0.5; it must be at least 1.0"),
        ("{pipe} {data} --guidance_scale nan", "--guidance_scale is nan; it must be a finite number"),
        ("{pipe} {data} --output figures.txt", "--output is figures.txt; it must be the name of a .json file"),
        ("{pipe} {data} --output no/e.json", "--output no/e.json cannot be written, because its folder does not .*"),
        ("{pipe} {data} --output /proc/e.json", "--output /proc/e.json cannot be written.*"),
        (
            "{pipe} {data} --output {long}.json",
            "--output n+.json cannot be written: File name too long; name a file .*",
        ),
        ("{pipe} {data} --output {folder}", "--output .* cannot be written, because .*/folder.json is a folder"),
        ("{data} {data}", "PIPELINE: there is no model_index.json in .*held-out"),
        ("{pipe} {data} --pretrained {data}", "--pretrained: there is no model_index.json in .*held-out"),
        ("{pipe} /nowhere", "DATA /nowhere: there is no such folder or file, and no data set on the Hub is so .*"),
        ("{pipe} {data} --floor_data /nowhere", "--floor_data /nowhere: there is no such folder or file, .*"),
        ("{pipe} {data} --caption_column title", "DATA: --caption_column: .* has no column title; .*"),
        ("{pipe} {data} --resolution 17", "--resolution is 17; .* needs a multiple of 2, such as 16 or 18"),
        ("{pipe} {data} --prompts nowhere.txt", "--prompts: there is no file 'nowhere.txt'; .*"),
        ("{pipe} {data} --features user/no", "--features: the features user/no are neither inception, .*"),
        ("{pipe} {data} --clip_model user/no", "--clip_model: the CLIP model user/no is neither a folder .*"),
        ("{pipe} {data} --adapter /nowhere", "--adapter: /nowhere .*"),
        ("{pipe} {data} --adapter {pipe}", "--adapter .* is no adapter; name a whole pipeline as PIPELINE"),
        ("{pipe} {dit} {data}", "Some of the pipelines are class-conditional and some take text; compare them .*"),
    ],
)
def test_a_mistake_is_one_sentence_before_weights_are_loaded(
    words, said, place, tiny_pipeline, tiny_dit, tmp_path, monkeypatch, capsys
):
    def load(*_, **__):
        raise AssertionError("the weights of a pipeline were loaded")

    monkeypatch.chdir(tmp_path)
    for backbone in (load_backbone(tiny_pipeline), load_backbone(tiny_dit)):
        monkeypatch.setattr(type(backbone), "pipeline", load)
    folder = place.folder / "folder.json"
    folder.mkdir(exist_ok=True)
    names = {"pipe": tiny_pipeline, "dit": tiny_dit, "data": place.held_out, "folder": folder, "long": 300 * "n"}
    given = words.format(**names).split()
    given += [] if "--features" in given else ["--features", str(place.features)]
    given += [] if "--clip_model" in given else ["--clip_model", "none"]
    assert difftune(["evaluate", *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.fullmatch(f"difftune: {said}\\.?", error), error
    assert not list(tmp_path.iterdir())


def test_the_figures_of_another_measurement_are_not_written_over(tmp_path):
    file, settings = tmp_path / "e.json", {"data": "held_out", "num_images": 9, "difftune": "1.0"}
    check_is_free("--output", file, settings, ["a"])
    result = {"pipeline": "a", "adapter": None}
    content = {"settings": settings | {"difftune": "0.9"}, "results": [result]}
    file.write_text(json.dumps(content))
    check_is_free("--output", file, settings, ["a"])  # the same command, also of a newer version
    check_is_free("--output", file, settings, ["a", "b"])  # killed after its first pipeline
    for now, pipelines, said in (
        (
            settings | {"num_images": 20, "data": "other"},
            ["a"],
            "(data was held_out and is other; num_images was 9 and is 20)",
        ),
        (settings, ["b"], "(of a, not of b)"),
        (settings, ["a + lora"], "(of a, not of a + lora)"),
    ):
        with pytest.raises(
            DiffTuneError, match=re.escape(f"--output: {file} holds the figures of another measurement {said}")
        ):
            check_is_free("--output", file, now, pipelines)
    for other in ("mine", "[]", "{}", '{"settings": 1, "results": [1]}'):
        file.write_text(other)
        with pytest.raises(DiffTuneError, match="is there and is no file of such figures; name another one."):
            check_is_free("--output", file, settings, ["a"])
