# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Rows are encoded once: when data change, only what is new is encoded, and what is found is as if all had been encoded anew."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, Value

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.config import DataConfig
from diffusers_difftune.data.cache.encodings import build_image_cache, build_prompt_cache
from diffusers_difftune.data.dataset import load_target_data
from tests.data.counting import count_encoded
from tests.tiny import save_tiny_images, tiny_image


WIDE = (24, 16)  # cropped, at a place that is drawn for each image


@pytest.fixture(scope="module")
def backbone(tiny_pipeline):
    return count_encoded(load_backbone(tiny_pipeline, resolution=16))


def build(backbone, place: Path, cache_dir: Path):
    """The target data, their cached images and prompts, and how many of these were encoded now."""
    config = DataConfig(train_data_dir=str(place), resolution=16, crops_per_image=1)
    target = load_target_data(config, 0, cache_dir)
    backbone.images = backbone.prompts = 0
    images = build_image_cache(target, backbone, config, cache_dir)
    prompts = build_prompt_cache(target.distinct_captions, backbone, cache_dir)
    return target, images, prompts, (backbone.images, backbone.prompts)


@pytest.fixture(scope="module")
def built(backbone, tmp_path_factory):
    """A folder of 16 images and captions, and a cache of them."""
    folder = tmp_path_factory.mktemp("built")
    save_tiny_images(folder / "images", 16, WIDE)
    *_, encoded = build(backbone, folder / "images", folder / "cache")
    assert encoded == (16, 16)
    return folder


def nothing(folder: Path, rows: list[dict]) -> list[dict]:
    return rows


def caption_edited(folder: Path, rows: list[dict]) -> list[dict]:
    rows[3]["text"] = "something else"
    return rows


def caption_shared(folder: Path, rows: list[dict]) -> list[dict]:
    rows[3]["text"] = rows[4]["text"]
    return rows


def added(folder: Path, rows: list[dict]) -> list[dict]:
    tiny_image(30, WIDE)[0].save(folder / "new.png")
    return [*rows, {"file_name": "new.png", "text": rows[0]["text"]}]


def added_in_front(folder: Path, rows: list[dict]) -> list[dict]:
    added(folder, rows)
    return [{"file_name": "new.png", "text": "a new one"}, *rows]


def image_edited(folder: Path, rows: list[dict]) -> list[dict]:
    tiny_image(31, WIDE)[0].save(folder / "05.png")
    return rows


def removed(folder: Path, rows: list[dict]) -> list[dict]:
    (folder / "00.png").unlink()
    return rows[1:]


def reversed_order(folder: Path, rows: list[dict]) -> list[dict]:
    return rows[::-1]


def twice(folder: Path, rows: list[dict]) -> list[dict]:
    shutil.copy(folder / "07.png", folder / "copy.png")
    return [*rows, {"file_name": "copy.png", "text": rows[7]["text"]}]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (nothing, (0, 0)),
        (caption_edited, (0, 1)),
        (caption_shared, (0, 0)),
        (added, (1, 0)),
        (added_in_front, (1, 1)),
        (image_edited, (1, 0)),
        (removed, (0, 0)),
        (reversed_order, (0, 0)),
        (twice, (0, 0)),
    ],
)
def test_only_new_rows_are_encoded(backbone, built, tmp_path, change, expected):
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "images"
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    rows = change(folder, rows)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    target, images, prompts, encoded = build(backbone, folder, tmp_path / "cache")
    assert encoded == expected
    _, fresh_images, fresh_prompts, encoded = build(backbone, folder, tmp_path / "fresh")
    assert encoded == (
        len({target.image(row).tobytes() for row in range(len(rows))}),
        len({row["text"] for row in rows}),
    )
    assert len(images) == len(fresh_images) == len(rows)
    for row in range(len(rows)):
        assert images.coordinates(row) == fresh_images.coordinates(row)
        assert all(map(torch.equal, images.posterior(row), fresh_images.posterior(row))), "to the last bit"
    for caption in target.distinct_captions:
        encoding = prompts[caption]["encoder_hidden_states"]
        assert torch.equal(encoding, fresh_prompts[caption]["encoder_hidden_states"])
    assert len({images.coordinates(row)[1] for row in range(len(rows))}) > 3, "each image has a crop of its own"


def test_the_same_images_inside_parquet_are_found_and_hashed_once(backbone, built, tmp_path):
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "images"
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    content = [{"bytes": (folder / row["file_name"]).read_bytes(), "path": None} for row in rows]
    data = Dataset.from_dict(
        {"image": content, "text": [row["text"] for row in rows]},
        features=Features({"image": Image(decode=False), "text": Value("string")}),
    )
    for part in range(2):  # two files
        data.shard(2, part, contiguous=True).to_parquet(tmp_path / "data" / f"{part}.parquet")
    target, images, _, encoded = build(backbone, tmp_path / "data", tmp_path / "cache")
    assert encoded == (0, 0)
    (remembered,) = (tmp_path / "cache" / "difftune" / "row_hashes").iterdir()
    whole = remembered.read_bytes()
    remembered.write_bytes(whole[:-512] + bytes(512))
    again = build(backbone, tmp_path / "data", tmp_path / "cache")[0]
    assert again.images.hashes == ["00" * 32] * 16, "what is remembered is believed"
    for damage in (b"", whole[:-1], b"?" * 999):
        remembered.write_bytes(damage)
        again = load_target_data(
            DataConfig(train_data_dir=str(tmp_path / "data"), resolution=16), 0, tmp_path / "cache"
        )
        assert again.images.hashes == target.images.hashes
        assert remembered.read_bytes() == whole
    some = DataConfig(train_data_dir=str(tmp_path / "data"), resolution=16, max_train_samples=5)
    chosen = load_target_data(some, 0, tmp_path / "cache").images
    assert set(chosen.hashes) < set(target.images.hashes) and len(chosen.hashes) == 5


def test_rows_of_many_edits_are_found(backbone, tmp_path):
    """Each edit adds a file."""
    backbone.prompts = 0
    for count in range(1, 5):
        cache = build_prompt_cache([str(number) for number in range(count)], backbone, tmp_path)
    assert len(list(tmp_path.rglob("*.arrow"))) == 4 and backbone.prompts == 4
    fresh = build_prompt_cache([str(number) for number in range(4)], backbone, tmp_path / "fresh")
    for number in range(4):
        one, other = cache[str(number)], fresh[str(number)]
        assert torch.equal(one["encoder_hidden_states"], other["encoder_hidden_states"])
