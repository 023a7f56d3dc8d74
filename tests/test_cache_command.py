# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune cache list | clean`: what is in the cache, what of it is of no use, and that nothing else goes."""

import os
import re
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, Value

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.cli import main
from diffusers_difftune.config import DataConfig
from diffusers_difftune.data.cache import in_use
from diffusers_difftune.data.cache.encodings import build_image_cache, build_prompt_cache, data_name
from diffusers_difftune.data.dataset import load_target_data
from tests.data.counting import count_encoded
from tests.tiny import save_tiny_images


@pytest.fixture(scope="module")
def backbone(tiny_pipeline):
    return count_encoded(load_backbone(tiny_pipeline, resolution=16))


def encode(backbone, place: Path, cache_dir: Path):
    """What a run does with its data; how many images and prompts it encoded, and the caches."""
    config = DataConfig(train_data_dir=str(place), resolution=16)
    target = load_target_data(config, 0, cache_dir)
    backbone.images = backbone.prompts = 0
    images = build_image_cache(target, backbone, config, cache_dir)
    prompts = build_prompt_cache(target.distinct_captions, backbone, cache_dir, data=data_name(config))
    return (backbone.images, backbone.prompts), images, prompts


def edit(folder: Path, old: str, new: str) -> None:
    metadata = folder / "metadata.jsonl"
    assert old in metadata.read_text()
    metadata.write_text(metadata.read_text().replace(old, new))


def files(folder: Path) -> dict[str, int]:
    """All files but locks, with their sizes."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path.relative_to(folder)): path.stat().st_size for path in found}


class Room:
    """A cache of two folders of images, and the command on it."""

    def __init__(self, backbone, folder: Path, capsys) -> None:
        self.backbone, self.cache, self.capsys = backbone, folder / "cache", capsys
        self.one, self.two = save_tiny_images(folder / "one", 6), save_tiny_images(folder / "two", 3)
        for place in (self.one, self.two):
            self.encode(place)

    def encode(self, place: Path) -> tuple[int, int]:
        return encode(self.backbone, place, self.cache)[0]

    def __call__(self, command: str, *words: object) -> str:
        assert main(["cache", command, "--cache_dir", str(self.cache), *map(str, words)]) == 0
        return self.capsys.readouterr().out

    def age(self, place: Path, days: float) -> None:
        """Makes the last run on some data as long ago as this."""
        for file in self.cache.rglob("used_by/*"):
            if str(place).encode() in file.read_bytes():
                os.utime(file, (time.time() - days * 86400,) * 2)


@pytest.fixture
def room(backbone, tmp_path, capsys):
    return Room(backbone, tmp_path, capsys)


def test_list_says_what_belongs_to_what(room):
    told = room("list")
    today = time.strftime("%Y-%m-%d")
    of = f"of {room.one} (6), {room.two} (3)", f"of {room.two} (3), {room.one} (6)"
    for title in ("6 images at 16 px in float32", "6 prompts in float32"):
        (line,) = [line for line in told.splitlines() if title in line]
        assert (
            f"{title} by {room.backbone.folder}, {of[0]}" in line
            or f"{title} by {room.backbone.folder}, {of[1]}" in line
        )
        assert today in line and re.match(r" *[\d.]+ (bytes|KB|MB)  ", line)
    assert "which images can be read" in told and "hashes of files" in told
    assert "no data any more" not in told
    edit(room.one, "number 5", "number fifty")  # a caption that only this folder had
    assert room.encode(room.one) == (0, 1)
    assert "7 prompts" in room("list") and "; 1 of them of no data any more" in room("list")


def test_clean_says_what_it_would_do_and_does_it_when_told(room):
    assert room("clean", "--yes").startswith("There is nothing to remove in ")
    edit(room.one, "number 5", "number fifty")
    room.encode(room.one)
    before = files(room.cache)
    told = room("clean")
    assert "1 of 7 prompts in float32" in told and "would be freed; --yes removes it." in told
    assert files(room.cache) == before
    said = re.search(r"([\d.]+) KB would", told)
    told = room("clean", "--yes")
    assert "1 of 7 prompts in float32" in told and told.endswith(" were freed.\n")
    freed = sum(before.values()) - sum(files(room.cache).values())
    assert abs(freed - 1000 * float(said[1])) < 1500, "about what was said"
    assert room.encode(room.one) == room.encode(room.two) == (0, 0), "all that is used is still there"
    assert room("clean").startswith("There is nothing to remove in ")


def test_what_is_left_of_a_cleaned_cache_is_what_it_was(room):
    fresh, _, expected = encode(room.backbone, room.one, room.cache.with_name("fresh"))
    edit(room.one, "number 4", "number forty")
    room.encode(room.one)
    room("clean", "--yes")
    edit(room.one, "number forty", "number 4")
    encoded, _, prompts = encode(room.backbone, room.one, room.cache)
    assert fresh == (6, 6) and encoded == (0, 1), "what was removed is encoded again"
    for number in range(6):
        prompt = next(prompt for prompt in expected._index if prompt.endswith(f"number {number}"))
        assert torch.equal(prompts[prompt]["encoder_hidden_states"], expected[prompt]["encoder_hidden_states"])


def test_what_a_running_process_uses_is_left_alone(room):
    edit(room.one, "number 5", "number fifty")
    _, _, prompts = encode(room.backbone, room.one, room.cache)
    before = files(room.cache)
    for words in ([], ["--yes"], ["--yes", "--older_than", 0, "--model", room.backbone.folder]):
        told = room("clean", *words)
        assert re.search(r"prompts in float32 .*: left alone, because a running process uses it", told)
        assert {name: size for name, size in before.items() if "prompts" in name}.items() <= files(room.cache).items()
    del prompts
    assert "left alone" not in room("clean", "--yes")


def test_what_was_not_used_for_long_goes(room):
    room.age(room.one, 40)
    assert room("clean", "--older_than", 41).startswith("There is nothing")
    told = room("clean", "--older_than", 30, "--yes")
    assert "3 of 6 images" in told and "3 of 6 prompts" in told, "the other three are of data that were used today"
    assert room.encode(room.two) == (0, 0)
    room.age(room.two, 31)
    assert "3 images at 16 px" in room("clean", "--older_than", 30, "--yes")
    assert not list(room.cache.rglob("*.arrow")) and not list(room.cache.rglob("used_by"))
    assert room.encode(room.one) == (6, 6)


def test_only_what_a_model_encoded_goes(room, capsys):
    assert main(["cache", "clean", "--cache_dir", str(room.cache), "--model", "some/other"]) == 2
    assert (
        f"--model some/other: nothing in {room.cache / 'difftune'} belongs to it; the models there are {room.backbone.folder}."
        in (capsys.readouterr().err)
    )
    link = room.cache.with_name("pipeline")
    link.symlink_to(room.backbone.folder)
    encode(count_encoded(load_backbone(link, resolution=16)), room.two, room.cache)  # the same weights by another name
    told = room("clean", "--model", room.backbone.folder, "--yes")
    assert "3 of 6 images" in told
    assert room.encode(room.two) == (0, 0)
    room("clean", "--model", room.backbone.folder, "--model", link, "--yes")
    assert not list(room.cache.rglob("*.arrow"))


def test_copies_of_parquet_files(room, tmp_path, monkeypatch):
    monkeypatch.setattr(in_use, "HELD", {})
    content = [{"bytes": (room.one / f"0{number}.png").read_bytes(), "path": None} for number in range(2)]
    features = Features({"image": Image(decode=False), "text": Value("string")})
    Dataset.from_dict({"image": content, "text": ["a", "b"]}, features).to_parquet(tmp_path / "data" / "0.parquet")
    assert room.encode(tmp_path / "data") == (0, 2)
    assert f"a copy of {tmp_path / 'data' / '0.parquet'}" in room("list")
    assert "hashes of images inside" in room("list")
    assert "copy" not in room("clean", "--older_than", 1)
    assert re.search("a copy of .*: left alone", room("clean", "--older_than", 0))
    in_use.HELD.clear()  # as when the process has ended
    told = room("clean", "--older_than", 0, "--yes")
    assert re.search(r"a copy of .*0.parquet\n", told)
    assert not list((room.cache / "difftune").rglob("*.arrow")) and room.encode(tmp_path / "data") == (
        2,
        2,
    )


def test_damage_is_cleaned_away(room):
    edit(room.one, "number 5", "number fifty")
    room.encode(room.one)
    old, new = sorted(room.cache.rglob("encoded/prompts/*/*.arrow"))
    new.write_bytes(b"?" * 1000)
    for use in room.cache.rglob("prompts/*/used_by/*"):
        use.write_bytes(use.read_bytes()[:50])
        break
    next(room.cache.rglob("store.json")).write_text("{")
    room("list")
    room("clean", "--yes")
    assert not new.exists()
    room.encode(room.one)
    assert room.encode(room.one) == (0, 0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["clean", "--older_than", "-1"], "--older_than is -1.0; it must be a number of days, 0 or more."),
        (["clean", "--older_than", "nan"], "--older_than is nan; it must be a number of days, 0 or more."),
        (["list", "--cache_dir", "nowhere"], "--cache_dir: there is no cache in nowhere/difftune."),
    ],
)
def test_mistakes(words, told, tmp_path, capsys):
    (tmp_path / "difftune").mkdir()
    assert main(["cache", words[0], "--cache_dir", str(tmp_path), *words[1:]]) == 2
    assert capsys.readouterr().err == f"difftune: {told}\n"
