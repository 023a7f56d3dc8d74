# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Messages about data say where a file was looked for, what is there instead, and what would be read."""

import json
import unicodedata
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffusers_difftune.config import ControlNetConfig, DataConfig
from diffusers_difftune.data.dataset import TargetData, load_target_data
from diffusers_difftune.errors import DiffTuneError
from tests.data.test_splits import table
from tests.tiny import save_tiny_conditions, save_tiny_images, tiny_image


def load(cache_dir: Path, config_class: type = DataConfig, **flags) -> TargetData:
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    return load_target_data(config_class(**flags), 0, cache_dir / "cache")


def sentence(caught: pytest.ExceptionInfo) -> str:
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


# --- names of files that are not there ---

NEAR = {
    "with its own folder's name": ("train/00.png", "train/00.png", ";"),
    "with backslashes": ("sub\\00.png", "train/sub/00.png", ", with forward slashes;"),
    "in capitals": ("sub/00.PNG", "train/sub/00.png", ", which is written in other capitals;"),
    "composed otherwise": (
        unicodedata.normalize("NFD", "é.png"),
        f"train/{unicodedata.normalize('NFC', 'é.png')}",
        ", whose accents are encoded otherwise (in another normal form of Unicode);",
    ),
    "with another suffix": ("00.jpg", "train/00.png", ";"),
    "in another folder": ("pictures/single.png", "train/sub/single.png", ";"),
}


@pytest.mark.parametrize("case", NEAR)
@pytest.mark.parametrize("column", ["file_name", "conditioning_image_file_name"])
def test_a_name_that_is_nearly_right(case: str, column: str, tmp_path: Path) -> None:
    name, near, how = NEAR[case]
    folder = tmp_path / "data" / "train"
    save_tiny_images(folder / "sub", 1)
    save_tiny_images(folder, 2)
    (folder / "sub" / "metadata.jsonl").unlink()
    for file in ("é.png", "sub/single.png"):
        tiny_image(0)[0].save(folder / unicodedata.normalize("NFC", file))
    rows = [{"file_name": "01.png", "conditioning_image_file_name": "01.png", "text": "a"} for _ in range(3)]
    rows[1][column] = name
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig if column == "file_name" else ControlNetConfig
    with pytest.raises(DiffTuneError) as caught:
        load(tmp_path, config, train_data_dir=tmp_path / "data")
    looked_for = f"{folder}/{name}"
    assert (
        f"row 2 of {folder}/metadata.jsonl names {name!r}, and there is no {looked_for}, but {tmp_path}/data/{near}{how}"
        in (sentence(caught))
    )
    assert "(1 of 3 rows name files that are not there)" in str(caught.value)
    target = load(tmp_path, config, train_data_dir=tmp_path / "data", skip_bad_images=True)
    (left_out,) = [phrase for phrase in target.report.left_out if "--skip_bad_images" in phrase]
    assert len(target) == 2
    assert left_out.endswith(f"and there is no {looked_for}, but {tmp_path}/data/{near}{how.rstrip(';')}"), left_out


def test_a_file_that_is_not_there_at_all_is_looked_for_somewhere(tmp_path: Path) -> None:
    folder = save_tiny_images(tmp_path / "data", 3)
    (folder / "01.png").unlink()
    with pytest.raises(DiffTuneError, match=rf"row 1 01.png \(no such file {folder}/01.png\);"):
        load(tmp_path, train_data_dir=folder)


@pytest.mark.parametrize(
    "path, problem", [("images/00.png", "lies outside of the data"), ("{}/images/0.PNG", "is not there")]
)
def test_a_path_in_a_parquet_file_that_is_nearly_right(path: str, problem: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    save_tiny_images(folder / "images", 1)
    (folder / "images" / "metadata.jsonl").unlink()
    if "{}" in path:
        (folder / "images" / "00.png").rename(folder / "images" / "0.png")
    path = path.format(folder)
    rows = pa.table({"image": pa.array([{"bytes": None, "path": path}]), "text": ["a"]})
    pq.write_table(rows, folder / "rows.parquet")
    with pytest.raises(DiffTuneError) as caught:
        load(tmp_path, train_data_dir=folder)
    there = next((folder / "images").iterdir())
    assert f"{problem} (it was looked for at {Path(path).absolute()}, and {there} is there); write the images" in (
        sentence(caught)
    )


# --- folders that `datasets` reads otherwise ---


@pytest.mark.parametrize("name", ["train.png", "cat_train_1.png", "test 2.png"])
def test_names_of_images_that_datasets_takes_for_splits(name: str, tmp_path: Path) -> None:
    folder = save_tiny_images(tmp_path / "data", 3)
    text = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(text.replace("01.png", name))
    (folder / "01.png").rename(folder / name)
    assert len(load(tmp_path, train_data_dir=folder)) == 3
    with pytest.raises(DiffTuneError) as caught:
        load(tmp_path, dataset_name=folder)
    split = "test" if "test" in name else "train"
    assert sentence(caught) == (
        f"--dataset_name: `datasets` sorts the files of {folder} into the splits {split} by their names, such as {name}, and"
        f" with them it does not read metadata.jsonl; give the folder as --train_data_dir {folder}, which goes by that, or"
        " call the files otherwise."
    )


# --- captions in text files ---


def with_texts(folder: Path, count: int = 3) -> Path:
    save_tiny_images(folder, count)
    (folder / "metadata.jsonl").unlink()
    for index in range(count):
        (folder / f"{index:02}.txt").write_text(f"\ufeff {tiny_image(index)[1]}\r\n", encoding="utf-8")
    return folder


def test_text_files_beside_images_are_captions(tmp_path: Path) -> None:
    target = load(tmp_path, train_data_dir=with_texts(tmp_path / "data"))
    same = load(tmp_path, train_data_dir=save_tiny_images(tmp_path / "same", 3))
    assert target.content_key == same.content_key, "the same rows as of a metadata.jsonl"
    assert target.report.left_out == [] and target.report.files[0].rows == 3


def test_images_without_a_text_file_and_text_files_without_an_image(tmp_path: Path) -> None:
    folder = with_texts(tmp_path / "data")
    (folder / "notes.txt").write_text("of these images")
    target = load(tmp_path, train_data_dir=folder)
    assert len(target) == 3 and target.report.left_out == ["1 text file not read as captions, notes.txt"]
    (folder / "01.txt").unlink()
    with pytest.raises(
        DiffTuneError, match="1 of 3 images of .* have no .txt file with their caption beside them: 01.png;"
    ):
        load(tmp_path, train_data_dir=folder)
    (folder / "01.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(DiffTuneError, match="data/01.txt is not UTF-8 text; save it as such"):
        load(tmp_path, train_data_dir=folder)
    (folder / "01.txt").write_text(" ")
    with pytest.raises(
        DiffTuneError, match="1 of 3 rows have an empty caption or none in the column text: row 1 01.png"
    ):
        load(tmp_path, train_data_dir=folder)


# --- what has a known way out ---


def test_save_to_disk_is_read(tmp_path: Path) -> None:
    table("train", 3).save_to_disk(tmp_path / "data")
    target = load(tmp_path, train_data_dir=tmp_path / "data")
    assert [target.captions(row) for row in range(3)] == [["train 0"], ["train 1"], ["train 2"]]
    assert target.image(1).convert("RGB").tobytes() == tiny_image(1)[0].tobytes()
    with pytest.raises(DiffTuneError, match="was written by save_to_disk; give it as --train_data_dir"):
        load(tmp_path, dataset_name=tmp_path / "data")
    next((tmp_path / "data").glob("*.arrow")).write_bytes(b"nothing")
    with pytest.raises(DiffTuneError, match="^--train_data_dir: .* cannot be read as what save_to_disk wrote: "):
        load(tmp_path, train_data_dir=tmp_path / "data")


def separated(folder: Path, separator: str) -> None:
    save_tiny_images(folder, 1)
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text(separator.join(("file_name", "text")) + f"\n00.png{separator}a, b\n")


def archive(folder: Path, name: str = "images.zip") -> None:
    folder.mkdir()
    with zipfile.ZipFile(folder / name, "w") as file:
        file.writestr("00.png", b"")


def heic(folder: Path) -> None:
    save_tiny_images(folder, 2)
    (folder / "01.png").rename(folder / "01.heic")
    (folder / "metadata.jsonl").write_text((folder / "metadata.jsonl").read_text().replace("01.png", "01.heic"))
    (folder / "01.heic").write_bytes(b"\0\0\0\x24ftypheic")


def only(folder: Path, *names: str) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"something")


WAYS_OUT = {
    "semicolons": (
        lambda folder: separated(folder, ";"),
        "metadata.csv separates its columns by ';'; separate them by commas",
    ),
    "tabs": (
        lambda folder: separated(folder, "\t"),
        r"metadata.csv separates its columns by '\\t'; separate them by commas",
    ),
    "an archive": (
        archive,
        "but 1 other files, images.zip for one; unpack images.zip and give the folder with its images",
    ),
    "shards": (
        lambda folder: only(folder, "0.tar", "1.tar"),
        "unpack 0.tar and give the folder with its images .or give the folder as --dataset_name if they are shards",
    ),
    "HEIC in the metadata": (heic, r"row 1 01.heic \(not an image; \.heic is not read, convert it to PNG or JPEG\)"),
    "HEIC alone": (
        lambda folder: only(folder, "0.heic", "1.HEIC"),
        r"images of these formats are not read \(.heic 2\), convert them to PNG or JPEG",
    ),
    "captions in a table of another name": (
        lambda folder: only(folder, "captions.csv"),
        "if captions.csv has the captions, call it metadata.csv, with a column file_name for the images and a column text",
    ),
}


@pytest.mark.parametrize("case", WAYS_OUT)
def test_the_way_out_is_said(case: str, tmp_path: Path) -> None:
    make, said = WAYS_OUT[case]
    make(tmp_path / "data")
    with pytest.raises(DiffTuneError, match=said) as caught:
        load(tmp_path, train_data_dir=tmp_path / "data")
    sentence(caught)


def test_an_archive_given_itself(tmp_path: Path) -> None:
    archive(tmp_path / "data")
    with pytest.raises(DiffTuneError, match="images.zip is no metadata.jsonl, .* file; unpack images.zip and give"):
        load(tmp_path, train_data_dir=tmp_path / "data" / "images.zip")


def test_text_files_are_no_control_images(tmp_path: Path) -> None:
    folder = with_texts(tmp_path / "data")
    with pytest.raises(DiffTuneError, match="write a metadata.jsonl with a line .* for each image.$"):
        load(tmp_path, ControlNetConfig, train_data_dir=folder)
    assert len(load(tmp_path, ControlNetConfig, train_data_dir=save_tiny_conditions(tmp_path / "pairs", 2))) == 2


def test_datasets_looked_for_a_name_beneath_the_folder_of_the_metadata(tmp_path: Path) -> None:
    folder = save_tiny_images(tmp_path / "data" / "train", 2)
    lines = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(lines.replace('"file_name": "', '"file_name": "train/'))
    with pytest.raises(DiffTuneError) as caught:
        load(tmp_path, dataset_name=tmp_path / "data")
    assert f"and {folder / '00.png'} is there); in a metadata file, names are relative to its own" in sentence(caught)
