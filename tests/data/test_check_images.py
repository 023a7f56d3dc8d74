# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The check of the images: what is good is remembered; what is not is looked at again, and may be no fault of the image."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import AvifImagePlugin, Image, features

from diffusers_difftune.config import DataConfig
from diffusers_difftune.data.dataset import TargetData, load_target_data
from diffusers_difftune.data.images.decode import PassingFailure, UnreadableImage, decode, passing_cause
from diffusers_difftune.data.stream import StreamedTarget
from diffusers_difftune.errors import DiffTuneError
from tests.data.image_files import png_of, saved
from tests.tiny import save_tiny_images, tiny_image


def load(folder: Path, cache: Path, **flags: object) -> TargetData:
    return load_target_data(DataConfig(train_data_dir=str(folder), resolution=16, **flags), 0, cache)


@contextmanager
def limited(what: int, limit: int) -> Iterator[None]:
    """A context in which this process may have no more of something than it has, or than `limit`."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def no_more_files() -> object:
    return limited(resource.RLIMIT_NOFILE, 0)  # those that are open stay so


def little_memory() -> object:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return limited(resource.RLIMIT_AS, pages * resource.getpagesize() + 2**25)


def large_png(folder: Path) -> Path:
    """The beginning of an image of 676 MB; it takes its memory before the rest is read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "large.png").write_bytes(png_of(13_000, 13_000, 8, 6, b""))
    return folder / "large.png"


@pytest.fixture
def no_avif(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A Pillow that was built without AVIF."""
    with monkeypatch.context() as patch:
        patch.setattr(AvifImagePlugin, "SUPPORTED", False)
        yield patch


def with_avif(folder: Path) -> Path:
    save_tiny_images(folder, 4)
    (folder / "02.png").write_bytes(saved(tiny_image(2)[0], "AVIF", quality=100))
    return folder


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
@pytest.mark.filterwarnings("ignore:image file could not be identified")
@pytest.mark.parametrize("flags", [{}, {"verify_cache": True}])
def test_an_image_that_a_later_pillow_reads_is_good_again(
    tmp_path: Path, no_avif: pytest.MonkeyPatch, flags: dict
) -> None:
    folder = with_avif(tmp_path / "data")
    with pytest.raises(DiffTuneError, match=r"row 2 02.png \(this Pillow was built without support of AVIF\)"):
        load(folder, tmp_path)
    target = load(folder, tmp_path, skip_bad_images=True)
    assert len(target) == 3
    (left_out,) = target.report.left_out
    assert left_out == (
        "1 image that cannot be read (--skip_bad_images), row 2 02.png (this Pillow was built without support of AVIF) for"
        " one"
    )
    no_avif.undo()
    target = load(folder, tmp_path, skip_bad_images=True, **flags)
    assert len(target) == 4 and target.report.left_out == []


def test_what_is_bad_is_looked_at_again_and_what_is_good_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny_images(tmp_path / "data", 6)
    (folder / "02.png").write_bytes(b"damaged")
    looked: list[str] = []

    def counted(stored: dict) -> Image.Image:
        looked.append(Path(stored["path"]).name)
        return decode(stored)

    monkeypatch.setattr("diffusers_difftune.data.images.column.decode", counted)
    for expected in (6, 1, 1):
        looked.clear()
        assert len(load(folder, tmp_path, skip_bad_images=True)) == 5
        assert len(looked) == expected and "02.png" in looked
    looked.clear()
    load(folder, tmp_path, skip_bad_images=True, verify_cache=True)
    assert len(looked) == 6
    for file in (tmp_path / "difftune" / "checked").iterdir():
        known = json.loads(file.read_text())
        file.write_text(json.dumps(known | {"reader": [*known["reader"][:-2], "another Pillow", True]}))
    looked.clear()
    load(folder, tmp_path, skip_bad_images=True)
    assert len(looked) == 6


@pytest.mark.parametrize("given", ["path", "bytes"])
def test_memory_that_runs_out_is_no_damage(tmp_path: Path, given: str) -> None:
    file = large_png(tmp_path)
    stored = {"bytes": file.read_bytes() if given == "bytes" else None, "path": str(file)}
    with pytest.raises(PassingFailure) as error, little_memory():
        decode(stored)
    assert not isinstance(error.value, UnreadableImage)
    assert str(error.value) == (
        f"The image {file} could not be read: the memory ran out; the cause is this machine, its drives or the network and"
        " not the image, so nothing is left out; start again once that is put right."
    )


def test_files_that_cannot_be_opened_are_not_left_out(tmp_path: Path) -> None:
    target = load(save_tiny_images(tmp_path / "data", 3), tmp_path)
    with pytest.raises(
        PassingFailure, match=r"The image .*/01.png could not be read: Too many open files; the cause is"
    ):
        with no_more_files():
            target.image(1)
    folder = save_tiny_images(tmp_path / "more", 3)
    large_png(folder).rename(folder / "01.png")
    with pytest.raises(PassingFailure, match="01.png could not be read: the memory ran out"), little_memory():
        load(folder, tmp_path / "cache", skip_bad_images=True)
    assert not (tmp_path / "cache" / "difftune" / "checked").exists(), "nothing is remembered"


def test_a_hash_that_could_not_be_made_is_no_image(tmp_path: Path) -> None:
    target = load(save_tiny_images(tmp_path / "data", 3), tmp_path)
    images = target.select([0, 1]).images
    with pytest.raises(PassingFailure, match="00.png could not be read: Too many open files"), no_more_files():
        images._verify = True
        images.key  # noqa: B018


def test_a_stream_does_not_pass_over_images_for_want_of_memory(tmp_path: Path) -> None:
    folder = save_tiny_images(tmp_path / "data", 3)
    large_png(folder).rename(folder / "00.png")
    config = DataConfig(train_data_dir=str(folder), resolution=16, streaming=True, skip_bad_images=True)
    with pytest.raises(PassingFailure, match="00.png could not be read: the memory ran out"), little_memory():
        StreamedTarget(config, 0, tmp_path)


def test_an_address_that_does_not_answer_is_no_bad_image() -> None:
    with pytest.raises(PassingFailure):
        decode({"bytes": None, "path": "http://127.0.0.1:9/cat.png"})


def test_a_place_before_the_beginning_of_a_file_is_no_fault_of_the_system(tmp_path: Path) -> None:
    """It is where a damaged file sends its decoder."""
    (tmp_path / "file").write_bytes(b"content")
    with open(tmp_path / "file", "rb") as file, pytest.raises(OSError) as error:
        file.seek(-1)
    assert passing_cause(error.value) is None
