# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.config import DataConfig
from diffusers_difftune.data.cache import store
from diffusers_difftune.data.cache.encodings import build_image_cache, build_prompt_cache
from diffusers_difftune.data.cache.store import from_arrow, to_arrow
from diffusers_difftune.data.dataset import load_target_data
from diffusers_difftune.data.images.decode import ImageTransform
from diffusers_difftune.errors import DiffTuneError
from tests.data.counting import count_encoded
from tests.tiny import save_tiny_images, save_tiny_pipeline, tiny_image


class Encoded(Exception):
    """Something was encoded although it was in the cache."""


@pytest.fixture
def backbone(tiny_pipeline):
    return load_backbone(tiny_pipeline, resolution=16)


@pytest.fixture
def counted(backbone):
    """The backbone, with a count of the images and prompts that it encodes."""
    return count_encoded(backbone)


def build(backbone, folder: Path, cache_dir: Path, **flags):
    config = DataConfig(train_data_dir=str(folder), **{"resolution": 16} | flags)
    target = load_target_data(config, 0, cache_dir)
    return build_image_cache(target, backbone, config, cache_dir)


def arrow_files(cache_dir: Path, kind: str = "images") -> list[Path]:
    return sorted((cache_dir / "difftune" / "encoded" / kind).glob("*/*.arrow"))


def assert_posterior(cache, row: int, crop: int, flip: bool, backbone, pixels: torch.Tensor) -> None:
    mean, std = backbone.encode_images(pixels[None])
    cached_mean, cached_std = cache.posterior(row, crop, flip)
    assert cached_mean.dtype == torch.float32 and cached_mean.shape == backbone.latent_shape(16)
    torch.testing.assert_close(cached_mean, mean[0])
    torch.testing.assert_close(cached_std, std[0])


def test_square_images_in_both_directions(backbone, tiny_images, tmp_path):
    cache = build(backbone, tiny_images, tmp_path, random_flip=True)
    transform = ImageTransform(16)
    assert len(cache) == 6
    for row in range(6):
        assert cache.crops(row) == 1 and cache.coordinates(row) == (0, 0)
        for flip in (False, True):
            pixels = transform.to_tensor(tiny_image(row)[0], 0, 0, flip)
            assert_posterior(cache, row, 0, flip, backbone, pixels)
    assert not torch.equal(cache.posterior(0, 0, False)[0], cache.posterior(0, 0, True)[0])


def test_without_random_flip_there_is_one_direction(backbone, tiny_images, tmp_path):
    cache = build(backbone, tiny_images, tmp_path)
    with pytest.raises(IndexError, match="This cache was built without --random_flip."):
        cache.posterior(0, 0, True)


def test_images_that_are_not_square_get_several_crops(backbone, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = save_tiny_images(tmp_path / "images", 3, size=(48, 16))
    tiny_image(1)[0].save(folder / "01.png")  # 16 × 16
    cache = build(backbone, folder, tmp_path / "cache", random_flip=True, crops_per_image=3)
    assert [cache.crops(row) for row in range(3)] == [3, 1, 3]
    transform = ImageTransform(16)
    for row in (0, 2):
        lefts = [cache.coordinates(row, crop)[1] for crop in range(3)]
        assert lefts == sorted(lefts) and len(set(lefts)) == 3 and max(lefts) <= 32
        for crop in range(3):
            for flip in (False, True):
                pixels = transform.to_tensor(tiny_image(row, (48, 16))[0], *cache.coordinates(row, crop), flip)
                assert_posterior(cache, row, crop, flip, backbone, pixels)
    assert "2 of 3 images are not square: 3 crops of each are cached" in caplog.text
    again = build(
        load_backbone(backbone.folder, resolution=16), folder, tmp_path / "other", random_flip=True, crops_per_image=3
    )
    assert [again.coordinates(0, crop) for crop in range(3)] == [cache.coordinates(0, crop) for crop in range(3)]


def test_center_crop_is_one_crop(backbone, tmp_path):
    folder = save_tiny_images(tmp_path / "images", 2, size=(16, 32))
    cache = build(backbone, folder, tmp_path / "cache", center_crop=True)
    assert [cache.crops(row) for row in range(2)] == [1, 1] and cache.coordinates(0) == (8, 0)


def test_images_of_another_size_are_resized(backbone, tmp_path):
    folder = save_tiny_images(tmp_path / "images", 2, size=40)
    cache = build(backbone, folder, tmp_path / "cache", image_interpolation_mode="bicubic")
    transform = ImageTransform(16, "bicubic")
    pixels = transform.to_tensor(transform.resize(tiny_image(1, (40, 40))[0]), 0, 0, False)
    assert_posterior(cache, 1, 0, False, backbone, pixels)


def test_what_is_cached_is_not_encoded_again(counted, tiny_images, tmp_path):
    build(counted, tiny_images, tmp_path)
    assert counted.images == 6
    counted.release_encoders()
    build(counted, tiny_images, tmp_path)
    assert counted.images == 6 and not counted.encoders  # nor are the encoders loaded


@pytest.mark.parametrize(
    "change",
    [
        {"image_interpolation_mode": "nearest"},
        {"random_flip": True},
        {"center_crop": True},
        {"crops_per_image": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_flags_that_change_the_encodings_build_anew(counted, tmp_path, change):
    folder = save_tiny_images(tmp_path / "images", size=(16, 20))
    build(counted, folder, tmp_path / "cache")
    before = counted.images
    build(counted, folder, tmp_path / "cache", **change)
    assert counted.images > before


def test_another_size_builds_anew(tiny_pipeline: Path, tiny_images: Path, tmp_path: Path) -> None:
    build(load_backbone(tiny_pipeline, resolution=16), tiny_images, tmp_path)
    larger = count_encoded(load_backbone(tiny_pipeline, resolution=32))
    build(larger, tiny_images, tmp_path)
    assert larger.images == 6


def test_an_edited_image_is_encoded_again_and_an_edited_caption_is_not(counted, tmp_path):
    folder = save_tiny_images(tmp_path / "images")
    tiny_image(2)[0].save(folder / "02.png", format="bmp")  # whatever is drawn, the file has the same size
    build(counted, folder, tmp_path / "cache")
    metadata = folder / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("a red", "a dark red"))
    build(counted, folder, tmp_path / "cache")
    assert counted.images == 6

    edited, stat = tiny_image(14)[0], (folder / "02.png").stat()
    edited.save(folder / "02.png", format="bmp")
    os.utime(folder / "02.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    cache = build(counted, folder, tmp_path / "cache", verify_cache=True)
    assert counted.images == 7
    assert_posterior(cache, 2, 0, False, counted, ImageTransform(16).to_tensor(edited, 0, 0, False))


def test_other_weights_build_anew(counted, tiny_images, tmp_path):
    build(counted, tiny_images, tmp_path / "cache")
    folder = save_tiny_pipeline(tmp_path / "pipeline")
    same = load_backbone(folder, resolution=16)
    same.load_encoders = lambda *args: pytest.fail("the same weights elsewhere")
    build(same, tiny_images, tmp_path / "cache")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file({name: value * 1.5 for name, value in weights.items()}, path)
    other = build(load_backbone(folder, resolution=16), tiny_images, tmp_path / "cache")
    first = build(counted, tiny_images, tmp_path / "cache")
    assert counted.images == 6
    assert not torch.equal(other.posterior(0)[0], first.posterior(0)[0])


def test_output_that_is_not_finite_is_refused(backbone, tiny_images, tmp_path):
    def overflow(pixel_values):
        mean = torch.zeros(len(pixel_values), *backbone.latent_shape(16))
        mean[1, 0, 0, 0], mean[2] = float("inf"), float("nan")
        return mean, mean

    backbone.encode_images = overflow
    with pytest.raises(
        DiffTuneError, match="The VAE's output is not finite in float32 for row 1 01.png, row 2 02.png;"
    ):
        build(backbone, tiny_images, tmp_path)
    assert not arrow_files(tmp_path) and not list(tmp_path.rglob("*.tmp"))


# --- prompts ---


def test_each_distinct_prompt_is_encoded_once(counted, tmp_path):
    cache = build_prompt_cache(["b", "a", "", "b"], counted, tmp_path)
    assert counted.prompts == 3 and len(cache) == 3
    for prompt in ("a", "b", ""):
        (expected,) = counted.encode_prompts([prompt])["encoder_hidden_states"]
        torch.testing.assert_close(cache[prompt]["encoder_hidden_states"], expected)
    before = counted.prompts
    build_prompt_cache(["a", "", "b"], counted, tmp_path)
    assert counted.prompts == before
    build_prompt_cache(["a", "", "b", "c"], counted, tmp_path)
    assert counted.prompts == before + 1
    with pytest.raises(KeyError):
        cache["c"]


def test_another_tokenizer_builds_anew(counted, tmp_path):
    build_prompt_cache(["a"], counted, tmp_path / "cache")
    folder = save_tiny_pipeline(tmp_path / "pipeline")
    config = folder / "tokenizer" / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"model_max_length": 32', '"model_max_length": 16'))
    cache = build_prompt_cache(["a"], load_backbone(folder, resolution=16), tmp_path / "cache")
    assert cache["a"]["encoder_hidden_states"].shape == (16, 32)


# --- several processes, kills, workers ---


def in_child(function) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=function, daemon=True)
    process.start()
    return process


def interrupted(backbone, marker: Path, after: int):
    """Makes the backbone go to sleep after so many batches of images, once a marker says so."""
    encode_images, calls = backbone.encode_images, []

    def slow(pixel_values):
        calls.append(0)
        if len(calls) > after:
            marker.touch()
            time.sleep(60)
        return encode_images(pixel_values)

    backbone.encode_images = slow


@pytest.mark.slow
def test_a_killed_build_is_never_read_as_complete_and_goes_on(counted, tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SEGMENT_SECONDS", 0.0)  # each batch is put in place
    folder = save_tiny_images(tmp_path / "images", 40)
    counted.load_encoders(torch.device("cpu"), torch.float32)

    def child():
        interrupted(counted, tmp_path / "asleep", after=1)
        build(counted, folder, tmp_path)

    process = in_child(child)
    while not (tmp_path / "asleep").exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(arrow_files(tmp_path)) == 1
    leftover = arrow_files(tmp_path)[0].with_name(".000002.arrow.tmp")
    leftover.write_bytes(b"half")  # as if it had been killed while it wrote
    cache = build(counted, folder, tmp_path)
    assert len(cache) == 40 and counted.images == 40 - 16 and not leftover.exists()
    fresh = build(load_backbone(tiny_pipeline, resolution=16), folder, tmp_path / "fresh")
    assert all(torch.equal(a, b) for row in range(40) for a, b in zip(cache.posterior(row), fresh.posterior(row)))


@pytest.mark.slow
def test_of_several_processes_one_encodes_what_is_missing(counted, tmp_path):
    """Three of one run, and one of another run with other data in part, at the same time."""
    counted.load_encoders(torch.device("cpu"), torch.float32)
    one, other = save_tiny_images(tmp_path / "one", 6), save_tiny_images(tmp_path / "other", 9)
    encode_images, log = counted.encode_images, tmp_path / "log"

    def logged(pixel_values):
        with open(log, "a") as file:
            file.write("".join(f"{pixels.sum():.9f}\n" for pixels in pixel_values.unique(dim=0)))
        time.sleep(0.2)
        return encode_images(pixel_values)

    counted.encode_images = logged
    processes = [in_child(lambda folder=folder: build(counted, folder, tmp_path)) for folder in (one, one, one, other)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    encoded = log.read_text().split()
    assert len(encoded) == len(set(encoded)) == 9


def test_caches_travel_to_workers_as_paths(backbone, tiny_images, tmp_path):
    images, prompts = build(backbone, tiny_images, tmp_path), build_prompt_cache(["a"], backbone, tmp_path)
    mean, _ = images.posterior(0)
    assert len(pickle.dumps((images, prompts))) < 2000 < 6 * mean.nbytes
    images_again, prompts_again = pickle.loads(pickle.dumps((images, prompts)))
    assert torch.equal(images_again.posterior(3)[0], images.posterior(3)[0])
    assert torch.equal(prompts_again["a"]["encoder_hidden_states"], prompts["a"]["encoder_hidden_states"])


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3, 4), (0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float16])
def test_arrays_go_through_arrow_without_a_copy(shape, dtype):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    arrow = to_arrow(array)
    assert len(arrow) == len(array)
    back = from_arrow(arrow)
    assert back.dtype == dtype and np.array_equal(back, array)
    assert np.array_equal(from_arrow(arrow.slice(1, 2)), array[1:3])
    if array.size:
        assert back.__array_interface__["data"][0] == array.__array_interface__["data"][0]
    assert pa.types.is_fixed_size_list(arrow.type) == (len(shape) > 1)


@pytest.mark.parametrize("damage", ["empty", "cut off", "other content", "other columns"])
def test_a_damaged_cache_is_told_in_one_sentence(counted, tiny_images, tmp_path, damage):
    config = DataConfig(train_data_dir=str(tiny_images), resolution=16)
    target = load_target_data(config, 0, tmp_path)
    for name, make in (
        ("images", lambda: build_image_cache(target, counted, config, tmp_path)),
        ("prompts", lambda: build_prompt_cache(target.distinct_captions, counted, tmp_path)),
    ):
        make()
        (file,) = arrow_files(tmp_path, name)
        content = file.read_bytes()
        if damage == "other columns":
            table = pa.table({"a": [1]})
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        else:
            file.write_bytes(
                {"empty": b"", "cut off": content[: len(content) // 3], "other content": b"?" * 999}[damage]
            )
        with pytest.raises(
            DiffTuneError, match=r"^.*/000001.arrow of the cache is damaged \(.*\); delete it, and"
        ) as told:
            make()
        assert "\n" not in str(told.value)
        file.unlink()
        make()
    assert (counted.images, counted.prompts) == (12, 12)


def test_what_was_remembered_of_images_is_learned_again_if_it_is_damaged(tiny_images, tmp_path):
    config = DataConfig(train_data_dir=str(tiny_images))
    load_target_data(config, 0, tmp_path)
    (file,) = (tmp_path / "difftune" / "checked").iterdir()
    for content in ("", "{", "[]", '{"a": "b"}'):
        file.write_text(content)
        assert len(load_target_data(config, 0, tmp_path)) == 6
        assert '"not_good": []' in file.read_text()
