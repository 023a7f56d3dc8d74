# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Building data sets of control images."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from diffusers_difftune.config import ControlNetConfig, DataConfig
from diffusers_difftune.controls import make_extractor
from diffusers_difftune.controls.build import build_conditions
from diffusers_difftune.controls.manifest import ConditionManifest
from diffusers_difftune.data.dataset import TargetData, load_target_data
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.io import shards
from tests.bank.building import contents
from tests.controls.drawings import drawing_extractor
from tests.killing import Stop, stop_after
from tests.tiny import save_tiny_images, tiny_image


def opened(folder: Path, **flags: Any) -> TargetData:
    return load_target_data(DataConfig(train_data_dir=str(folder), **flags), 0, folder.parent / "cache")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_tiny_images(tmp_path / "images", count=7, size=(20, 16))


def build(images: Path, out: Path, kind: str = "edge", **changes: Any) -> ConditionManifest:
    settings = {"shard_size": 3, "batch_size": 2, "progress": False} | changes
    return build_conditions(opened(images), out, drawing_extractor(kind), **settings)


def test_the_controlnet_script_takes_it(images: Path, tmp_path: Path) -> None:
    manifest = build(images, tmp_path / "out", "depth")
    assert manifest.is_complete and manifest.num_rows == 7 and len(manifest.shards) == 3
    config = ControlNetConfig(train_data_dir=str(tmp_path / "out"))
    target = load_target_data(config, 0, tmp_path / "cache2")
    assert len(target) == 7
    for row in range(7):
        image, caption = tiny_image(row, (20, 16))
        assert target.captions(row) == [caption]
        assert target.image(row).tobytes() == image.tobytes()
        (expected,) = drawing_extractor("depth")([image])
        assert target.conditions[row].convert("RGB").tobytes() == expected.tobytes()


def test_datasets_takes_it(images: Path, tmp_path: Path) -> None:
    build(images, tmp_path / "out")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache2"))
    assert rows.column_names == ["image", "text", "conditioning_image"]
    assert rows[3]["conditioning_image"].size == rows[3]["image"].size == (20, 16)


def test_it_can_be_extracted_from_again(images: Path, tmp_path: Path) -> None:
    """What was built is target data too, and gives the same control images."""
    build(images, tmp_path / "out", "segmentation")
    build(tmp_path / "out", tmp_path / "again", "segmentation")
    first, again = (opened(tmp_path / name) for name in ("out", "again"))
    assert [first.image(row).tobytes() for row in range(7)] == [again.image(row).tobytes() for row in range(7)]
    assert (tmp_path / "out" / "data").joinpath("train-00001-of-00003.parquet").read_bytes() == (
        tmp_path / "again" / "data"
    ).joinpath("train-00001-of-00003.parquet").read_bytes()


def test_several_captions_stay_lists(tmp_path: Path) -> None:
    captions = ["one", ["two", "zwei"], "three"]
    images = save_tiny_images(tmp_path / "images", count=3, captions=captions)
    build(images, tmp_path / "out")
    target = opened(tmp_path / "out")
    assert [target.captions(row) for row in range(3)] == [["one"], ["two", "zwei"], ["three"]]


def stored(folder: Path, row: int) -> bytes:
    return opened(folder).images.stored(row)["bytes"]


def test_plain_images_keep_their_files_and_others_become_what_training_sees(tmp_path: Path) -> None:
    images = save_tiny_images(tmp_path / "images", count=5, size=(24, 16))
    image = tiny_image(0, (24, 16))[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(images / "00.png", exif=exif)
    transparent = image.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((24, 16)))
    transparent.save(images / "01.png")
    image.convert("L").save(images / "02.png")
    image.save(images / "03.jpg", quality=70)
    shutil.move(images / "03.jpg", images / "03.png")
    build(images, tmp_path / "out", "sketch", shard_size=256)

    assert stored(tmp_path / "out", 3) == (images / "03.png").read_bytes()  # a JPEG file, not made larger
    assert stored(tmp_path / "out", 4) == (images / "04.png").read_bytes()
    turned, flat, grey = (Image.open(io.BytesIO(stored(tmp_path / "out", row))) for row in range(3))
    assert turned.size == (16, 24) and not turned.getexif()
    assert turned.tobytes() == image.rotate(-90, expand=True).tobytes()
    on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), transparent).convert("RGB")
    assert flat.mode == "RGB" and flat.tobytes() == on_white.tobytes()
    assert grey.mode == "RGB"
    control = load_target_data(ControlNetConfig(train_data_dir=str(tmp_path / "out")), 0, tmp_path / "c").conditions
    (expected,) = make_extractor("sketch")([turned])
    assert control[0].convert("RGB").tobytes() == expected.tobytes()


def test_resolution_gives_what_training_crops(tmp_path: Path) -> None:
    images = save_tiny_images(tmp_path / "images", count=2, size=(60, 40))
    build(images, tmp_path / "out", "edge", resolution=16)
    target = load_target_data(ControlNetConfig(train_data_dir=str(tmp_path / "out")), 0, tmp_path / "c")
    resized = tiny_image(0, (60, 40))[0].resize((24, 16), Image.Resampling.BILINEAR).crop((4, 0, 20, 16))
    assert target.image(0).tobytes() == resized.tobytes()
    assert np.array_equal(target.conditions[0].convert("RGB"), make_extractor("edge")([resized])[0])


def test_rows_in_use_alone_are_built(images: Path, tmp_path: Path) -> None:
    (images / "02.png").write_bytes(b"damaged")
    with pytest.raises(DiffTuneError, match=r"1 of 7 images .* row 2 02.png \(not an image\)"):
        opened(images)
    target = opened(images, skip_bad_images=True, max_train_samples=7)
    assert build_conditions(target, tmp_path / "out", make_extractor("edge"), progress=False).num_rows == 6


def test_the_preview_shows_images_beside_their_control_images(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(images, tmp_path / "out")
    preview = Image.open(tmp_path / "out" / "preview.png")
    assert preview.size == (4 * 128, 2 * 128)  # of the three rows in the first shard, and two white places
    image = tiny_image(1, (20, 16))[0]
    for column, expected in ((2, image), (3, make_extractor("edge")([image])[0])):
        shown = preview.crop((128 * column, 0, 128 * (column + 1), 128))
        assert shown.tobytes() == expected.resize((128, 128), Image.Resampling.BICUBIC).tobytes()
    opened(tmp_path / "out")
    assert "Not read" not in caplog.text, "it is no image of the data"


def test_equal_builds_have_equal_bytes(images: Path, tmp_path: Path) -> None:
    build(images, tmp_path / "one")
    build(images, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(contents(tmp_path / "one")) == [
        "conditions.json",
        *(f"data/train-0000{k}-of-00003.parquet" for k in range(3)),
        "preview.png",
    ]


@pytest.mark.parametrize("count", range(6))
def test_a_stopped_build_is_no_data_and_goes_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Stopped before each of the six files: the manifest, three shards, the preview and the whole manifest."""
    build(images, tmp_path / "whole")
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(count, patch, shards)
        build(images, out)
    if count < 4:
        with pytest.raises(DiffTuneError, match="has no metadata.jsonl, metadata.csv or Parquet file"):
            opened(out)
    extracted: list[int] = []
    extractor = make_extractor("edge")
    counted = type(extractor)(extractor.settings, lambda found: (extracted.append(len(found)), extractor(found))[1])
    build_conditions(opened(images), out, counted, shard_size=3, batch_size=2, progress=False)
    assert sum(extracted) == (7, 7, 4, 1, 0, 0)[count]
    assert contents(out) == contents(tmp_path / "whole")


def test_a_whole_folder_is_not_built_again(images: Path, tmp_path: Path) -> None:
    build(images, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    build(images, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_shard_that_cannot_be_read_is_made_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(images, tmp_path / "whole")
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(2, patch, shards)
        build(images, out)
    (shard,) = (out / ".building").glob("*.parquet")
    shard.write_bytes(b"")
    build(images, out)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "sketch"}, "other settings: kind is sketch, not edge; delete that folder"),
        ({"kind": "depth"}, "kind is depth, not edge; model is drawing, not None; delete"),
        ({"resolution": 16}, "--resolution is 16, not None; delete"),
        ({"shard_size": 2}, "the number of rows in a shard is 2, not 3; delete"),
        ({"batch_size": 3}, "--batch_size is 3, not 2; delete"),
    ],
)
def test_other_settings_are_refused(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, message: str, whole: bool
) -> None:
    out = tmp_path / "out"
    if whole:
        build(images, out)
    else:
        with monkeypatch.context() as patch, pytest.raises(Stop):
            stop_after(2, patch, shards)
            build(images, out)
    before = contents(out)
    with pytest.raises(DiffTuneError, match=message):
        build(images, out, **changes)
    assert contents(out) == before


def test_other_images_captions_and_parameters_are_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(images, out)
    extractor = make_extractor("edge")
    other = type(extractor)(extractor.settings | {"parameters": {"version": 2}}, extractor.extract)
    with pytest.raises(DiffTuneError, match=r"other settings: parameters is \{'version': 2\}, not"):
        build_conditions(opened(images), out, other, shard_size=3, batch_size=2, progress=False)
    (images / "metadata.jsonl").write_text((images / "metadata.jsonl").read_text().replace("number 3", "number 33"))
    with pytest.raises(DiffTuneError, match="the hash of the images and captions is"):
        build(images, out)


def test_only_a_whole_folder_outlives_an_update_of_a_library(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(images, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(2, patch, shards)
        build(images, tmp_path / "half")
    monkeypatch.setattr("diffusers_difftune.controls.build.library_versions", lambda: {"numpy": "9.9"})
    build(images, tmp_path / "whole")
    with pytest.raises(DiffTuneError, match="the version of numpy is 9.9, not"):
        build(images, tmp_path / "half")


def test_what_else_stands_in_the_way(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DiffTuneError, match="is neither empty nor a set of control images"):
        build(images, images)
    (tmp_path / "file").touch()
    with pytest.raises(DiffTuneError, match="file is a file; name a new folder"):
        build(images, tmp_path / "file")
    with pytest.raises(DiffTuneError, match="cannot be written to: Not a directory"):
        build(images, tmp_path / "file" / "out")
    build(images, tmp_path / "out")
    manifest = tmp_path / "out" / "conditions.json"
    whole = manifest.read_text()
    manifest.write_text(whole[:30])
    with pytest.raises(
        DiffTuneError, match="conditions.json is damaged: it is not a manifest in JSON; delete the folder"
    ):
        build(images, tmp_path / "out")
    manifest.write_text(json.dumps(json.loads(whole) | {"format_version": 2}))
    with pytest.raises(DiffTuneError, match="has format 2, and this version reads format 1"):
        build(images, tmp_path / "out")
    manifest.write_text(whole)
    (tmp_path / "out" / "data" / "train-00000-of-00003.parquet").unlink()
    with pytest.raises(DiffTuneError, match="is damaged: data/train-00000-of-00003.parquet is missing"):
        build(images, tmp_path / "out")


@pytest.mark.parametrize("flag", ["resolution", "batch_size", "shard_size"])
def test_numbers_out_of_range_are_refused(images: Path, tmp_path: Path, flag: str) -> None:
    with pytest.raises(DiffTuneError, match=f"--{flag} is 0; it must be at least 1"):
        build(images, tmp_path / "out", **{flag: 0})
    assert not (tmp_path / "out").exists()


def test_the_progress_bar_has_the_time_left(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    build(images, tmp_path / "out", progress=True)
    last = capfd.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert "Control images (edge): 100%" in last and "7/7" in last and "<00:00" in last
