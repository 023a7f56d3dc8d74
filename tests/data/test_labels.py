# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The class of every row: from class folders, metadata files and columns, and what is refused as a label."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value

from diffusers_difftune.config import ClassConditionalConfig
from diffusers_difftune.data.dataset import TargetData, load_target_data
from diffusers_difftune.data.reading.labels import check_classes, read_labels
from diffusers_difftune.data.source import ANY
from diffusers_difftune.errors import DiffTuneError
from tests.tiny import save_tiny_classes, save_tiny_images, tiny_image, tiny_label


def load(cache_dir: Path, folder: Path, seed: int = 0, **flags) -> TargetData:
    return load_target_data(ClassConditionalConfig(train_data_dir=str(folder), **flags), seed, cache_dir / "cache")


def classes_of(target: TargetData) -> list[str]:
    """The class of each row by its name, in the order of the images' file names or rows."""
    assert all(len(target.captions(row)) == 1 for row in range(len(target)))
    return [target.class_names[int(target.captions(row)[0])] for row in range(len(target))]


def pixels_of(target: TargetData) -> list[bytes]:
    return [target.image(row).convert("RGB").tobytes() for row in range(len(target))]


def column(values: list, feature: object = None) -> Dataset:
    features = None if feature is None else Features({"label": feature})
    return Dataset.from_dict({"label": values}, features=features)


def labels(values: list, feature: object = None) -> tuple[list[int | None], list[str]]:
    return tuple(read_labels(column(values, feature), np.arange(len(values)), "label"))


def refusal(values: list, feature: object = None, rows: int | None = None) -> str:
    with pytest.raises(DiffTuneError) as caught:
        _, names = labels(values, feature)
        check_classes(names, len(values) if rows is None else rows, len(values), "label")
    return sentence(caught)


def sentence(caught: pytest.ExceptionInfo) -> str:
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and not re.search(r"[.!?] [A-Z]", message[:-1])
    return message


def relabelled(folder: Path, values: list, column: str = "label") -> Path:
    """An image folder with these labels in its metadata; `...` leaves one out."""
    save_tiny_images(folder, len(values))
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines = [line | ({} if value is ... else {column: value}) for line, value in zip(lines, values)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


# How classes are numbered


def test_names_are_numbered_by_the_alphabet_and_numbers_by_size() -> None:
    assert labels(["oak", "ash", "elm", "oak"]) == ([2, 0, 1, 2], ["ash", "elm", "oak"])
    assert labels([30, 4, 4, 200]) == ([1, 0, 0, 2], ["4", "30", "200"])
    assert labels([5, -1, 5]) == ([1, 0, 1], ["-1", "5"])


def test_names_that_are_all_numbers_are_ordered_as_numbers() -> None:
    assert labels(["10", "9", "100", "9"]) == ([1, 0, 2, 0], ["9", "10", "100"])
    assert labels(["5", "-1", "10"]) == ([1, 0, 2], ["-1", "5", "10"])
    assert labels(["10", "9", "nine"]) == ([0, 1, 2], ["10", "9", "nine"]), "not all of them are"


def test_classes_of_a_class_label_keep_their_numbers() -> None:
    feature = ClassLabel(names=["wool", "silk", "flax"])
    assert labels([2, 0, 2], feature) == ([2, 0, 2], ["wool", "silk", "flax"]), "also where no row is silk"


def test_rows_without_a_label_have_none() -> None:
    assert labels(["b", None, "", " ", "a"]) == ([1, None, None, None, 0], ["a", "b"])
    assert labels([7, None, 3]) == ([1, None, 0], ["3", "7"])
    assert labels([0, -1, None, 1], ClassLabel(names=["a", "b"])) == ([0, None, None, 1], ["a", "b"])


def test_the_classes_are_those_of_all_rows_and_the_labels_those_of_the_rows_in_use() -> None:
    found = read_labels(column(["c", "a", "b", "a"]), np.array([3, 0, 1]), "label")
    assert found == ([0, 2, 0], ["a", "b", "c"])


# What is refused


@pytest.mark.parametrize(
    ("values", "feature", "said"),
    [
        ([0.5, 1.0], None, "The column label holds float; a label is a name or a whole number"),
        ([True, False], None, "The column label holds bool; a label is a name or a whole number"),
        ([["a"], ["b"]], None, "The column label holds list; .*"),
        ([[0], [1]], Sequence(ClassLabel(names=["a", "b"])), "The column label holds list; .*"),
        ([{"name": "a"}, {"name": "b"}], None, "The column label holds dict; .*"),
        ([None, None], Value("string"), "The column label holds nothing; .*"),
        (["", " "], None, "The column label has 0 classes; a class-conditional model needs two"),
        (["a", "a", "a"], None, "The column label has 1 class only, a; a class-conditional model needs two"),
        ([0, 0], ClassLabel(names=["a"]), "The column label has 1 class only, a; .*"),
        ([0, 1], ClassLabel(num_classes=3), "The column label has 3 classes for 2 rows; give the column that .*"),
        ([f"{i}" for i in range(1001)], None, "The column label has 1001 classes; a class table has room for 1000"),
        (["cat", "cat ", "dog"], None, "2 classes of the column label are called cat"),
    ],
)
def test_a_column_that_holds_no_labels_is_refused(values: list, feature: object, said: str) -> None:
    assert re.fullmatch(f"{said}.", refusal(values, feature))


def test_a_thousand_classes_are_not_too_many() -> None:
    ids, names = labels([*range(1000)])
    assert ids == [*range(1000)] and len(names) == 1000


def test_names_that_classes_share_are_told(caplog) -> None:
    check_classes(["big", "red, small", "old , big"], 3, 3, "label")
    assert re.search("2 classes of the column label have the name big, since a comma stands between", caplog.text)
    caplog.clear()
    check_classes(["tench, Tinca tinca", "goldfish", "red, red"], 3, 3, "label")
    assert not caplog.records


def test_data_to_measure_with_may_have_any_classes(tmp_path: Path) -> None:
    for number, names in enumerate((["oak"] * 3, ["oak", "ash", "oak"])):
        folder = relabelled(tmp_path / str(number), names)
        config = ClassConditionalConfig(train_data_dir=str(folder))
        assert classes_of(load_target_data(config, 0, tmp_path / "cache", ANY)) == names
    with pytest.raises(DiffTuneError, match="1 class only, oak"):
        load(tmp_path, tmp_path / "0")


def test_more_classes_than_rows_in_use() -> None:
    said = refusal(["a", "b", "c", "d"], rows=3)
    assert said == "The column label has 4 classes for 3 rows; raise --max_train_samples."


@pytest.mark.parametrize("value", [1.5, True, ["oak"], {"name": "oak"}])
def test_a_label_of_the_wrong_type_in_a_metadata_file(value: object, tmp_path: Path) -> None:
    folder = relabelled(tmp_path / "images", ["oak", value, "ash"])
    with pytest.raises(DiffTuneError) as caught:
        load(tmp_path, folder)
    assert f"holds {value!r} of type {type(value).__name__}; a label is a name or a whole number" in sentence(caught)


@pytest.mark.parametrize("value", [..., None, "", "  "])
def test_unlabelled_rows_are_listed(value: object, tmp_path: Path) -> None:
    folder = relabelled(tmp_path / "images", ["oak", value, "ash", value, "oak"])
    with pytest.raises(DiffTuneError) as caught:
        load(tmp_path, folder)
    said = (
        "--label_column: 2 of 5 rows have an empty label or none in the column label: row 1 01.png, row 3 03.png; .*"
    )
    assert re.fullmatch(said, sentence(caught))


# Where labels come from


def test_class_folders(tiny_classes: Path, tmp_path: Path) -> None:
    target = load(tmp_path, tiny_classes)
    assert target.class_names == ["ash", "elm", "oak"]
    assert classes_of(target) == ["ash", "ash", "elm", "elm", "oak", "oak"]
    of = [index for name in target.class_names for index in range(6) if tiny_label(index) == name]
    assert pixels_of(target) == [tiny_image(index)[0].tobytes() for index in of]
    assert target.name(1) == "row 1 04.png"
    assert target.distinct_captions == ["0", "1", "2"], "what stands for a prompt is the id"


def test_class_folders_may_have_folders_and_other_files(tmp_path: Path) -> None:
    folder = save_tiny_classes(tmp_path / "images")
    (folder / "oak" / "more").mkdir()
    tiny_image(6)[0].save(folder / "oak" / "more" / "06.PNG")
    (folder / "LICENSE").touch()
    (folder / "oak" / "notes.txt").touch()
    save_tiny_classes(folder / ".thumbnails")
    assert classes_of(load(tmp_path, folder)) == ["ash", "ash", "elm", "elm", "oak", "oak", "oak"]


def test_class_folders_in_columns_of_other_names(tiny_classes: Path, tmp_path: Path) -> None:
    target = load(tmp_path, tiny_classes, label_column="tree", image_column="photo")
    assert target.class_names == ["ash", "elm", "oak"] and len(pixels_of(target)) == 6


def test_class_folders_that_are_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for index, name in enumerate(["2", "10", "9", "10"]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        tiny_image(index)[0].save(folder / name / f"{index}.png")
    target = load(tmp_path, folder)
    assert target.class_names == ["2", "9", "10"] and classes_of(target) == ["10", "10", "2", "9"]


def test_images_in_no_class_folder_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_classes(tmp_path / "images")
    for name in ("a.png", "b.jpg"):
        tiny_image(0)[0].save(folder / name)
    with pytest.raises(
        DiffTuneError, match="has 2 images, such as a.png, in no class folder; put the images of"
    ) as caught:
        load(tmp_path, folder)
    sentence(caught)
    with pytest.raises(DiffTuneError, match="has 1 images, such as a.png, in no class folder"):
        load(tmp_path, folder / "a.png")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DiffTuneError, match="has no images; put the images of each class into a folder"):
        load(tmp_path, tmp_path / "nothing")


def test_one_class_folder_and_folders_of_splits_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save_tiny_classes(tmp_path / "images" / split)
    with pytest.raises(
        DiffTuneError, match="the folders of .* are test, train, which are no classes; give the one"
    ) as caught:
        load(tmp_path, tmp_path / "images")
    sentence(caught)
    assert load(tmp_path, tmp_path / "images" / "train").class_names == ["ash", "elm", "oak"]
    with pytest.raises(DiffTuneError, match="the column label has 1 class only, oak"):
        save_tiny_classes(tmp_path / "one" / "oak", 1)
        load(tmp_path, tmp_path / "one")


@pytest.mark.parametrize("values", [["oak", "ash", "elm", "oak"], [10, 9, 9, 100]])
def test_metadata_files(values: list, tmp_path: Path) -> None:
    target = load(tmp_path, relabelled(tmp_path / "images", values))
    assert classes_of(target) == [str(value) for value in values]
    assert target.class_names == (["ash", "elm", "oak"] if isinstance(values[0], str) else ["9", "10", "100"])
    assert pixels_of(target) == [tiny_image(index)[0].tobytes() for index in range(4)]

    folder = save_tiny_images(tmp_path / "csv", 4)
    (folder / "metadata.jsonl").unlink()
    with open(folder / "metadata.csv", "w", newline="") as file:
        rows = [["file_name", "label"], *([f"{index:02}.png", value] for index, value in enumerate(values))]
        csv.writer(file).writerows(rows)
    from_csv = load(tmp_path, folder)
    assert classes_of(from_csv) == classes_of(target) and from_csv.class_names == target.class_names


@pytest.mark.parametrize(
    ("values", "feature"),
    [
        (["oak", "ash", "oak"], Value("string")),
        ([7, 3, 7], Value("int32")),
        ([1, 0, 1], ClassLabel(names=["oak", "ash"])),
    ],
)
def test_parquet(values: list, feature: object, tmp_path: Path) -> None:
    images = [tiny_image(index)[0] for index in range(3)]
    (tmp_path / "data").mkdir()
    features = Features({"image": Image(), "kind": feature})
    Dataset.from_dict({"image": images, "kind": values}, features=features).to_parquet(tmp_path / "data/rows.parquet")
    target = load(tmp_path, tmp_path / "data", label_column="kind")
    assert [target.captions(row) for row in range(3)] == [["1"], ["0"], ["1"]]
    assert target.class_names == {"string": ["ash", "oak"], "int32": ["3", "7"]}.get(feature.dtype, ["oak", "ash"])
    with pytest.raises(DiffTuneError, match="--label_column: there is no column label; the columns are image, kind"):
        load(tmp_path, tmp_path / "data")


# The class space


def test_fewer_rows_keep_the_class_space(tmp_path: Path) -> None:
    folder = save_tiny_classes(tmp_path / "images", 12)
    seeds = [load(tmp_path, folder, seed, max_train_samples=3) for seed in range(4)]
    assert all(target.class_names == ["ash", "elm", "oak"] and len(target) == 3 for target in seeds)
    assert any(len(set(classes_of(target))) < 3 for target in seeds), "although some have rows of two classes only"
    whole = dict(zip(pixels_of(load(tmp_path, folder)), classes_of(load(tmp_path, folder))))
    for target in seeds:
        assert classes_of(target) == [whole[pixels] for pixels in pixels_of(target)]


def test_images_left_out_keep_the_class_space(tmp_path: Path) -> None:
    folder = save_tiny_classes(tmp_path / "images")
    for name in ("ash/01.png", "ash/04.png"):
        (folder / name).write_bytes(b"no image")
    target = load(tmp_path, folder, skip_bad_images=True)
    assert target.class_names == ["ash", "elm", "oak"] and classes_of(target) == ["elm", "elm", "oak", "oak"]


def test_the_content_key_knows_labels_and_names(tmp_path: Path) -> None:
    keys = [
        load(tmp_path, relabelled(tmp_path / f"{index}", values)).content_key
        for index, values in enumerate((["a", "b", "a"], ["a", "b", "b"], ["a", "c", "a"], ["a", "b", "a"]))
    ]
    assert keys[0] == keys[3] and len(set(keys)) == 3
