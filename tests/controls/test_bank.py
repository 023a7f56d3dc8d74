# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The control images of a knowledge bank."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.controls import bank as controls_bank
from diffusers_difftune.controls import make_extractor
from diffusers_difftune.controls.bank import BankConditions, bank_conditions
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.io import shards
from tests.bank.building import contents


Decode = Callable[[torch.Tensor], list[Image.Image]]


@pytest.fixture
def own_bank(bank: KnowledgeBank, tmp_path: Path) -> KnowledgeBank:
    """A copy to change."""
    return KnowledgeBank.load(shutil.copytree(bank.folder, tmp_path / "bank"))


def test_a_backbone_decodes_as_its_pipeline_does(bank: KnowledgeBank, tiny_pipeline: Path, decode: Decode) -> None:
    backbone = load_backbone(tiny_pipeline)
    backbone.load_encoders(torch.device("cpu"), torch.float32)
    latents = torch.stack([bank.latents(index) for index in range(3)])
    images = backbone.decode(backbone.vae, latents)
    assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
    pipeline = backbone.pipeline(None, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    assert torch.equal(images, pipeline.image_processor.postprocess(decoded, output_type="pt"))
    assert (
        decode(latents)[1].tobytes() == pipeline.image_processor.postprocess(decoded, output_type="pil")[1].tobytes()
    )


def not_called(latents: torch.Tensor) -> list[Image.Image]:
    pytest.fail("it was decoded again")


def test_each_sample_has_the_condition_of_its_own_image(own_bank: KnowledgeBank, decode: Decode) -> None:
    extractor = make_extractor("sketch")
    conditions = bank_conditions(own_bank, extractor, decode)
    assert len(conditions) == 10
    expected = [
        np.asarray(image)
        for start in (0, 4, 8)
        for image in extractor(decode(torch.stack([own_bank.latents(i) for i in range(start, min(start + 4, 10))])))
    ]
    for index in (3, 9, 0, 4, 4, 7):
        found = conditions[index]
        assert found.dtype == np.uint8 and found.shape == (16, 16, 3)
        assert np.array_equal(found, expected[index])
    assert not np.array_equal(conditions[0], conditions[1])
    with pytest.raises(IndexError, match="has 10 images, and number 10"):
        conditions[10]


def test_each_sample_is_decoded_once(own_bank: KnowledgeBank, decode: Decode) -> None:
    seen: list[torch.Tensor] = []

    def counted(latents: torch.Tensor) -> list[Image.Image]:
        seen.append(latents)
        return decode(latents)

    bank_conditions(own_bank, make_extractor("edge"), counted)
    assert [len(latents) for latents in seen] == [4, 4, 2]
    assert torch.equal(torch.cat(seen), torch.stack([own_bank.latents(index) for index in range(10)]))


def test_they_lie_beside_the_bank_and_are_found_again(own_bank: KnowledgeBank, decode: Decode) -> None:
    before = contents(own_bank.folder)
    first = bank_conditions(own_bank, make_extractor("edge"), decode)
    assert first.folder.parent == own_bank.folder / "conditions" and first.folder.name.startswith("edge-")
    again = bank_conditions(own_bank, make_extractor("edge"), not_called)
    assert again.folder == first.folder and np.array_equal(again[5], first[5])
    edge = make_extractor("edge")
    other = bank_conditions(own_bank, replace(edge, settings=edge.settings | {"parameters": {"low": 50}}), decode)
    assert other.folder != first.folder and other.folder.parent == first.folder.parent
    assert {name: data for name, data in contents(own_bank.folder).items() if "conditions" not in name} == before


def test_the_preview_shows_the_control_images(own_bank: KnowledgeBank, decode: Decode) -> None:
    conditions = bank_conditions(own_bank, make_extractor("edge"), decode)
    preview = Image.open(conditions.folder / "preview.png")
    expected = Image.fromarray(conditions[5]).resize((128, 128), Image.Resampling.BICUBIC)
    assert preview.crop((128, 128, 256, 256)).tobytes() == expected.tobytes()


def test_the_bank_does_not_mind(own_bank: KnowledgeBank, decode: Decode) -> None:
    bank_conditions(own_bank, make_extractor("edge"), decode)
    again = KnowledgeBank.load(own_bank.folder).check()
    assert again.manifest.num_built(own_bank.folder) == 10
    assert again.prompts() == own_bank.prompts()


def test_another_banks_conditions_are_not_taken(
    own_bank: KnowledgeBank, bank: KnowledgeBank, decode: Decode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder for several banks, as the cache is."""
    monkeypatch.setattr(controls_bank, "place_for", lambda bank, name, cache_dir: own_bank.folder / "here" / name)
    first = bank_conditions(bank, make_extractor("edge"), decode)
    same = bank_conditions(own_bank, make_extractor("edge"), not_called)
    assert same.folder == first.folder
    own_bank.manifest.shards = own_bank.manifest.shards | {own_bank.manifest.shard_names[1]: "f" * 64}
    assert bank_conditions(own_bank, make_extractor("edge"), decode).folder != first.folder


def test_a_bank_that_cannot_be_written_to(own_bank: KnowledgeBank, decode: Decode, tmp_path: Path) -> None:
    (own_bank.folder / "conditions").touch()  # a file where the folder would go: as little can be written there
    cache = str(tmp_path / "cache")
    conditions = bank_conditions(own_bank, make_extractor("edge"), decode, cache_dir=cache)
    assert conditions.folder.parent == tmp_path / "cache" / "difftune" / "conditions"
    again = bank_conditions(own_bank, make_extractor("edge"), not_called, cache_dir=cache)
    assert again.folder == conditions.folder


def test_workers_read_for_themselves(own_bank: KnowledgeBank, decode: Decode) -> None:
    conditions = bank_conditions(own_bank, make_extractor("edge"), decode)
    expected = conditions[6]
    assert conditions._shards
    received = pickle.loads(pickle.dumps(conditions))
    assert not received._shards  # without what was read
    assert np.array_equal(received[6], expected)


def test_few_shards_stay_in_memory(own_bank: KnowledgeBank, decode: Decode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MEMORY_LIMIT", 1)
    conditions = bank_conditions(own_bank, make_extractor("edge"), decode)
    everything = [conditions[index] for index in (0, 9, 5, 0)]
    assert np.array_equal(everything[0], everything[3])
    assert len(conditions._shards) == 1


def test_a_half_built_bank_is_refused(own_bank: KnowledgeBank, decode: Decode) -> None:
    own_bank.manifest.shards = {}
    with pytest.raises(DiffTuneError, match="is half built"):
        bank_conditions(own_bank, make_extractor("edge"), decode)


def test_damaged_conditions_are_refused(own_bank: KnowledgeBank, decode: Decode) -> None:
    conditions = bank_conditions(own_bank, make_extractor("edge"), decode)
    shard = next((conditions.folder / "data").iterdir())
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(DiffTuneError, match=r"is damaged: data/train-0000\d-of-00003.parquet is missing or is not"):
        bank_conditions(own_bank, make_extractor("edge"), decode)
    assert isinstance(conditions, BankConditions)
