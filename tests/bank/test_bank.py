# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from datasets import load_dataset

from diffusers_difftune.bank import bank as bank_module
from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.bank.fingerprint import weights_fingerprint
from diffusers_difftune.errors import DiffTuneError
from tests.tiny import save_tiny_pipeline


@pytest.fixture
def copied(bank: KnowledgeBank, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bank.folder, tmp_path / "bank"))


def test_it_is_read_back(bank: KnowledgeBank) -> None:
    loaded = KnowledgeBank.load(bank.folder)
    assert len(loaded) == 10
    for index in range(10):
        latents = loaded.latents(index)
        assert latents.shape == (4, 8, 8) and latents.dtype == torch.float32
        assert torch.equal(latents, bank.latents(index))
        assert loaded.prompt(index) == bank.prompt(index)


def test_a_sample_may_be_changed_without_harm(bank: KnowledgeBank) -> None:
    before = bank.latents(3).clone()
    bank.latents(3).zero_()
    assert torch.equal(bank.latents(3), before)


def test_memory_is_bounded(bank: KnowledgeBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "MEMORY_LIMIT", 2 * 4 * 4 * 8 * 8 * 4)
    loaded = KnowledgeBank.load(bank.folder)
    for index in (0, 9, 5, 1, 9):
        assert torch.equal(loaded.latents(index), bank.latents(index))
        assert len(loaded._shards) <= 2


def test_workers_of_a_data_loader_get_it(bank: KnowledgeBank) -> None:
    bank.latents(0)
    copy = pickle.loads(pickle.dumps(bank))
    assert not copy._shards
    assert torch.equal(copy.latents(9), bank.latents(9))


def test_the_bank_of_the_model_is_accepted(bank: KnowledgeBank, tiny_pipeline: Path) -> None:
    fingerprint = weights_fingerprint(tiny_pipeline, ("unet", "vae", "text_encoder"))
    assert bank.check(fingerprint, (4, 8, 8)) is bank


def test_the_bank_of_another_model_is_refused(bank: KnowledgeBank, tmp_path: Path) -> None:
    other = save_tiny_pipeline(tmp_path / "other", seed=1)
    fingerprint = weights_fingerprint(other, ("unet", "vae", "text_encoder"))
    with pytest.raises(DiffTuneError, match="--knowledge_bank: .* sampled from other weights than the model's"):
        bank.check(fingerprint)


def test_the_bank_of_another_resolution_is_refused(bank: KnowledgeBank) -> None:
    with pytest.raises(DiffTuneError, match=r"has latents of \[4, 8, 8\] \(--resolution 16\).* needs \[4, 16, 16\]"):
        bank.check(latent_shape=(4, 16, 16))


def test_a_damaged_shard_is_refused(copied: Path) -> None:
    shard = copied / "data" / "shard-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DiffTuneError, match="is damaged: data/shard-00001.parquet is missing or is not what"):
        KnowledgeBank.load(copied).check()


def test_a_missing_shard_is_refused(copied: Path) -> None:
    (copied / "data" / "shard-00002.parquet").unlink()
    with pytest.raises(DiffTuneError, match="is damaged: data/shard-00002.parquet is missing"):
        KnowledgeBank.load(copied).check()


def test_what_is_no_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiffTuneError, match="is not a knowledge bank"):
        KnowledgeBank.load(tmp_path)
    with pytest.raises(DiffTuneError, match="absent is neither a folder nor a dataset on the Hub"):
        KnowledgeBank.load("absent")
    with pytest.raises(DiffTuneError, match="is neither a folder nor a dataset on the Hub"):
        KnowledgeBank.load(tmp_path / "a" / "b" / "c")


def test_datasets_reads_it_as_it_is(bank: KnowledgeBank) -> None:
    """Its card tells where the rows are, so the folder is a dataset repository."""
    rows = load_dataset(str(bank.folder), split="train").with_format("torch")
    assert rows["index"][:].tolist() == list(range(10))
    assert list(rows["prompt"]) == bank.prompts()
    assert torch.equal(rows[7]["latents"].reshape(4, 8, 8), bank.latents(7))
