# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Only the split named train is trained on, by either flag, and what is held out is what is measured by."""

import dataclasses
import json
import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value

from diffusers_difftune.cli.data import open_data
from diffusers_difftune.config import ClassConditionalConfig, DataConfig, TextToImageConfig
from diffusers_difftune.data.dataset import TargetData, load_target_data
from diffusers_difftune.data.stream import StreamedTarget
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.training.evaluation import open_held_out
from tests.tiny import save_tiny_classes, save_tiny_images, tiny_image


def table(split: str, count: int = 2) -> Dataset:
    features = Features({"image": Image(), "text": Value("string")})
    rows = {"image": [tiny_image(row)[0] for row in range(count)], "text": [f"{split} {row}" for row in range(count)]}
    return Dataset.from_dict(rows, features=features)


def parquet(folder: Path, *files: str) -> Path:
    """Parquet files of two rows each, whose captions are the files' names."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        table(file).to_parquet(folder / file)
    return folder


def images(folder: Path, *inner: str, count: int = 2) -> Path:
    """Folders of images with a metadata.jsonl each, whose captions are the folders' names."""
    for name in inner:
        save_tiny_images(folder / name, count, captions=rows_of(name, count=count))
    return folder


def text_files(folder: Path, *inner: str) -> Path:
    """The same with a text file beside each image."""
    for name in inner:
        images(folder, name)
        (folder / name / "metadata.jsonl").unlink()
        for row in range(2):
            (folder / name / f"{row:02}.txt").write_text(f"{name} {row}")
    return folder


def one_metadata(folder: Path, *inner: str) -> Path:
    """One metadata.jsonl for images in several folders."""
    lines = []
    for name in inner:
        images(folder, name)
        (folder / name / "metadata.jsonl").unlink()
        lines += [json.dumps({"file_name": f"{name}/{row:02}.png", "text": f"{name} {row}"}) for row in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def saved(folder: Path, *splits: str) -> Path:
    """What `save_to_disk` writes."""
    DatasetDict({split: table(split) for split in splits}).save_to_disk(folder)
    return folder


def load(cache_dir: Path, wanted: str = "train", **flags) -> TargetData:
    config = DataConfig(**{name: str(value) for name, value in flags.items()})
    return load_target_data(config, 0, cache_dir / "cache", *([] if wanted == "train" else [wanted]))


def captions_of(target: TargetData) -> list[str]:
    return [target.captions(row)[0] for row in range(len(target))]


def rows_of(*names: str, count: int = 2) -> list[str]:
    return [f"{name} {row}" for name in names for row in range(count)]


SHARDS = [f"data/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")]
# What lies in a folder, and what of it is trained on.
LAYOUTS: dict[str, tuple[Callable[..., Path], list[str], list[str]]] = {
    "shards as push_to_hub names them": (parquet, SHARDS, SHARDS[1:2]),
    "a split of another name among shards": (
        parquet,
        ["data/train-00000-of-00001.parquet", "data/unseen-00000-of-00001.parquet"],
        ["data/train-00000-of-00001.parquet"],
    ),
    "shards in the folder itself": (parquet, ["eval-1.parquet", "train-1.parquet"], ["train-1.parquet"]),
    "folders of Parquet files": (parquet, ["dev/0.parquet", "training/0.parquet"], ["training/0.parquet"]),
    "the Hub's own copy": (
        parquet,
        ["default/test/0000.parquet", "default/train/0000.parquet", "default/train/0001.parquet"],
        ["default/train/0000.parquet", "default/train/0001.parquet"],
    ),
    "the Hub's own copy of a part": (
        parquet,
        ["default/partial-heldout/0000.parquet", "default/partial-train/0000.parquet"],
        ["default/partial-train/0000.parquet"],
    ),
    "folders with metadata": (images, ["test", "train", "validation"], ["train"]),
    "folders with metadata, deeper": (
        images,
        ["v1/my_eval", "v1/train-a", "v1/train-b"],
        ["v1/train-a", "v1/train-b"],
    ),
    "folders in capitals": (images, ["Test", "Train"], ["Train"]),
    "metadata above folders": (one_metadata, ["test", "train"], ["train"]),
    "folders with text files": (text_files, ["test", "train"], ["train"]),
    "as save_to_disk writes it": (saved, ["test", "train"], ["train"]),
    "files of no split beside those to train on": (
        parquet,
        ["flowers_rest.parquet", "flowers_train.parquet"],
        ["flowers_train.parquet"],
    ),
    # nothing is held out here, so all of it is trained on
    "two folders for training": (images, ["train", "train_aug"], ["train", "train_aug"]),
    "words that are no words of splits": (images, ["latest", "retrain", "valley"], ["latest", "retrain", "valley"]),
    "shards of one data set": (
        parquet,
        ["data/flowers-00000-of-00002.parquet", "data/flowers-00001-of-00002.parquet"],
        ["data/flowers-00000-of-00002.parquet", "data/flowers-00001-of-00002.parquet"],
    ),
    "one metadata file for more than train": (one_metadata, ["boat", "train"], ["boat", "train"]),
    "held-out images beside those to train on": (images, ["pictures", "pictures/test"], ["pictures"]),
}
# what `datasets` does not read, or reads otherwise; open_named says so
BY_FOLDER_ALONE = {
    "folders in capitals",
    "metadata above folders",
    "one metadata file for more than train",
    "folders with text files",
    "as save_to_disk writes it",
    "shards of one data set",
    "held-out images beside those to train on",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_split_train_is_trained_on(layout: str, tmp_path: Path) -> None:
    make, names, trained = LAYOUTS[layout]
    folder = make(tmp_path / "test" / "data", *names)  # what the folder itself lies in has no say
    target = load(tmp_path, train_data_dir=folder)
    assert captions_of(target) == rows_of(*trained)
    counted = {True: 0, False: 0}
    for file in target.report.files:
        counted[file.used] += file.rows
    assert counted == {True: 2 * len(trained), False: 2 * (len(names) - len(trained))}
    if layout not in BY_FOLDER_ALONE:
        named = load(tmp_path, dataset_name=folder)
        assert sorted(captions_of(named)) == sorted(rows_of(*trained)), "the other flag reads the same"
        assert sum(file.rows for file in named.report.files if file.used) == 2 * len(trained)
    else:
        with pytest.raises(DiffTuneError, match="--dataset_name.*(--train_data_dir|no split named train)"):
            load(tmp_path, dataset_name=folder)


@pytest.mark.parametrize(
    "layout", ["shards as push_to_hub names them", "folders with metadata", "metadata above folders"]
)
def test_a_stream_has_the_split_train(layout: str, tmp_path: Path) -> None:
    make, names, trained = LAYOUTS[layout]
    folder = make(tmp_path / "data", *names)
    target = StreamedTarget(DataConfig(train_data_dir=str(folder), streaming=True), 0, tmp_path / "cache")
    assert sorted(target.first_captions(6)) == rows_of(*trained)
    assert sum(file.rows for file in target.report.files if not file.used) == 2 * (len(names) - len(trained))


def test_what_is_held_out_is_said(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", "diffusers_difftune")
    target = load(tmp_path, train_data_dir=parquet(tmp_path / "data", *SHARDS))
    target.report.tell(logging.getLogger("diffusers_difftune"))
    assert (
        "Rows used: 2 of train (data/train-00000-of-00001.parquet); left out: 2 of test"
        " (data/test-00000-of-00001.parquet), 2 of validation (data/validation-00000-of-00001.parquet)." in caplog.text
    )


def test_files_of_no_split_that_are_left_out_are_warned_of(tmp_path: Path, caplog) -> None:
    target = load(tmp_path, train_data_dir=images(tmp_path / "data", "train", "more"))
    target.report.tell(logging.getLogger("diffusers_difftune"))
    assert "2 of train (train/metadata.jsonl); left out: 2 of no split (more/metadata.jsonl)." in caplog.text
    with pytest.raises(
        DiffTuneError, match="has the split train and files of no split; give the folder or the file of the"
    ):
        load(tmp_path, "held-out", train_data_dir=tmp_path / "data")


def test_a_file_or_a_folder_that_is_given_itself_is_read_whole(tmp_path: Path) -> None:
    parquet(tmp_path / "data", *SHARDS)
    assert captions_of(load(tmp_path, train_data_dir=tmp_path / "data" / SHARDS[0])) == rows_of(SHARDS[0])
    images(tmp_path / "images", "test", "train")
    assert captions_of(load(tmp_path, train_data_dir=tmp_path / "images" / "test")) == rows_of("test")
    one = one_metadata(tmp_path / "one", "test", "train")
    assert captions_of(load(tmp_path, train_data_dir=one / "metadata.jsonl")) == rows_of("test", "train")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "only a split that is held out": (
        lambda folder: images(folder, "test"),
        "has no split train, but test .test/metadata.jsonl for one.; to train on it, give the folder or the file itself",
    ),
    "only Parquet files that are held out": (
        lambda folder: parquet(folder, SHARDS[0], SHARDS[2]),
        "has no split train, but test, validation",
    ),
    "a folder of two splits": (
        lambda folder: images(folder, "train", "train_test"),
        "train_test of .*/train_test/metadata.jsonl names the splits train and test; rename it, or give",
    ),
    "save_to_disk without train": (
        lambda folder: saved(folder, "test"),
        "has no split named train; its splits are test",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_split_to_train_on_is_refused(case: str, tmp_path: Path) -> None:
    make, said = REFUSED[case]
    make(tmp_path / "data")
    with pytest.raises(DiffTuneError, match=f"^--train_data_dir: .*{said}"):
        load(tmp_path, train_data_dir=tmp_path / "data")


# --- configurations ---

COPIES = [f"{name}/{split}/0000.parquet" for name in ("large", "small") for split in ("test", "train")]


@pytest.mark.parametrize("flag", ["train_data_dir", "dataset_name"])
def test_configurations_are_chosen(flag: str, tmp_path: Path) -> None:
    flags = {flag: parquet(tmp_path / "data", *COPIES)}
    with pytest.raises(
        DiffTuneError, match="has the configurations large, small; choose one with --dataset_config_name"
    ):
        load(tmp_path, **flags)
    assert captions_of(load(tmp_path, **flags, dataset_config_name="small")) == rows_of("small/train/0000.parquet")
    with pytest.raises(
        DiffTuneError, match="--dataset_config_name is huge, and .* has the configurations large, small"
    ):
        load(tmp_path, **flags, dataset_config_name="huge")


def test_a_configuration_of_data_that_have_none(tmp_path: Path) -> None:
    for folder in (images(tmp_path / "images", "a"), parquet(tmp_path / "parquet", "a.parquet")):
        with pytest.raises(
            DiffTuneError, match="--dataset_config_name is a, and .* has no configurations; leave the flag"
        ):
            load(tmp_path, train_data_dir=folder, dataset_config_name="a")


def card(folder: Path, *configurations: str) -> None:
    """A data set's card that declares configurations, a line of YAML for each."""
    (folder / "README.md").write_text(
        "\n".join(["---", "configs:", *(f"- {each}" for each in configurations), "---", ""])
    )


ONE = "{config_name: one, %sdata_files: [{split: train, path: a.parquet}, {split: test, path: [b.*]}]}"
TWO = "{config_name: two, data_files: c.parquet}"


@pytest.mark.parametrize("flag", ["train_data_dir", "dataset_name"])
def test_the_card_declares_configurations_and_splits(flag: str, tmp_path: Path) -> None:
    folder = parquet(tmp_path / "data", "a.parquet", "b.parquet", "c.parquet")
    card(folder, ONE % "", TWO)
    assert captions_of(load(tmp_path, **{flag: folder}, dataset_config_name="one")) == rows_of("a.parquet")
    assert captions_of(load(tmp_path, **{flag: folder}, dataset_config_name="two")) == rows_of("c.parquet")
    with pytest.raises(DiffTuneError, match="has the configurations one, two; choose one with --dataset_config_name"):
        load(tmp_path, **{flag: folder})
    card(folder, ONE % "default: true, ", TWO)
    assert captions_of(load(tmp_path, **{flag: folder})) == rows_of("a.parquet")


def test_the_card_declares_folders(tmp_path: Path) -> None:
    for make in (parquet, images):
        files = {
            parquet: ["x/0.parquet", "y/train-0.parquet", "y/test-0.parquet"],
            images: ["x", "y/train", "y/test"],
        }[make]
        folder = make(tmp_path / make.__name__, *files)
        card(folder, "{config_name: one, data_dir: x}", "{config_name: two, data_dir: y}")
        assert captions_of(load(tmp_path, train_data_dir=folder, dataset_config_name="two")) == rows_of(files[1])
        with pytest.raises(DiffTuneError, match="has the configurations one, two; choose one with"):
            load(tmp_path, train_data_dir=folder)


def test_a_card_names_no_files_elsewhere(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "data", "a.parquet")
    parquet(tmp_path / "other", "b.parquet")
    paths = ["../other/*", str(tmp_path / "other" / "b.parquet"), "hf://datasets/user/data/*"]
    card(folder, f"{{config_name: one, data_files: {json.dumps(paths)}}}")
    assert captions_of(load(tmp_path, train_data_dir=folder)) == rows_of("a.parquet")
    (folder / "README.md").write_text("---\nconfigs: 3\n---\n")
    with pytest.raises(DiffTuneError, match="^--train_data_dir: .*/README.md declares no readable data: "):
        load(tmp_path, train_data_dir=folder)


# --- what is measured by ---


@pytest.mark.parametrize("make", [parquet, images, saved])
def test_what_is_held_out_is_measured_by(make: Callable[..., Path], tmp_path: Path) -> None:
    names = {parquet: SHARDS, images: ["test", "train", "validation"], saved: ["test", "train", "validation"]}[make]
    two = make(tmp_path / "two", *names[:2])
    assert captions_of(load(tmp_path, "held-out", train_data_dir=two)) == rows_of(names[0])
    assert captions_of(load(tmp_path, "any", train_data_dir=two)) == rows_of(names[1])
    with pytest.raises(DiffTuneError, match="has the splits test, validation; give"):
        load(tmp_path, "held-out", train_data_dir=make(tmp_path / "three", *names))
    for wanted in ("held-out", "any"):  # of one split only, whichever that is
        for number in (0, 1):
            only = make(tmp_path / f"{wanted}{number}", names[number])
            assert captions_of(load(tmp_path, wanted, train_data_dir=only)) == rows_of(names[number])


def test_a_data_set_is_measured_by_its_held_out_split(tmp_path: Path) -> None:
    folder = images(tmp_path / "data", "test", "train")
    assert captions_of(load(tmp_path, "held-out", dataset_name=folder)) == rows_of("test")
    assert captions_of(load(tmp_path, "any", dataset_name=folder)) == rows_of("train")


def test_evaluation_data_are_the_held_out_ones_of_the_training_folder(tmp_path: Path) -> None:
    folder = images(tmp_path / "data", "test", "train", count=8)
    config = TextToImageConfig(train_data_dir=folder, cache_dir=tmp_path / "cache")

    def held_out(place: Path) -> TargetData:
        flags = dataclasses.replace(config, evaluation_data=str(place), evaluation_samples=8)
        return open_held_out(SimpleNamespace(config=flags, seed=0), "evaluation")

    assert captions_of(held_out(folder)) == rows_of("test", count=8)
    images(folder, "val", count=8)
    with pytest.raises(DiffTuneError, match="^--evaluation_data: .* has the splits test, validation; give the folder"):
        held_out(folder)
    assert captions_of(held_out(folder / "val")) == rows_of("val", count=8)


def test_commands_that_measure_read_what_is_held_out(tmp_path: Path) -> None:
    arguments = Namespace(
        dataset_config_name=None,
        image_column="image",
        caption_column="text",
        skip_bad_images=False,
        cache_dir=tmp_path,
    )
    folder = str(images(tmp_path / "data", "test", "train"))
    for flag, split in (("DATA", "test"), ("--floor_data", "train"), ("--source", "train")):
        assert captions_of(open_data(arguments, flag, folder, SimpleNamespace(classes=None))) == rows_of(split), flag
        assert captions_of(open_data(arguments, flag, f"{folder}/test", SimpleNamespace(classes=None))) == rows_of(
            "test"
        ), flag
    images(tmp_path / "data", "val")
    with pytest.raises(DiffTuneError, match="^DATA: .* has the splits test, validation; give the folder"):
        open_data(arguments, "DATA", folder, SimpleNamespace(classes=None))


# --- folders of classes ---


@pytest.mark.parametrize("names", [["train", "train_aug"], ["train", "test"], ["Train", "Val"]])
def test_splits_are_no_classes(names: list[str], tmp_path: Path) -> None:
    for name in names:
        save_tiny_classes(tmp_path / "data" / name)
    with pytest.raises(DiffTuneError, match=f"are {', '.join(sorted(names))}, which are no classes"):
        load_target_data(ClassConditionalConfig(train_data_dir=str(tmp_path / "data")), 0, tmp_path / "cache")


def test_a_split_among_classes_is_refused_and_a_train_is_a_train(tmp_path: Path) -> None:
    folder = save_tiny_classes(tmp_path / "data")
    (folder / "ash").rename(folder / "train")
    assert load_target_data(ClassConditionalConfig(train_data_dir=str(folder)), 0, tmp_path / "cache").class_names == [
        "elm",
        "oak",
        "train",
    ]
    (folder / "train").rename(folder / "Test")
    with pytest.raises(
        DiffTuneError, match="has the folder Test beside 2 others, as if a class were called so; move it"
    ):
        load_target_data(ClassConditionalConfig(train_data_dir=str(folder)), 0, tmp_path / "cache")
