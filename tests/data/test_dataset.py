# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from diffusers_difftune.config import DataConfig
from diffusers_difftune.data.dataset import load_target_data
from diffusers_difftune.errors import DiffTuneError
from tests.tiny import save_tiny_images, tiny_image


def load(cache_dir: Path, seed: int = 0, **flags):
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    return load_target_data(DataConfig(**flags), seed, cache_dir)


def rows_of(target) -> list[tuple[list[str], bytes]]:
    return [(target.captions(row), target.image(row).convert("RGB").tobytes()) for row in range(len(target))]


def tiny_dataset(count: int = 6) -> Dataset:
    images, captions = zip(*(tiny_image(index) for index in range(count)))
    features = Features({"image": Image(), "text": Value("string")})
    return Dataset.from_dict({"image": list(images), "text": list(captions)}, features=features)


EXPECTED = [([caption], image.tobytes()) for image, caption in map(tiny_image, range(6))]


# --- where data can come from ---


def test_metadata_jsonl(tiny_images, tmp_path):
    target = load(tmp_path, train_data_dir=tiny_images)
    assert rows_of(target) == EXPECTED
    assert target.name(2) == "row 2 02.png"


def test_metadata_csv_with_a_byte_order_mark(tiny_images, tmp_path):
    folder = save_tiny_images(tmp_path / "images")
    (folder / "metadata.jsonl").unlink()
    with open(folder / "metadata.csv", "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text"])
        for index in range(6):
            writer.writerow([f"{index:02}.png", f'a "quoted", two\nlined caption {index}'])
    target = load(tmp_path / "cache", train_data_dir=folder)
    assert target.captions(3) == ['a "quoted", two\nlined caption 3']


def test_metadata_parquet(tiny_images, tmp_path):
    folder = save_tiny_images(tmp_path / "images")
    (folder / "metadata.jsonl").unlink()
    names = [f"{index:02}.png" for index in range(6)]
    Dataset.from_dict({"file_name": names, "text": [e[0][0] for e in EXPECTED]}).to_parquet(
        folder / "metadata.parquet"
    )
    assert rows_of(load(tmp_path / "cache", train_data_dir=folder)) == EXPECTED


def test_hidden_files_are_left_alone(tmp_path):
    folder = save_tiny_images(tmp_path / "images")
    save_tiny_images(folder / ".ipynb_checkpoints", 3)
    assert rows_of(load(tmp_path / "cache", train_data_dir=folder)) == EXPECTED


def test_metadata_in_nested_folders_names_images_beside_it(tmp_path):
    for part in ("a", "b"):
        save_tiny_images(tmp_path / "images" / part, 2)
    assert rows_of(load(tmp_path / "cache", train_data_dir=tmp_path / "images")) == EXPECTED[:2] * 2


def test_parquet_file_and_folder_of_parquet_files(tmp_path):
    (tmp_path / "data").mkdir()
    tiny_dataset().select(range(4)).to_parquet(tmp_path / "data" / "0.parquet")
    tiny_dataset().select(range(4, 6)).to_parquet(tmp_path / "data" / "1.parquet")
    assert rows_of(load(tmp_path / "cache", train_data_dir=tmp_path / "data")) == EXPECTED
    assert rows_of(load(tmp_path / "cache", train_data_dir=tmp_path / "data" / "1.parquet")) == EXPECTED[4:]


def test_parquet_written_without_datasets(tmp_path):
    """A struct of bytes and path, and plain bytes, are images too."""
    content = [row["bytes"] for row in tiny_dataset().cast_column("image", Image(decode=False))["image"]]
    struct = pa.array([{"bytes": each, "path": None} for each in content])
    for name, column in {"struct": struct, "binary": pa.array(content)}.items():
        pq.write_table(pa.table({"image": column, "text": [e[0][0] for e in EXPECTED]}), tmp_path / f"{name}.parquet")
        assert rows_of(load(tmp_path / "cache", train_data_dir=tmp_path / f"{name}.parquet")) == EXPECTED


def test_dataset_name_of_a_local_folder(tiny_images, tmp_path):
    assert rows_of(load(tmp_path, dataset_name=tiny_images)) == EXPECTED


def test_columns_by_flag(tmp_path):
    dataset = tiny_dataset().rename_columns({"image": "picture", "text": "title"})
    dataset.to_parquet(tmp_path / "data.parquet")
    flags = {"image_column": "picture", "caption_column": "title"}
    assert rows_of(load(tmp_path / "cache", train_data_dir=tmp_path / "data.parquet", **flags)) == EXPECTED
    folder = save_tiny_images(tmp_path / "images")
    text = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(text.replace("file_name", "picture_file_name").replace("text", "title"))
    assert rows_of(load(tmp_path / "cache", train_data_dir=folder, **flags)) == EXPECTED


def test_captions_as_strings_and_lists(tmp_path):
    folder = save_tiny_images(tmp_path / "images", 3, captions=["one", ["two", "three"], ["one"]])
    target = load(tmp_path / "cache", train_data_dir=folder)
    assert [target.captions(row) for row in range(3)] == [["one"], ["two", "three"], ["one"]]
    assert target.distinct_captions == ["one", "two", "three"]


def test_max_train_samples_takes_the_rows_that_upstream_takes(tmp_path):
    tiny_dataset().to_parquet(tmp_path / "data.parquet")
    upstream = tiny_dataset().shuffle(seed=5).select(range(4))
    for source in (tmp_path / "data.parquet", save_tiny_images(tmp_path / "images")):
        target = load(tmp_path / "cache", seed=5, train_data_dir=source, max_train_samples=4)
        assert [target.captions(row)[0] for row in range(len(target))] == upstream["text"][:]


# --- the content key ---


def keys(target) -> tuple[str, str]:
    return target.images.key, target.content_key


def test_the_key_is_of_the_content_and_not_of_the_place(tiny_images, tmp_path):
    first = load(tmp_path, train_data_dir=tiny_images)
    elsewhere = load(tmp_path, train_data_dir=save_tiny_images(tmp_path / "elsewhere"))
    assert keys(first) == keys(elsewhere)
    assert keys(first) != keys(load(tmp_path, train_data_dir=tiny_images, max_train_samples=6))  # another order


def test_nothing_is_hashed_twice(tiny_images, tmp_path, monkeypatch):
    import diffusers_difftune.io.hashing as filehash

    read = []
    file_digest = filehash.hashlib.file_digest

    def counted(file, name):
        read.append(file.name)
        return file_digest(file, name)

    monkeypatch.setattr(filehash.hashlib, "file_digest", counted)
    first = keys(load(tmp_path, train_data_dir=tiny_images))
    assert len(read) == 6
    assert keys(load(tmp_path, train_data_dir=tiny_images)) == first
    assert len(read) == 6
    assert keys(load(tmp_path, train_data_dir=tiny_images, verify_cache=True)) == first
    assert len(read) > 6


def edit_keeping_stat(path: Path) -> None:
    """Changes one byte of a file and puts its times back."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_an_edited_image_changes_the_key(tmp_path):
    folder = save_tiny_images(tmp_path / "images")
    before = keys(load(tmp_path / "cache", train_data_dir=folder))
    tiny_image(17)[0].save(folder / "03.png")
    after = keys(load(tmp_path / "cache", train_data_dir=folder))
    assert after[0] != before[0] and after[1] != before[1]


def test_an_edited_image_with_its_old_time_is_noticed_by_verify_cache(tmp_path):
    folder = save_tiny_images(tmp_path / "images")
    before = keys(load(tmp_path / "cache", train_data_dir=folder))
    edit_keeping_stat(folder / "03.png")
    assert keys(load(tmp_path / "cache", train_data_dir=folder)) == before
    after = keys(load(tmp_path / "cache", train_data_dir=folder, verify_cache=True))
    assert after[0] != before[0]
    assert keys(load(tmp_path / "cache", train_data_dir=folder)) == after  # and remembered


def test_an_edited_caption_changes_the_key_whatever_the_file_times(tmp_path):
    folder = save_tiny_images(tmp_path / "images")
    before = keys(load(tmp_path / "cache", train_data_dir=folder))
    metadata = folder / "metadata.jsonl"
    stat = metadata.stat()
    metadata.write_text(metadata.read_text().replace("number 3", "number 8"))
    os.utime(metadata, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    target = load(tmp_path / "cache", train_data_dir=folder)
    assert target.captions(3)[0].endswith("number 8")
    assert target.images.key == before[0] and target.content_key != before[1]


def test_an_edited_parquet_file_is_read_again(tmp_path):
    path = tmp_path / "data.parquet"
    tiny_dataset().to_parquet(path)
    before = keys(load(tmp_path / "cache", train_data_dir=path))
    tiny_dataset().select([1, 0, 2, 3, 4, 5]).to_parquet(path)
    target = load(tmp_path / "cache", train_data_dir=path)
    assert rows_of(target)[0] == EXPECTED[1]
    assert target.images.key != before[0]


# --- bad input: one sentence each ---


def metadata_lines(folder: Path, *records: dict | str) -> Path:
    save_tiny_images(folder, 3)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def script(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / f"{folder.name}.py").write_text("raise SystemExit('it ran')")
    return folder


def damaged_images(folder: Path) -> Path:
    save_tiny_images(folder, 5)
    content = (folder / "01.png").read_bytes()
    (folder / "01.png").write_bytes(content[: len(content) // 2])
    (folder / "03.png").write_text("I am not an image.")
    (folder / "04.png").unlink()
    return folder


def only_images(folder: Path) -> Path:
    save_tiny_images(folder, 3)
    (folder / "metadata.jsonl").unlink()
    return folder


def both_kinds_of_metadata(folder: Path) -> Path:
    save_tiny_images(folder)
    (folder / "metadata.csv").write_text("file_name,text\n00.png,hello\n")
    return folder


def latin_csv(folder: Path) -> Path:
    only_images(folder)
    (folder / "metadata.csv").write_bytes("file_name,text\n00.png,é\n".encode("latin-1"))
    return folder


def parquet(folder: Path, content: bytes | Dataset) -> Path:
    folder.mkdir()
    if isinstance(content, bytes):
        (folder / "data.parquet").write_bytes(content)
    else:
        content.to_parquet(folder / "data.parquet")
    return folder


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def csv_lines(folder: Path, *lines: str) -> Path:
    only_images(folder)
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def bytes_of(folder: Path, content: bytes, name: str = "metadata.jsonl") -> Path:
    only_images(folder)
    (folder / name).write_bytes(content)
    return folder


def names(folder: Path, name: str) -> Path:
    """A folder whose second row names this file."""
    return metadata_lines(folder, {"file_name": "00.png", "text": "a"}, {"file_name": name, "text": "b"})


def linked(folder: Path, target: str, name: str = "01.png") -> Path:
    """A folder with a link in it, in place of an image or beside them."""
    save_tiny_images(folder.parent / "elsewhere", 2)
    save_tiny_images(folder, 3)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    return folder


def pipe(folder: Path) -> Path:
    save_tiny_images(folder, 2)
    (folder / "01.png").unlink()
    os.mkfifo(folder / "01.png")
    return folder


def named_in_parquet(folder: Path, path: str) -> Path:
    """A Parquet file whose second image is not in it, but named by it."""
    table = tiny_dataset(2).cast_column("image", Image(decode=False)).with_format("arrow")[:]
    images = table["image"].to_pylist()
    images[1] = {"bytes": None, "path": path}
    folder.mkdir()
    pq.write_table(pa.table({"image": pa.array(images), "text": ["a", "b"]}), folder / "data.parquet")
    return folder


def parquet_of(folder: Path, *tables: pa.Table | bytes) -> Path:
    """A folder of Parquet files."""
    folder.mkdir()
    for number, table in enumerate(tables):
        if isinstance(table, bytes):
            (folder / f"{number}.parquet").write_bytes(table)
        else:
            pq.write_table(table, folder / f"{number}.parquet")
    return folder


def broken_page(folder: Path) -> Path:
    """A Parquet file whose end is right, and whose data are not."""
    parquet(folder, tiny_dataset(6))
    file = folder / "data.parquet"
    content = bytearray(file.read_bytes())
    content[10:400] = bytes(390)
    file.write_bytes(content)
    return folder


def no_text(folder: Path) -> Path:
    """A Parquet file with bytes in its captions that are no UTF-8."""
    images = [row["bytes"] for row in tiny_dataset(2).cast_column("image", Image(decode=False))["image"]]
    text = pa.array([b"\xff\xfe", b"b"]).view(pa.string())
    return parquet_of(folder, pa.table({"image": pa.array(images), "text": text}))


def lying_features(folder: Path, features: object) -> Path:
    """A Parquet file that says of itself, where `datasets` looks, that its columns are something else."""
    images = [row["bytes"] for row in tiny_dataset(2).cast_column("image", Image(decode=False))["image"]]
    table = pa.table({"image": pa.array(images), "text": ["a", "b"]})
    info = json.dumps({"info": {"features": features}})
    return parquet_of(folder, table.replace_schema_metadata({"huggingface": info}))


OUTSIDE = "which lies outside of the data."
NUMBERS = Dataset.from_dict({"image": [1, 2], "text": ["a", "b"]})
LABELS = Dataset.from_dict(
    {"image": [tiny_image(0)[0]], "text": [1]},
    features=Features({"image": Image(), "text": ClassLabel(names=["cat", "dog"])}),
)
WITH_NULLS = Dataset.from_dict(
    {"image": [tiny_image(0)[0], None], "text": ["a", None]},
    features=Features({"image": Image(), "text": Value("string")}),
)

BAD_INPUT = {
    "nothing named": (
        lambda folder: {},
        "Neither --dataset_name nor --train_data_dir is given; one of them must name the target data.",
    ),
    "missing folder": (
        lambda folder: {"train_data_dir": folder},
        "--train_data_dir: there is no folder {folder}.",
    ),
    "empty folder": (
        lambda folder: {"train_data_dir": made(folder)},
        "--train_data_dir: {folder} has no metadata.jsonl, metadata.csv or Parquet file, but nothing at all; write a "
        'metadata.jsonl with a line {{"file_name": "cat.png", "text": "a cat"}} for each image, or a cat.txt with its '
        "caption beside each cat.png.",
    ),
    "images without captions": (
        lambda folder: {"train_data_dir": only_images(folder)},
        "--train_data_dir: {folder} has no metadata.jsonl, metadata.csv or Parquet file, but 3 other files, 00.png "
        'for one; write a metadata.jsonl with a line {{"file_name": "cat.png", "text": "a cat"}} for each image, or a '
        "cat.txt with its caption beside each cat.png.",
    ),
    "metadata without rows": (
        lambda folder: {"train_data_dir": metadata_lines(folder)},
        "--train_data_dir: {folder}/metadata.jsonl has no rows.",
    ),
    "two kinds of metadata": (
        lambda folder: {"train_data_dir": both_kinds_of_metadata(folder)},
        "--train_data_dir: {folder} has a metadata.csv and a metadata.jsonl; remove one of them.",
    ),
    "a line that is not JSON": (
        lambda folder: {"train_data_dir": metadata_lines(folder, {"file_name": "00.png", "text": "a"}, "{oops")},
        "--train_data_dir: line 2 of {folder}/metadata.jsonl is not JSON: Expecting property name enclosed in double "
        "quotes.",
    ),
    "a line that is no object": (
        lambda folder: {"train_data_dir": metadata_lines(folder, "3")},
        '--train_data_dir: line 1 of {folder}/metadata.jsonl is not an object like {{"file_name": …}}.',
    ),
    "a CSV in another encoding": (
        lambda folder: {"train_data_dir": latin_csv(folder)},
        "--train_data_dir: {folder}/metadata.csv is not UTF-8 text; save it as such.",
    ),
    "no file name": (
        lambda folder: {"train_data_dir": metadata_lines(folder, {"file_name": "00.png", "text": "a"}, {"text": "b"})},
        "--train_data_dir: row 2 of {folder}/metadata.jsonl names no file in file_name.",
    ),
    "unreadable images, all at once": (
        lambda folder: {"train_data_dir": damaged_images(folder)},
        "--train_data_dir: 3 of 5 images cannot be read: row 1 01.png (damaged: image file is truncated), row 3 "
        "03.png (not an image), row 4 04.png (no such file {folder}/04.png); repair or remove them, or leave them out with "
        "--skip_bad_images.",
    ),
    "no readable image at all": (
        lambda folder: {
            "train_data_dir": metadata_lines(folder, {"file_name": "x.png", "text": "a"}),
            "skip_bad_images": True,
        },
        "--skip_bad_images leaves no rows: not one image of the target data can be read.",
    ),
    "missing image column": (
        lambda folder: {"train_data_dir": save_tiny_images(folder), "image_column": "picture"},
        "--image_column: {folder}/metadata.jsonl has no column picture_file_name; the columns are file_name, text.",
    ),
    "missing caption column": (
        lambda folder: {"train_data_dir": save_tiny_images(folder), "caption_column": "title"},
        "--caption_column: {folder}/metadata.jsonl has no column title; the columns are file_name, text.",
    ),
    "missing image column in Parquet": (
        lambda folder: {"train_data_dir": parquet(folder, tiny_dataset()), "image_column": "picture"},
        "--image_column: there is no column picture; the columns are image, text.",
    ),
    "missing caption column in Parquet": (
        lambda folder: {"train_data_dir": parquet(folder, tiny_dataset()), "caption_column": "title"},
        "--caption_column: there is no column title; the columns are image, text.",
    ),
    "numbers for images": (
        lambda folder: {"train_data_dir": parquet(folder, NUMBERS)},
        "--image_column: the column image holds int64, not images.",
    ),
    "lists for images": (
        lambda folder: {"train_data_dir": parquet(folder, Dataset.from_dict({"image": [[1]], "text": ["a"]}))},
        "--image_column: the column image holds List, not images.",
    ),
    "labels for captions": (
        lambda folder: {"train_data_dir": parquet(folder, LABELS)},
        "--caption_column: the column text holds 1 of type int; captions must be strings or lists of strings.",
    ),
    "numbers in a list of captions": (
        lambda folder: {"train_data_dir": metadata_lines(folder, {"file_name": "00.png", "text": ["a", 1]})},
        "--caption_column: the column text holds ['a', 1] of type list; captions must be strings or lists of strings.",
    ),
    "empty and null captions": (
        lambda folder: {
            "train_data_dir": save_tiny_images(folder, 6, captions=["a", "", None, [], ["b", " "], ["c"]])
        },
        "--caption_column: 4 of 6 rows have an empty caption or none in the column text: row 1 01.png, row 2 02.png, "
        "row 3 03.png, row 4 04.png; every row needs one.",
    ),
    "a null image": (
        lambda folder: {"train_data_dir": parquet(folder, WITH_NULLS)},
        "--train_data_dir: 1 of 2 images cannot be read: row 1 (no image); repair or remove them, or leave them out "
        "with --skip_bad_images.",
    ),
    "damaged Parquet": (
        lambda folder: {"train_data_dir": parquet(folder, b"PAR1 and then nothing")},
        "--train_data_dir: {folder}/data.parquet cannot be read as Parquet: *",
    ),
    "unknown dataset": (
        lambda folder: {"dataset_name": str(folder / "nowhere")},
        "--dataset_name: {folder}/nowhere cannot be loaded: *",
    ),
    "dataset that is a script": (
        lambda folder: {"dataset_name": script(folder / "circles")},
        "--dataset_name: {folder}/circles cannot be loaded: Dataset scripts are no longer supported, but found circles.py;"
        " if the Hub has made a Parquet copy, `hf download {folder}/circles --repo-type dataset --revision"
        " refs/convert/parquet --local-dir FOLDER` gets it for --train_data_dir FOLDER.",
    ),
    "no train split": (
        lambda folder: {"dataset_name": save_tiny_images(folder / "test").parent},
        "--dataset_name: {folder} has no split named train; its splits are test.",
    ),
    "too many samples": (
        lambda folder: {"train_data_dir": save_tiny_images(folder), "max_train_samples": 7},
        "--max_train_samples is 7, but the target data has 6 rows; without the flag all rows are used.",
    ),
    "no samples": (
        lambda folder: {"train_data_dir": folder, "max_train_samples": 0},
        "--max_train_samples is 0; it must be at least 1.",
    ),
    "a file above the folder": (
        lambda folder: {"train_data_dir": names(folder, "../../etc/passwd")},
        "--train_data_dir: row 2 of {folder}/metadata.jsonl names '../../etc/passwd', " + OUTSIDE,
    ),
    "a file above the folder, by a way through it": (
        lambda folder: {"train_data_dir": names(folder, "a/b/../../../elsewhere/00.png")},
        "--train_data_dir: row 2 of {folder}/metadata.jsonl names 'a/b/../../../elsewhere/00.png', " + OUTSIDE,
    ),
    "a folder that begins like the folder": (
        lambda folder: {"train_data_dir": names(folder, "../data-of-another/00.png")},
        "--train_data_dir: row 2 of {folder}/metadata.jsonl names '../data-of-another/00.png', " + OUTSIDE,
    ),
    "an absolute path": (
        lambda folder: {"train_data_dir": names(folder, "/etc/passwd")},
        "--train_data_dir: row 2 of {folder}/metadata.jsonl names '/etc/passwd', " + OUTSIDE,
    ),
    "a device": (
        lambda folder: {"train_data_dir": names(folder, "/dev/zero")},
        "--train_data_dir: row 2 of {folder}/metadata.jsonl names '/dev/zero', " + OUTSIDE,
    ),
    "an address": (
        lambda folder: {"train_data_dir": names(folder, "http://169.254.169.254/latest/meta-data")},
        "--train_data_dir: 1 of 2 images cannot be read: row 1 meta-data (no such file *",
    ),
    "a name with a line's end": (
        lambda folder: {"train_data_dir": names(folder, "01.png\nerror: all is well")},
        "--train_data_dir: row 2 of {folder}/metadata.jsonl names '01.png\\nerror: all is well', which has control"
        " characters in its name.",
    ),
    "a name that ends early": (
        lambda folder: {"train_data_dir": names(folder, "01.png\0.txt")},
        "--train_data_dir: row 2 of {folder}/metadata.jsonl names '01.png\\x00.txt', which has control characters in its"
        " name.",
    ),
    "a name that speaks to the terminal": (
        lambda folder: {"train_data_dir": names(folder, "\x1b[2J.png")},
        "--train_data_dir: row 2 of {folder}/metadata.jsonl names '\\x1b[2J.png', which has control characters in its name.",
    ),
    "the folder itself": (
        lambda folder: {"train_data_dir": names(folder, ".")},
        "--train_data_dir: row 2 of {folder}/metadata.jsonl names '.', which is no file.",
    ),
    "a name of a megabyte": (
        lambda folder: {"train_data_dir": names(folder, "a" * 2**20)},
        "--train_data_dir: 1 of 2 images cannot be read: row 1 aaaa*",
    ),
    "a pipe in place of an image": (
        lambda folder: {"train_data_dir": pipe(folder)},
        "--train_data_dir: row 2 of {folder}/metadata.jsonl names '01.png', which is no file.",
    ),
    "a link to an image elsewhere": (
        lambda folder: {"train_data_dir": linked(folder, "../elsewhere/01.png")},
        "--train_data_dir: {folder}/01.png is a link that leads out of the folder, to *; put a copy or a hard link there.",
    ),
    "a link to a folder elsewhere": (
        lambda folder: {"train_data_dir": linked(folder, "../elsewhere", "more")},
        "--train_data_dir: {folder}/more is a link that leads out of the folder, to *; put a copy or a hard link there.",
    ),
    "a link to itself": (
        lambda folder: {"train_data_dir": linked(folder, "01.png")},
        "--train_data_dir: 1 of 3 images cannot be read: row 1 01.png (*); repair or remove them, or leave them out"
        " with --skip_bad_images.",
    ),
    "a link to nothing": (
        lambda folder: {"train_data_dir": linked(folder, "nowhere.png")},
        "--train_data_dir: 1 of 3 images cannot be read: row 1 01.png (no such file {folder}/01.png); repair or remove"
        " them, or leave them out with --skip_bad_images.",
    ),
    "an image elsewhere that a Parquet file names": (
        lambda folder: {"train_data_dir": named_in_parquet(folder, "/etc/passwd")},
        "--image_column: the image of row 1, '/etc/passwd', lies outside of the data.",
    ),
    "an address that a Parquet file names": (
        lambda folder: {"train_data_dir": named_in_parquet(folder, "http://localhost:1/a.png")},
        "--image_column: the image of row 1, 'http://localhost:1/a.png', is an address elsewhere.",
    ),
    "an archive elsewhere that a Parquet file names": (
        lambda folder: {"train_data_dir": named_in_parquet(folder, "zip://a.png::/etc/passwd")},
        "--image_column: the image of row 1, 'zip://a.png::/etc/passwd', lies outside of the data.",
    ),
    "a chain of protocols": (
        lambda folder: {"train_data_dir": named_in_parquet(folder, "filecache://a.png::hf://datasets/a/b/c.png")},
        "--image_column: the image of row 1, 'filecache://a.png::hf://datasets/a/b/c.png', is no path to an image.",
    ),
    "an image elsewhere that a data set names": (
        lambda folder: {"dataset_name": str(named_in_parquet(folder, "/etc/passwd"))},
        "--image_column: the image of row 1, '/etc/passwd', lies outside of the data.",
    ),
    "a file above the folder that a data set names": (
        lambda folder: {"dataset_name": str(names(folder, "../../etc/passwd"))},
        "--*",
    ),
    "JSON that is not UTF-8": (
        lambda folder: {"train_data_dir": bytes_of(folder, '{"file_name": "00.png", "text": "é"}'.encode("utf-16"))},
        "--train_data_dir: {folder}/metadata.jsonl is not UTF-8 text; save it as such.",
    ),
    "half a character": (
        lambda folder: {"train_data_dir": metadata_lines(folder, '{"file_name": "00.png", "text": "\\ud83d"}')},
        "--train_data_dir: line 1 of {folder}/metadata.jsonl is not JSON: *surrogates not allowed.",
    ),
    "lists in lists in lists": (
        lambda folder: {"train_data_dir": metadata_lines(folder, '{"text": ' + "[" * 100_000)},
        "--train_data_dir: line 1 of {folder}/metadata.jsonl is not JSON: *",
    ),
    "a number of ten thousand digits": (
        lambda folder: {"train_data_dir": metadata_lines(folder, '{"text": ' + "1" * 10_000 + "}")},
        "--train_data_dir: line 1 of {folder}/metadata.jsonl is not JSON: *",
    ),
    "a key twice": (
        lambda folder: {"train_data_dir": metadata_lines(folder, '{"file_name": "00.png", "text": "a", "text": "b"}')},
        "--train_data_dir: line 1 of {folder}/metadata.jsonl has the column text twice.",
    ),
    "a column twice": (
        lambda folder: {"train_data_dir": csv_lines(folder, "file_name,text,text", "00.png,a,b")},
        "--train_data_dir: {folder}/metadata.csv has the column text twice.",
    ),
    "a comma in a caption": (
        lambda folder: {"train_data_dir": csv_lines(folder, "file_name,text", "00.png,a", "01.png,a cat, sitting")},
        "--train_data_dir: line 3 of {folder}/metadata.csv has 3 values for 2 columns; put values with commas in them into"
        " quotation marks.",
    ),
    "quotation marks that do not end": (
        lambda folder: {"train_data_dir": csv_lines(folder, "file_name,text", '00.png,"a', "01.png,b")},
        "--train_data_dir: line 3 of {folder}/metadata.csv is not CSV: unexpected end of data.",
    ),
    "a value of a megabyte": (
        lambda folder: {"train_data_dir": csv_lines(folder, "file_name,text", "00.png," + "a" * 2**20)},
        "--train_data_dir: line 2 of {folder}/metadata.csv is not CSV: field larger than field limit (131072).",
    ),
    "a CSV without rows": (
        lambda folder: {"train_data_dir": csv_lines(folder, "file_name,text")},
        "--train_data_dir: {folder}/metadata.csv has no rows.",
    ),
    "a caption that is an object": (
        lambda folder: {"train_data_dir": metadata_lines(folder, {"file_name": "00.png", "text": {"a": 1}})},
        "--caption_column: the column text holds {{'a': 1}} of type dict; captions must be strings or lists of strings.",
    ),
    "a caption that is no number": (
        lambda folder: {"train_data_dir": metadata_lines(folder, '{"file_name": "00.png", "text": NaN}')},
        "--caption_column: the column text holds nan of type float; captions must be strings or lists of strings.",
    ),
    "a file name that is a number": (
        lambda folder: {"train_data_dir": metadata_lines(folder, {"file_name": 7, "text": "a"})},
        "--train_data_dir: row 1 of {folder}/metadata.jsonl names no file in file_name.",
    ),
    "metadata that are no Parquet": (
        lambda folder: {"train_data_dir": bytes_of(folder, b"PAR1", "metadata.parquet")},
        "--train_data_dir: {folder}/metadata.parquet cannot be read as Parquet: *",
    ),
    "Parquet with damaged data": (
        lambda folder: {"train_data_dir": broken_page(folder)},
        "--train_data_dir: {folder}/data.parquet cannot be read as Parquet: *",
    ),
    "Parquet files of different columns": (
        lambda folder: {
            "train_data_dir": parquet_of(
                folder, pa.table({"image": [b"a"], "text": ["a"]}), pa.table({"image": [b"a"], "title": ["a"]})
            )
        },
        "--train_data_dir: {folder}/0.parquet and 1 more files cannot be read as Parquet: *",
    ),
    "Parquet files of different types": (
        lambda folder: {
            "train_data_dir": parquet_of(
                folder, pa.table({"image": [b"a"], "text": ["a"]}), pa.table({"image": [b"a"], "text": [[["a"]]]})
            )
        },
        "--train_data_dir: {folder}/0.parquet and 1 more files cannot be read as Parquet: *",
    ),
    "Parquet without rows": (
        lambda folder: {
            "train_data_dir": parquet_of(folder, pa.table({"image": pa.array([], pa.binary()), "text": []}))
        },
        "--train_data_dir: {folder}/0.parquet has no rows.",
    ),
    "Parquet with captions that are no text": (
        lambda folder: {"train_data_dir": no_text(folder)},
        "--*",
    ),
    "Parquet of features that there are not": (
        lambda folder: {"train_data_dir": lying_features(folder, {"image": {"_type": "Executable"}})},
        "--train_data_dir: {folder}/0.parquet cannot be read as Parquet: *",
    ),
    "no resolution": (
        lambda folder: {"train_data_dir": folder, "resolution": 0},
        "--resolution is 0; it must be at least 1 and at most 16384.",
    ),
    "no crops": (
        lambda folder: {"train_data_dir": folder, "crops_per_image": 0},
        "--crops_per_image is 0; it must be at least 1.",
    ),
    "negative workers": (
        lambda folder: {"train_data_dir": folder, "dataloader_num_workers": -1},
        "--dataloader_num_workers is -1; it must be at least 0.",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_told_in_one_sentence(case, tmp_path):
    make, expected = BAD_INPUT[case]
    folder = tmp_path / "data"
    flags = make(folder)
    with pytest.raises(DiffTuneError) as error:
        load(tmp_path / "cache", **flags)
    expected, message = expected.format(folder=folder), str(error.value)
    begin, star, end = expected.partition("*")
    assert message.startswith(begin) and message.endswith(end) if star else message == expected
    assert message.endswith(".") and "\n" not in message


def test_files_may_lie_anywhere_in_the_folder(tmp_path):
    """By names with `..`, by links within it, through a link to it, and in the Hub's cache, where all files are links."""
    folder = save_tiny_images(tmp_path / "data", 2)
    (folder / "metadata.jsonl").unlink()
    (folder / "images").mkdir()
    (folder / "00.png").rename(folder / "images" / "00.png")
    (folder / "words").mkdir()
    (folder / "again").symlink_to("images")
    rows = [
        ("../images/00.png", "a"),
        ("../again/00.png", "b"),
        (str(folder / "01.png"), "c"),
        ("../images/00.png", "d"),
    ]
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
    (folder / "words" / "metadata.jsonl").write_text("\n".join(lines))
    target = load(tmp_path / "cache", train_data_dir=folder)
    assert [captions for captions, _ in rows_of(target)] == [["a"], ["b"], ["c"], ["d"]]
    (tmp_path / "link").symlink_to(folder)
    assert len(load(tmp_path / "cache", train_data_dir=tmp_path / "link")) == 4

    snapshot = tmp_path / "hub" / "datasets--a--b" / "snapshots" / "0123"
    blobs = save_tiny_images(snapshot.parents[1] / "blobs", 2)
    (snapshot / "train").mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / "train" / path.name).symlink_to(f"../../../blobs/{path.name}")
    assert rows_of(load(tmp_path / "cache", train_data_dir=snapshot / "train")) == EXPECTED[:2]


def test_captions_may_hold_anything_that_is_text(tmp_path):
    captions = [
        "a\0b",
        "\x1b[31mred",
        "<script>alert(1)</script>",
        "{{ 7*7 }} {0} %s ${HOME}",
        "\u202eleft",
        "a\n\nb" * 50,
    ]
    target = load(tmp_path / "cache", train_data_dir=save_tiny_images(tmp_path / "images", 6, captions=captions))
    assert [target.captions(row) for row in range(6)] == [[caption] for caption in captions]


def test_lines_of_a_csv_end_where_lines_of_a_csv_end(tmp_path):
    folder = csv_lines(tmp_path / "images", "file_name,text", "00.png,a\u2028b\x0cc\x85d", '01.png,"two\nlines"')
    target = load(tmp_path / "cache", train_data_dir=folder)
    assert [target.captions(row) for row in range(2)] == [["a\u2028b\x0cc\x85d"], ["two\nlines"]]


def test_a_cache_dir_that_is_a_file(tiny_images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiffTuneError, match="^--cache_dir: .*/file/difftune cannot be written to: Not a directory.$"):
        load(tmp_path / "file", train_data_dir=tiny_images)


def test_skip_bad_images_goes_on_and_says_how_many(tmp_path, caplog):
    folder = damaged_images(tmp_path / "images")
    target = load(tmp_path / "cache", train_data_dir=folder, skip_bad_images=True)
    assert rows_of(target) == [EXPECTED[0], EXPECTED[2]]
    (left_out,) = target.report.left_out
    assert (
        left_out.startswith("3 images that cannot be read (--skip_bad_images), row 1 01.png (") and not caplog.records
    )
    good = load(tmp_path / "cache", train_data_dir=save_tiny_images(tmp_path / "good", 3), skip_bad_images=True)
    assert keys(target) == keys(good.select([0, 2]))


def test_images_are_checked_once(tiny_images, tmp_path, monkeypatch):
    import diffusers_difftune.data.images.column as column

    load(tmp_path, train_data_dir=tiny_images)
    monkeypatch.setattr(column, "decode", lambda stored: pytest.fail("decoded again"))
    load(tmp_path, train_data_dir=tiny_images)


def test_a_repaired_image_is_checked_again(tmp_path):
    folder = damaged_images(tmp_path / "images")
    with pytest.raises(DiffTuneError):
        load(tmp_path / "cache", train_data_dir=folder)
    for index in (1, 3, 4):
        tiny_image(index)[0].save(folder / f"{index:02}.png")
    assert rows_of(load(tmp_path / "cache", train_data_dir=folder)) == EXPECTED[:5]


def test_very_many_bad_rows_are_not_all_listed(tmp_path):
    lines = [{"file_name": f"{index}.png", "text": "a"} for index in range(130)]
    folder = metadata_lines(tmp_path / "images", *lines)
    with pytest.raises(DiffTuneError, match=r"row 99 99.png \(no such file .*\) and 30 more; repair"):
        load(tmp_path / "cache", train_data_dir=folder)


def test_images_of_any_mode_are_served_as_they_are(tmp_path):
    folder = save_tiny_images(tmp_path / "images", 1)
    PILImage.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "00.png")
    assert load(tmp_path / "cache", train_data_dir=folder).image(0).mode == "L"
