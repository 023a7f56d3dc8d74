# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What of a folder is not trained on is counted and said, and no class vanishes."""

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from diffusers_difftune.config import ClassConditionalConfig, DataConfig
from diffusers_difftune.data.dataset import TargetData, load_target_data
from diffusers_difftune.data.stream import StreamedTarget
from diffusers_difftune.errors import DiffTuneError
from tests.data.test_splits import table
from tests.tiny import save_tiny_classes, save_tiny_conditions, save_tiny_images, tiny_image


def load(folder: Path, cache_dir: Path, **flags) -> TargetData:
    return load_target_data(DataConfig(train_data_dir=str(folder), **flags), 0, cache_dir)


def load_classes(folder: Path, cache_dir: Path, **flags) -> TargetData:
    return load_target_data(ClassConditionalConfig(train_data_dir=str(folder), **flags), 0, cache_dir)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"something")


def said(caplog) -> str:
    return " ".join(record.getMessage() for record in caplog.records)


def told(target: TargetData, caplog) -> str:
    """What a command says of its data, which trains nothing and so has no summary with them."""
    assert said(caplog) == "", "once is enough"
    target.report.tell(logging.getLogger("diffusers_difftune"))
    return said(caplog)


def test_what_the_metadata_do_not_name_is_said(tmp_path: Path, caplog) -> None:
    folder = save_tiny_images(tmp_path / "data", 3)
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    (folder / "metadata.jsonl").write_text("\n".join(lines[:2]))
    save_tiny_images(folder / "more", 2)
    (folder / "more" / "metadata.jsonl").unlink()
    table("train").to_parquet(folder / "rows.parquet")
    touch(
        folder, "a.heic", "b.HEIC", "c.jxl", "00.txt", "images.zip", "README.md", "LICENSE", ".DS_Store", "Thumbs.db"
    )
    touch(folder, "@eaDir/00.png", "__MACOSX/00.png", "more/.ipynb_checkpoints/00.png")
    target = load(folder, tmp_path / "cache")
    assert len(target) == 2
    assert target.report.left_out == [
        "3 images not named by the metadata, 02.png for one",
        "3 files of formats that are not read (.heic 2, .jxl 1), a.heic for one",
        "1 Parquet file beside metadata.jsonl, which is read instead, rows.parquet",
        "1 text file not read as captions, 00.txt",
        "1 file of other kinds (.zip 1), images.zip",
        "2 folders of the operating system, @eaDir for one",
    ]
    assert told(target, caplog) == f"Not read: {'; '.join(target.report.left_out)}."


def test_nothing_is_said_of_data_that_are_read_whole(tmp_path: Path, caplog) -> None:
    """Also where control images are not asked for, an image is named twice, or a link leads to it."""
    folder = save_tiny_conditions(tmp_path / "data", 3)
    (folder / "originals").mkdir()
    (folder / "00.png").rename(folder / "originals" / "00.png")
    (folder / "00.png").symlink_to("originals/00.png")
    with open(folder / "metadata.jsonl", "a") as file:
        row = json.loads((folder / "metadata.jsonl").read_text().splitlines()[1])
        file.write(json.dumps(row | {"file_name": f"./originals/../{row['file_name']}"}))
    touch(folder, "README.md", "LICENSE", "dataset_infos.json")
    target = load(folder, tmp_path / "cache")
    assert len(target) == 4 and target.report.left_out == [] and told(target, caplog) == ""
    assert load_classes(save_tiny_classes(tmp_path / "classes"), tmp_path / "cache").report.left_out == []


def test_what_lies_beside_parquet_files_is_said(tmp_path: Path, caplog) -> None:
    (tmp_path / "data").mkdir()
    table("train").to_parquet(tmp_path / "data" / "rows.parquet")
    tiny_image(0)[0].save(tmp_path / "data" / "00.png")
    target = load(tmp_path / "data", tmp_path / "cache")
    assert told(target, caplog) == "Not read: 1 image beside Parquet files, which are read instead, 00.png."


def test_rows_that_are_not_drawn_are_counted(tmp_path: Path) -> None:
    target = load(save_tiny_images(tmp_path / "data"), tmp_path / "cache", max_train_samples=4)
    assert target.report.left_out == ["2 of 6 rows by --max_train_samples"]


# --- classes ---


@pytest.mark.parametrize("suffix", [".jp2", ".ppm", ".tga", ".jfif", ".avif", ".PNG"])
def test_a_class_of_any_format_is_a_class(suffix: str, tmp_path: Path) -> None:
    folder = save_tiny_classes(tmp_path / "data")
    (folder / "fox").mkdir()
    format = {".jfif": "JPEG"}.get(suffix)
    Image.new("RGB", (16, 16), "red").save(folder / "fox" / f"0{suffix}", format)
    target = load_classes(folder, tmp_path / "cache")
    assert target.class_names == ["ash", "elm", "fox", "oak"] and target.report.left_out == []


@pytest.mark.parametrize("names", [(), ("fox/0.heic", "fox/1.heic"), ("fox/0",), ("fox/a.svg", "fox/b/README.md")])
def test_a_class_without_an_image_that_is_read_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    folder = save_tiny_classes(tmp_path / "data")
    (folder / "fox").mkdir()
    touch(folder, *names)
    with pytest.raises(DiffTuneError, match="the folder .*/fox has no image of a format that is read, but ") as caught:
        load_classes(folder, tmp_path / "cache")
    assert (f"{len(names)} files, {names[0]} for one" if names else "nothing at all") in str(caught.value)


def test_folders_of_the_system_and_of_tables_are_no_classes(tmp_path: Path, caplog) -> None:
    folder = save_tiny_classes(tmp_path / "data")
    touch(
        folder, "@eaDir/oak/00.png", "__MACOSX/ash/00.png", ".ipynb_checkpoints/00.png", "oak/@eaDir/01.png/thumb.jpg"
    )
    touch(folder, "tables/labels.csv", "tables/notes.txt", "oak/x.heic", "Thumbs.db", "oak/Thumbs.db")
    target = load_classes(folder, tmp_path / "cache")
    assert target.class_names == ["ash", "elm", "oak"] and len(target) == 6
    assert [(file.file, file.rows) for file in target.report.files] == [("ash", 2), ("elm", 2), ("oak", 2)]
    assert target.report.left_out == [
        "1 file of formats that are not read (.heic 1), oak/x.heic",
        "1 text file not read as captions, tables/notes.txt",
        "1 file of other kinds (.csv 1), tables/labels.csv",
        "3 folders of the operating system, @eaDir for one",
    ]
    assert told(target, caplog).startswith("Not read: 1 file of formats")


def test_a_class_does_not_vanish_by_name_either(tmp_path: Path) -> None:
    """`datasets` knows fewer formats."""
    folder = save_tiny_classes(tmp_path / "data")
    (folder / "fox").mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "fox" / "0.avif")
    with pytest.raises(DiffTuneError, match="`datasets` reads no file in the folder .*/fox .*--train_data_dir"):
        load_target_data(ClassConditionalConfig(dataset_name=str(folder)), 0, tmp_path / "cache")


def test_images_that_the_metadata_do_not_name_are_counted_with_either_flag(tmp_path: Path) -> None:
    folder = save_tiny_conditions(tmp_path / "data", 3)
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    given = load_target_data(DataConfig(dataset_name=str(folder)), 0, tmp_path / "all")
    assert given.report.left_out == [], "control images are named, though not as images"
    (folder / "metadata.jsonl").write_text("\n".join(lines[:2]))
    given = load_target_data(DataConfig(dataset_name=str(folder)), 0, tmp_path / "cache")
    streamed = StreamedTarget(DataConfig(dataset_name=str(folder), streaming=True), 0, tmp_path / "cache")
    assert len(given) == 2
    for report in (given.report, streamed.report):
        assert report.left_out == ["2 images not named by the metadata, 02.png for one"]


def test_an_empty_class_folder_is_refused_with_either_flag(tmp_path: Path) -> None:
    folder = save_tiny_classes(tmp_path / "data")
    (folder / "yew").mkdir()
    for flag in ("train_data_dir", "dataset_name"):
        with pytest.raises(
            DiffTuneError, match=f"--{flag}: the folder .*/yew .*take the folder away if it is no class"
        ):
            load_target_data(ClassConditionalConfig(**{flag: str(folder)}), 0, tmp_path / "cache")


def test_columns_that_datasets_does_not_find_in_a_folder(tmp_path: Path) -> None:
    """It takes an image beside folders of classes as a sign that they are none, and images in AVIF for no images."""
    classes = save_tiny_classes(tmp_path / "classes")
    tiny_image(0)[0].save(classes / "oak" / "00.png")
    (classes / "elm" / "more").mkdir()
    tiny_image(1)[0].save(classes / "elm" / "more" / "00.png")
    given = {"dataset_name": str(classes)}
    with pytest.raises(
        DiffTuneError, match=f"^--label_column: .*; the columns are image; .* --train_data_dir {classes} has"
    ):
        load_target_data(ClassConditionalConfig(**given), 0, tmp_path / "cache")
    assert len(load_classes(classes, tmp_path / "cache")) == 7
