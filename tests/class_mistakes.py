# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Mistakes with the class-conditional script, one a row, as `test_bad_input.py` has them for all scripts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import datasets

from tests.tiny import save_tiny_classes, save_tiny_dit_pipeline, save_tiny_images, tiny_image


if TYPE_CHECKING:
    from tests.test_bad_input import Place

MODEL, DATA, RESUME = "pretrained_model_name_or_path", "train_data_dir", "resume_from_checkpoint"


def labelled(place: "Place", *labels: object) -> Path:
    """A folder of images with these labels in its metadata; `...` leaves one out. All are the same few files."""
    folder = save_tiny_images(place.folder / "data", 3)
    names = [f"{index % 3:02}.png" for index in range(len(labels))]
    lines = [{"file_name": name} | ({} if label is ... else {"label": label}) for name, label in zip(names, labels)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def parquet(place: "Place", labels: list, feature: object = None) -> Path:
    """A Parquet file of images and labels."""
    data = datasets.Dataset.from_dict(
        {"image": [tiny_image(index)[0] for index in range(len(labels))], "label": labels}
    )
    (place.folder / "data").mkdir()
    if feature is not None:
        data = data.cast_column("label", feature)
    data.to_parquet(place.folder / "data" / "train.parquet")
    return place.folder / "data"


def loose(place: "Place") -> Path:
    folder = save_tiny_classes(place.folder / "data")
    tiny_image(0)[0].save(folder / "stray.png")
    return folder


def splits(place: "Place") -> Path:
    for split in ("train", "test"):
        save_tiny_classes(place.folder / "data" / split)
    return place.folder / "data"


def damaged(place: "Place") -> Path:
    folder = save_tiny_classes(place.folder / "data")
    (folder / "elm" / "02.png").write_text("not an image")
    return folder


def edited(place: "Place", file: str, **values: object) -> Path:
    """A copy of the pipeline with other values in one of its configs."""
    copy = place.copy(place.dit)
    (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | values))
    return copy


def prompts(place: "Place", *lines: str) -> Path:
    file = place.folder / "prompts.txt"
    file.write_text("\n".join(lines))
    return file


def learned(place: "Place") -> Path:
    return place.once("learned", lambda folder: save_tiny_dit_pipeline(folder, learned_variance=True))


NO_CLASS = "--bank_prompts: '{}' is no class of .*; give ids from 0 to 999, or names of its id2label"

# What is wrong: the flags that make it so, or a function of the place that returns them, and what the script says.
ROWS: dict[str, tuple] = {
    # flags
    "captions": ({"caption_column": "text"}, "Unrecognized arguments: --caption_column text"),
    "stream": ({"streaming": True}, "Unrecognized arguments: --streaming"),
    "dropout above 1": (
        {"class_dropout_prob": 1.5},
        "--class_dropout_prob is 1.5; it must be at least 0 and at most 1",
    ),
    "another resolution": (
        {"resolution": 32},
        "--resolution is 32; this model makes images of 16 pixels only",
    ),
    "validation of a class that is not there": (
        {"validation_classes": ["oak", "yew"]},
        "--validation_classes: there is no class yew in the target data; the classes are ash, elm, oak",
    ),
    # the model
    "text-to-image model": (
        lambda place: {MODEL: place.pipeline},
        f"--{MODEL} is a StableDiffusionPipeline, which is conditioned on prompts; this script trains models that are"
        " conditioned on classes",
    ),
    "null class elsewhere": (
        lambda place: {MODEL: edited(place, "transformer/config.json", num_embeds_ada_norm=10)},
        f"--{MODEL}: the transformer of .* has num_embeds_ada_norm 10; DiTPipeline works with 1000 only",
    ),
    "classes without numbers": (
        lambda place: {MODEL: edited(place, "model_index.json", id2label={"cat": 0})},
        f"--{MODEL}: .* is not a whole pipeline: .*'cat'",
    ),
    "learned variance beside the velocity": (
        lambda place: {MODEL: learned(place), "prediction_type": "v_prediction"},
        "The model learns its variance, which is trained beside the prediction epsilon, not v_prediction",
    ),
    # labels
    "files without labels": (
        lambda place: {DATA: loose(place)},
        "--train_data_dir: .* has 1 images, such as stray.png, in no class folder; put the images of each class .*",
    ),
    "rows without labels": (
        lambda place: {DATA: labelled(place, "oak", ..., "ash", "")},
        "--label_column: 2 of 4 rows have an empty label or none in the column label: row 1 01.png, row 3 00.png; .*",
    ),
    "metadata without labels": (
        lambda place: {DATA: place.images},
        "--label_column: .*/metadata.jsonl has no column label; the columns are file_name, text",
    ),
    "dataset without labels": (
        lambda place: {DATA: None, "dataset_name": place.images},
        "--label_column: there is no column label; the columns are image, text; this is what `datasets` makes of the folder,"
        r" --train_data_dir \S+ has other rules",
    ),
    "folder without images": (
        lambda place: {DATA: place.folder},
        "--train_data_dir: .* has no images; put the images of each class into a folder named for it, or write a .*",
    ),
    "folders of splits": (
        lambda place: {DATA: splits(place)},
        "--train_data_dir: the folders of .* are test, train, which are no classes; give the one of them that has .*",
    ),
    "one class": (
        lambda place: {DATA: labelled(place, "oak", "oak", "oak")},
        "--label_column: the column label has 1 class only, oak; a class-conditional model needs two",
    ),
    "one class folder": (
        lambda place: {DATA: save_tiny_classes(place.folder / "data", 1)},
        "--label_column: the column label has 1 class only, oak; a class-conditional model needs two",
    ),
    "rows of one class": (
        lambda place: {DATA: parquet(place, [1, 1, 1], datasets.ClassLabel(names=["ash", "elm", "oak"]))},
        r"--label_column: of 3 classes only elm has rows in the target data \(3 in use\); a class-conditional model .*",
    ),
    "rows in use of one class": (
        lambda place: {DATA: parquet(place, [1, 1, 1, 1, 1, 0], datasets.ClassLabel(2)), "max_train_samples": 2},
        r"--label_column: of 2 classes only 1 has rows in the target data \(2 in use\); a class-conditional model .*",
    ),
    "more classes than rows": (
        lambda place: {DATA: parquet(place, [0, 1, 0], datasets.ClassLabel(num_classes=9))},
        "--label_column: the column label has 9 classes for 3 rows; give the column that has the labels",
    ),
    "more classes than rows in use": (
        {"max_train_samples": 2},
        "--label_column: the column label has 3 classes for 2 rows; raise --max_train_samples",
    ),
    "too many classes": (
        lambda place: {DATA: labelled(place, *range(1001))},
        "--label_column: the column label has 1001 classes; a class table has room for 1000",
    ),
    "two classes of one name": (
        lambda place: {DATA: labelled(place, "oak", "oak ", "ash")},
        "--label_column: 2 classes of the column label are called oak",
    ),
    "numbers that are not whole": (
        lambda place: {DATA: parquet(place, [0.5, 1.5, 0.5])},
        "--label_column: the column label holds float; a label is a name or a whole number",
    ),
    "several labels": (
        lambda place: {DATA: labelled(place, "oak", ["ash", "elm"])},
        r"--label_column: the column label holds \['ash', 'elm'\] of type list; a label is a name or a whole number",
    ),
    "damaged image of a class": (
        lambda place: {DATA: damaged(place)},
        r"--train_data_dir: 1 of 6 images cannot be read: row 2 02.png \(.*\); repair or remove them, or leave .*",
    ),
    # the knowledge bank
    "bank of captions": (
        {"bank_prompts": "captions"},
        "--bank_prompts: there is no file 'captions'; give classes, empty, a text file .*",
    ),
    "bank of a class that is not there": (
        lambda place: {"bank_prompts": prompts(place, "dog", "a green bar")},
        NO_CLASS.format("a green bar"),
    ),
    "bank of the null class by its number": (
        lambda place: {"bank_prompts": prompts(place, "7", "1000")},
        NO_CLASS.format("1000"),
    ),
    # checkpoints
    "checkpoint of a text-to-image run": (
        lambda place: {RESUME: place.finished / "checkpoint-2"},
        "--resume_from_checkpoint .* belongs to another run: .*; use the same settings or .*",
    ),
}
