# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset

from diffusers_difftune.backbones.fingerprint import weights_fingerprint
from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.bank.shard import Shard
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.io import shards
from diffusers_difftune.io.hashing import file_sha256
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
    monkeypatch.setattr(shards, "MEMORY_LIMIT", 2 * 4 * 4 * 8 * 8 * 4)
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
    with pytest.raises(DiffTuneError, match="^The bank in .* sampled from other weights than the model's"):
        bank.check(fingerprint)


def test_the_bank_of_another_resolution_is_refused(bank: KnowledgeBank) -> None:
    with pytest.raises(
        DiffTuneError, match=r"has latents of \[4, 8, 8\] \(images of 16 pixels\).* needs \[4, 16, 16\]"
    ):
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


def columns(rows: range, prompts: object = None, latents: object = None, index: object = None) -> pa.Table:
    """The columns of a shard, or others in their place."""
    numbers = np.zeros((len(rows), 256), np.float32)
    size = 256
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), size)
    return pa.table(
        {
            "index": pa.array(list(rows), pa.int64()) if index is None else index,
            "prompt": pa.array(["a"] * len(rows)) if prompts is None else prompts,
            "latents": fixed if latents is None else latents,
        }
    )


def fixed(values: list, kind: pa.DataType | None = None, size: int = 256) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values, kind or pa.float32()), size)


FOUR = range(4, 8)  # what is in the second shard
SHARDS = {
    "no Parquet": (b"PAR1", "is damaged: "),
    "other columns": (pa.table({"a": [1, 2, 3, 4]}), "has not the columns"),
    "too few rows": (columns(range(4, 7)), "has 3 rows, not 4"),
    "samples of another place": (columns(range(4)), "has other samples than those of its place"),
    "samples in another order": (columns(FOUR, index=pa.array([4, 5, 7, 6])), "has other samples than"),
    "no prompt": (columns(FOUR, prompts=pa.array(["a", None, "c", "d"])), "has other samples than"),
    "prompts that are numbers": (columns(FOUR, prompts=pa.array([1, 2, 3, 4])), "has not the columns"),
    "prompts that are no text": (
        columns(FOUR, prompts=pa.array([b"\xff"] * 4).view(pa.string())),
        "is damaged: ",
    ),
    "latents in half precision": (
        columns(FOUR, latents=fixed(np.zeros(1024, np.float16), pa.float16())),
        "has not the columns",
    ),
    "latents of another size": (columns(FOUR, latents=fixed([0.0] * 512, size=128)), "has not the columns"),
    "latents of any size": (
        columns(FOUR, latents=pa.array([[0.0]] * 4, pa.list_(pa.float32()))),
        "has not the columns",
    ),
    "latents that are missing": (
        columns(FOUR, latents=pa.array([None] * 4, pa.list_(pa.float32(), 256))),
        "lacks numbers",
    ),
    "a number that is missing": (columns(FOUR, latents=fixed([None] + [0.0] * 1023)), "lacks numbers"),
    "a number that is none": (columns(FOUR, latents=fixed([math.nan] + [0.0] * 1023)), "holds numbers that are not"),
    "a number without an end": (columns(FOUR, latents=fixed([math.inf] + [0.0] * 1023)), "holds numbers that are not"),
}


@pytest.mark.parametrize("case", SHARDS)
def test_a_shard_that_the_manifest_vouches_for_may_still_be_none(case: str, copied: Path) -> None:
    content, said = SHARDS[case]
    shard = copied / "data" / "shard-00001.parquet"
    if isinstance(content, bytes):
        shard.write_bytes(content)
    else:
        pq.write_table(content, shard)
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["shards"]["data/shard-00001.parquet"] = file_sha256(shard)
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DiffTuneError, match=f"has a shard that is none, data/shard-00001.parquet, which {said}.*\\.$"):
        KnowledgeBank.load(copied).check()


@pytest.mark.parametrize("shape", [(6,), (4, 3), (2, 1, 4, 4)])
def test_latents_may_have_any_number_of_dimensions(
    shape: tuple[int, ...], bank: KnowledgeBank, tmp_path: Path
) -> None:
    """Families that pack latents into tokens, or have a dimension of frames, are stored as they are."""
    latents = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    manifest = dataclasses.replace(
        bank.manifest, num_samples=3, shard_size=2, latent_shape=list(shape), shards={}, prompts_sha256="0" * 64
    )

    def make(rows: range) -> bytes:
        return Shard(list(rows), ["a"] * len(rows), latents[rows.start : rows.stop]).to_bytes()

    shards.build_shards(tmp_path / "bank", manifest, make, progress=False)
    stored = KnowledgeBank.load(tmp_path / "bank").check(latent_shape=shape)
    assert all(np.array_equal(stored.latents(row), latents[row]) for row in range(3))
    with pytest.raises(DiffTuneError, match="has latents of"):
        stored.check(latent_shape=(*shape, 1))


def test_what_is_no_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiffTuneError, match="is not a knowledge bank"):
        KnowledgeBank.load(tmp_path)
    with pytest.raises(
        DiffTuneError, match="absent is neither a folder nor a knowledge bank that can be had from the Hub"
    ):
        KnowledgeBank.load("absent")
    with pytest.raises(DiffTuneError, match="is neither a folder nor a knowledge bank that can be had from the Hub"):
        KnowledgeBank.load(tmp_path / "a" / "b" / "c")


def test_datasets_reads_it_as_it_is(bank: KnowledgeBank) -> None:
    """Its card tells where the rows are, so the folder is a dataset repository."""
    rows = load_dataset(str(bank.folder), split="train").with_format("torch")
    assert rows["index"][:].tolist() == list(range(10))
    assert list(rows["prompt"]) == bank.prompts()
    assert torch.equal(rows[7]["latents"].reshape(4, 8, 8), bank.latents(7))
