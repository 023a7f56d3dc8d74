# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import pickle
from dataclasses import dataclass, fields, replace

import datasets
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from torch.utils.data import DataLoader

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.config import DataConfig
from diffusers_difftune.data.cache.encodings import build_image_cache, build_prompt_cache
from diffusers_difftune.data.dataset import load_target_data
from diffusers_difftune.data.images.decode import ImageTransform
from diffusers_difftune.data.plan import BatchPlan, RowRandom
from diffusers_difftune.data.stream import StreamedTarget
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.objective import NoiseDraws
from diffusers_difftune.training.batches import Batch, PlannedBatches
from tests.tiny import save_tiny_images, tiny_image


SHAPE = (4, 8, 8)
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # `datasets` waits 5 s at the end of each pass over several shards
CAPTIONS = ["one", ["two", "zwei", "deux"], "three", ["four", "vier"], "five", "six"]


@dataclass
class Bank:
    """Stands in for a knowledge bank."""

    size: int = 5

    def latents(self, index: int) -> torch.Tensor:
        return torch.full(SHAPE, 100.0 + index)

    def prompt(self, index: int) -> str:
        return f"sample {index}"


@dataclass
class Made:
    """Batches of a small data set, to be had in any topology."""

    batches: PlannedBatches

    def __call__(self, **changes) -> PlannedBatches:
        parts = {"train_batch_size": 8, "accumulation": 1, "world_size": 1} | changes
        rows = parts["train_batch_size"] * parts["accumulation"] * parts["world_size"]
        return replace(self.batches, plan=replace(self.batches.plan, batch_size=rows), **changes)


def make(pipeline, folder, cache_dir, cached: bool = True, **flags) -> Made:
    backbone = load_backbone(pipeline, resolution=16)
    config = DataConfig(train_data_dir=str(folder), resolution=16, random_flip=True, **flags)
    target = StreamedTarget(config, 0, cache_dir) if config.streaming else load_target_data(config, 0, cache_dir)
    images = prompts = None
    if cached:
        images = build_image_cache(target, backbone, config, cache_dir)
        wanted = [*target.distinct_captions, "", *(f"sample {index}" for index in range(5))]
        prompts = build_prompt_cache(wanted, backbone, cache_dir)
    return Made(
        PlannedBatches(
            plan=BatchPlan(7, 8, 0.25, len(target), 5),
            target=target,
            latent_shape=SHAPE,
            transform=ImageTransform(16, config.image_interpolation_mode),
            train_batch_size=8,
            images=images,
            prompts=prompts,
            to_denoiser=backbone.to_denoiser if cached else None,
            bank=Bank(),
            random_flip=True,
            center_crop=config.center_crop,
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_images(tmp_path_factory.mktemp("images"), captions=CAPTIONS)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def cached(tiny_pipeline, folder, cache_dir):
    return make(tiny_pipeline, folder, cache_dir)


@pytest.fixture(scope="module")
def uncached(tiny_pipeline, folder, cache_dir):
    return make(tiny_pipeline, folder, cache_dir, cached=False)


def assert_equal(a, b) -> None:
    if isinstance(a, (Batch, NoiseDraws)):
        for field in fields(a):
            assert_equal(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_equal(a[name], b[name])
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    else:
        assert a == b


def rows_of(batches: PlannedBatches, count: int) -> list[tuple]:
    """The rows of the first batches, in order, each as plain values."""
    rows = []
    for k in range(count):
        batch = batches[k]
        for row in range(len(batch.prompts)):
            tensors = [batch.latents[row], batch.is_source[row], batch.draws.uniform[row], batch.draws.noise[row]]
            rows.append((batch.prompts[row], *(tuple(tensor.flatten().tolist()) for tensor in tensors)))
    return rows


def test_what_a_batch_holds(cached):
    batch = cached(with_offset=True, with_perturbation=True)[0]
    assert batch.latents.shape == batch.draws.noise.shape == batch.draws.perturbation.shape == (8, *SHAPE)
    assert batch.draws.offset.shape == (8, 4, 1, 1)
    assert batch.draws.uniform.shape == batch.is_source.shape == (8,)
    assert batch.is_source.dtype == torch.bool and batch.is_source.sum() == 2
    assert batch.condition["encoder_hidden_states"].shape == (8, 32, 32)
    assert batch.pixel_values is None and batch.posterior_noise is None
    assert cached()[0].draws.offset is None and cached()[0].draws.perturbation is None


@pytest.mark.parametrize("batch_size", range(1, 10))
@pytest.mark.parametrize("empty", [False, True])
def test_each_half_gets_its_own(cached, batch_size, empty):
    batches = cached(train_batch_size=batch_size, empty_source_prompts=empty)
    captions = set(batches.target.distinct_captions)
    seen = 0
    for step in range(-(-40 // batch_size)):
        batch = batches[step]
        for row, is_source in enumerate(batch.is_source.tolist()):
            slot = batches.plan.slot(step, row)
            assert slot.is_source == is_source
            seen += is_source
            if is_source:
                assert torch.equal(batch.latents[row], Bank().latents(slot.row))
                assert batch.prompts[row] == ("" if empty else f"sample {slot.row}")
            else:
                assert batch.latents[row].abs().max() < 90
                assert batch.prompts[row] in batches.target.captions(slot.row) and batch.prompts[row] in captions
            encoded = batches.prompts[batch.prompts[row]]["encoder_hidden_states"]
            assert torch.equal(batch.condition["encoder_hidden_states"][row], encoded)
    assert seen >= 10 - batch_size


def test_target_rows_are_drawn_from_the_posterior(cached):
    batches = cached()
    batch = batches[3]
    flips = set()
    for row in range(8):
        slot, random = batches.plan.slot(3, row), RowRandom(7, 3, row)
        if not slot.is_source:
            flip = random.uniform("flip") < 0.5
            mean, std = batches.images.posterior(slot.row, 0, flip)
            expected = batches.to_denoiser(mean + std * random.normal("posterior", SHAPE))
            assert torch.equal(batch.latents[row], expected)
            flips.add(flip)
    assert flips == {False, True}


def test_all_captions_of_a_list_are_used(cached):
    used = {prompt for k in range(30) for prompt in cached()[k].prompts if not prompt.startswith("sample")}
    assert used == set(cached().target.distinct_captions)


def test_without_flag_nothing_is_flipped(cached):
    batches = cached(random_flip=False)
    for row in range(8):
        slot, random = batches.plan.slot(0, row), RowRandom(7, 0, row)
        if not slot.is_source:
            mean, std = batches.images.posterior(slot.row, 0, False)
            expected = batches.to_denoiser(mean + std * random.normal("posterior", SHAPE))
            assert torch.equal(batches[0].latents[row], expected)


def test_accumulation_and_processes_only_divide_the_rows(cached):
    whole = rows_of(cached(train_batch_size=8), 3)
    for accumulation in (2, 4, 8):
        batches = cached(train_batch_size=8 // accumulation, accumulation=accumulation)
        assert rows_of(batches, 3 * accumulation) == whole
    for world, accumulation in ((2, 1), (2, 2), (4, 2)):
        size = 8 // world // accumulation
        parts = [
            rows_of(
                cached(train_batch_size=size, accumulation=accumulation, rank=r, world_size=world), 3 * accumulation
            )
            for r in range(world)
        ]
        together = [row for k in range(3 * accumulation) for part in parts for row in part[k * size : (k + 1) * size]]
        assert together == whole


def test_batches_of_another_size_than_the_plan_are_refused(cached):
    with pytest.raises(ValueError, match="The plan is for 8 rows a step, these batches are 4."):
        replace(cached(), train_batch_size=4)


def test_a_batch_does_not_depend_on_those_before(cached):
    batches = cached()
    for _ in range(4):
        last = batches[3]
    assert_equal(cached()[3], last)


def test_uncached_batches_are_the_cached_ones(cached, uncached, tiny_pipeline):
    backbone = load_backbone(tiny_pipeline, resolution=16)
    backbone.load_encoders(torch.device("cpu"), torch.float32)
    for k in range(4):
        ours, raw = cached()[k], uncached()[k]
        assert raw.condition is None and ours.prompts == raw.prompts
        assert_equal(ours.is_source, raw.is_source)
        assert_equal(ours.draws, raw.draws)
        assert raw.pixel_values.shape == (6, 3, 16, 16)
        assert torch.equal(raw.latents[raw.is_source], ours.latents[ours.is_source])
        assert not raw.latents[~raw.is_source].any()
        mean, std = backbone.encode_images(raw.pixel_values)
        latents = backbone.to_denoiser(mean + std * raw.posterior_noise)
        torch.testing.assert_close(ours.latents[~ours.is_source], latents)
        encoded = backbone.encode_prompts(raw.prompts)["encoder_hidden_states"]
        torch.testing.assert_close(ours.condition["encoder_hidden_states"], encoded)


def test_an_uncached_batch_of_source_rows_only(uncached):
    batches = uncached(train_batch_size=1)
    batch = next(batch for batch in map(batches.__getitem__, range(8)) if batch.is_source.all())
    assert batch.pixel_values.shape == (0, 3, 16, 16) and batch.posterior_noise.shape == (0, *SHAPE)


def test_uncached_crops_differ_and_centre_crops_do_not(tiny_pipeline, tmp_path):
    wide = save_tiny_images(tmp_path / "wide", 1, size=(64, 16))
    for center_crop, distinct in ((False, 10), (True, 1)):
        batches = make(tiny_pipeline, wide, tmp_path / "cache", cached=False, center_crop=center_crop)(
            random_flip=False
        )
        crops = {tuple(p.flatten().tolist()) for k in range(4) for p in batches[k].pixel_values}
        assert len(crops) == 1 if center_crop else len(crops) >= distinct


def test_cached_crops_are_all_used(tiny_pipeline, tmp_path):
    wide = save_tiny_images(tmp_path / "wide", 1, size=(64, 16))
    batches = make(tiny_pipeline, wide, tmp_path / "cache")(random_flip=False)
    drawn = {RowRandom(7, k, row).integer("crop", 4) for k in range(4) for row in range(8)}
    assert drawn == set(range(batches.images.crops(0)))
    assert batches[0].latents.shape == (8, *SHAPE)


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_the_batches_in_order(cached, uncached, workers):
    for batches in (cached(), uncached()):
        loader = DataLoader(batches, batch_size=None, sampler=range(2, 6), num_workers=workers)
        for k, batch in enumerate(loader, 2):
            assert_equal(batch, batches[k])


def test_batches_can_be_pickled(cached, uncached):
    for batches in (cached(), uncached()):
        assert_equal(pickle.loads(pickle.dumps(batches))[1], batches[1])


# --- streams ---


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Two files, so that the stream has two shards; 20 rows."""
    folder = tmp_path_factory.mktemp("parquet")
    images, captions = zip(*(tiny_image(index) for index in range(20)))
    features = Features({"image": Image(), "text": Value("string")})
    data = Dataset.from_dict({"image": list(images), "text": list(captions)}, features=features)
    data.select(range(10)).to_parquet(folder / "0.parquet")
    data.select(range(10, 20)).to_parquet(folder / "1.parquet")
    return folder


@pytest.fixture(scope="module")
def streamed(tiny_pipeline, parquet, cache_dir):
    return make(tiny_pipeline, parquet, cache_dir, cached=False, streaming=True)


def test_a_stream_gives_every_row_once_an_epoch(streamed):
    prompts = [prompt for k in range(7) for prompt in streamed()[k].prompts if not prompt.startswith("sample")]
    first, second = prompts[:20], prompts[20:40]
    assert len(set(first)) == len(set(second)) == 20 and set(first) == set(second)
    assert first != second


def test_images_of_a_stream_belong_to_their_captions(streamed):
    batch = streamed(random_flip=False)[0]
    prompts = [prompt for prompt, is_source in zip(batch.prompts, batch.is_source) if not is_source]
    for prompt, pixels in zip(prompts, batch.pixel_values, strict=True):
        image, caption = tiny_image(int(prompt.split()[-1]))
        assert caption == prompt and torch.equal(pixels, ImageTransform(16).to_tensor(image, 0, 0, False))


def test_a_stream_has_the_draws_of_any_other_run(streamed, uncached):
    for k in range(3):
        assert_equal(streamed()[k].draws, uncached()[k].draws)
        assert_equal(streamed()[k].is_source, uncached()[k].is_source)
        assert_equal(streamed()[k].posterior_noise, uncached()[k].posterior_noise)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_resumed_by_skipping(streamed, workers):
    straight = [streamed()[k] for k in range(6)]
    loader = DataLoader(streamed(), batch_size=None, sampler=range(2, 6), num_workers=workers)
    for k, batch in enumerate(loader, 2):
        assert_equal(batch, straight[k])


def test_workers_do_not_share_the_epoch_of_a_stream(streamed):
    """`datasets` keeps the number that `set_epoch` sets in memory that all workers share, and would change."""
    batches = streamed()
    list(DataLoader(batches, batch_size=None, sampler=[30], num_workers=1))  # it is some epochs ahead by then
    assert batches.target._stream.epoch == 0


def test_a_stream_is_divided_between_processes(streamed):
    whole = rows_of(streamed(train_batch_size=8), 3)
    parts = [rows_of(streamed(train_batch_size=4, rank=rank, world_size=2), 3) for rank in range(2)]
    assert [row for k in range(3) for part in parts for row in part[4 * k : 4 * k + 4]] == whole


def test_going_back_in_a_stream_starts_it_anew(streamed):
    batches = streamed()
    first = batches[0]
    batches[4]
    assert_equal(batches[0], first)


def test_a_stream_can_be_pickled(streamed):
    batches = streamed()
    first = batches[0]
    assert_equal(pickle.loads(pickle.dumps(batches))[0], first)


def test_a_folder_can_be_streamed(tiny_pipeline, folder, cache_dir):
    batches = make(tiny_pipeline, folder, cache_dir, cached=False, streaming=True)()
    assert set(batches.target.first_captions(6)) == set(
        load_target_data(DataConfig(train_data_dir=str(folder)), 0, cache_dir).distinct_captions
    )
    assert batches[0].pixel_values.shape == (6, 3, 16, 16)


def stream(folder, cache_dir, **flags) -> StreamedTarget:
    return StreamedTarget(DataConfig(train_data_dir=str(folder), streaming=True, **flags), 0, cache_dir)


def test_first_captions_and_max_train_samples(parquet, cache_dir):
    assert len(stream(parquet, cache_dir).first_captions(7)) == 7
    assert len(stream(parquet, cache_dir, max_train_samples=3).first_captions(9)) == 3


def test_bad_images_in_a_stream(tiny_pipeline, tmp_path):
    folder = save_tiny_images(tmp_path / "images", 6)
    for index in (0, 2, 4):
        (folder / f"{index:02}.png").write_text("I am not an image.")
    message = (
        "The image of row {} of the stream cannot be read \\(not an image\\); --skip_bad_images leaves such rows out."
    )
    with pytest.raises(DiffTuneError, match=message.format(0)):  # at once
        stream(folder, tmp_path / "cache")
    tiny_image(0)[0].save(folder / "00.png")
    batches = make(tiny_pipeline, folder, tmp_path / "cache", cached=False, streaming=True)()
    with pytest.raises(DiffTuneError, match=message.format(r"\d")):  # when its turn comes
        batches[0]
    (folder / "00.png").write_text("I am not an image.")
    batches = make(tiny_pipeline, folder, tmp_path / "cache", cached=False, streaming=True, skip_bad_images=True)()
    prompts = {prompt for prompt in batches[0].prompts if not prompt.startswith("sample")}
    assert prompts == {tiny_image(index)[1] for index in (1, 3, 5)}


@pytest.mark.parametrize(
    "captions, flags, message",
    [
        ([None, None], {}, "--caption_column: row 0 of the stream has an empty caption or none."),
        (["a", "b"], {"caption_column": "title"}, "--caption_column: {folder}/metadata.jsonl has no column title; "),
        (["a", "b"], {"max_train_samples": 0}, "--max_train_samples is 0; it must be at least 1."),
    ],
)
def test_a_bad_stream_is_refused_at_once(tmp_path, captions, flags, message):
    folder = save_tiny_images(tmp_path / "images", 2, captions=captions)
    with pytest.raises(DiffTuneError) as error:
        stream(folder, tmp_path / "cache", **flags)
    assert str(error.value).startswith(message.format(folder=folder))


def test_a_stream_of_other_columns_is_refused(tmp_path):
    Dataset.from_dict({"image": [1], "text": ["a"]}).to_parquet(tmp_path / "numbers.parquet")
    with pytest.raises(DiffTuneError, match="--image_column: the column image holds int64, not images."):
        stream(tmp_path / "numbers.parquet", tmp_path / "cache")
    (tmp_path / "untyped").mkdir()
    (tmp_path / "untyped" / "train.csv").write_text("image,text\nx.png,hello\n")
    with pytest.raises(DiffTuneError, match="--streaming: this dataset does not say what its columns hold; leave"):
        StreamedTarget(DataConfig(dataset_name=str(tmp_path / "untyped"), streaming=True), 0, tmp_path)


def test_a_stream_without_a_readable_image(tmp_path):
    folder = save_tiny_images(tmp_path / "images", 1)
    (folder / "00.png").unlink()
    with pytest.raises(DiffTuneError, match="The streamed target data has no rows whose images can be read."):
        stream(folder, tmp_path / "cache", skip_bad_images=True)


def test_a_loader_can_pin_every_tensor_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies from memory that is not pinned wait for the device, whatever they ask for."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    zero = torch.zeros(1)
    batch = Batch(zero, zero, NoiseDraws(zero, zero, zero, None), ["a"], {"states": zero}, zero, None)
    one = batch.pin_memory()
    assert one == Batch(
        zero + 1, zero + 1, NoiseDraws(zero + 1, zero + 1, zero + 1, None), ["a"], one.condition, zero + 1
    )
    assert one.condition == {"states": zero + 1} and batch.latents is zero
