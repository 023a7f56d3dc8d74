# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Banks and control images that an earlier version wrote are read, found again and gone on with."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from diffusers_difftune.bank import build as bank_build
from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.config import DataConfig
from diffusers_difftune.controls import make_extractor
from diffusers_difftune.controls.bank import bank_conditions
from diffusers_difftune.controls.build import build_conditions
from diffusers_difftune.controls.manifest import ConditionManifest
from diffusers_difftune.data.dataset import load_target_data
from diffusers_difftune.io.hashing import file_sha256
from tests.bank.building import load_pipeline, small_bank
from tests.tiny import save_tiny_images


# small_bank(…, num_samples=3, batch_size=2, steps=2), its edges, and edges of three images of 8 × 8; without the preview
WRITTEN = Path(__file__).parent / "written_by_0_1"
FIRST = 7.259631156921387  # the first number of its first sample


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN, tmp_path / "written"))


def half_built(folder: Path, manifest_name: str, shard: str, here: str | None = None) -> None:
    """What a build that was killed after its first shard has left."""
    path = folder / manifest_name
    facts = json.loads(path.read_bytes()) | {"shards": {}}
    path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    (folder / shard).rename((folder / shard).with_name(f".{Path(shard).name}.77.tmp"))
    (folder / ".lock").touch()
    if here is not None:
        (folder / "data").rename(folder / here)


def stored_images(shard: Path) -> list[bytes]:
    """The pixels of a shard; other versions of libraries may write other files of the same pixels."""
    rows = pq.read_table(shard).to_pylist()
    return [
        Image.open(io.BytesIO(row[name]["bytes"])).tobytes()
        for row in rows
        for name in ("image", "conditioning_image")
    ]


def test_a_bank_is_read(written: Path) -> None:
    bank = KnowledgeBank.load(written / "bank").check()
    assert len(bank) == 3 and bank.manifest.to_bytes() == (written / "bank" / "manifest.json").read_bytes()
    assert bank.prompts() == ["a blue cross", "a red square", "a green bar"]
    assert bank.latents(2).shape == (4, 8, 8)
    assert bank.latents(0)[0, 0, 0].item() == FIRST


def test_the_control_images_of_a_bank_are_found_again(written: Path) -> None:
    bank = KnowledgeBank.load(written / "bank")
    found = bank_conditions(bank, make_extractor("edge"), lambda latents: pytest.fail("it was decoded again"))
    assert found.folder.parent == written / "bank" / "conditions"
    assert found[2].shape == (16, 16, 3) and set(np.unique(found[2])) <= {0, 255}


def test_a_half_built_bank_is_gone_on_with(
    written: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written / "bank"
    first = (folder / "data" / "shard-00000.parquet").read_bytes()
    before = KnowledgeBank.load(folder)
    last, libraries = before.latents(2), before.manifest.libraries
    half_built(folder, "manifest.json", "data/shard-00001.parquet")
    # as if nothing but this library had been updated, and as if the pipeline were initialised with the same numbers everywhere
    monkeypatch.setattr(bank_build, "version", libraries.get)
    monkeypatch.setattr(bank_build, "__version__", libraries["diffusers-difftune"])
    settings = {"num_samples": 3, "batch_size": 2, "steps": 2}
    known = {"weights_fingerprint": before.manifest.weights_fingerprint}
    bank = small_bank(load_pipeline(tiny_pipeline), tiny_pipeline, folder, **settings, **known).check()
    assert (folder / "data" / "shard-00000.parquet").read_bytes() == first
    torch.testing.assert_close(bank.latents(2), last, atol=1e-3, rtol=1e-3)
    assert replace(bank.manifest, shards={}) == replace(before.manifest, shards={})


def test_control_images_are_found_again_and_gone_on_with(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written / "controls"
    first, second = sorted((folder / "data").iterdir())
    before, images_before = first.read_bytes(), stored_images(second)
    libraries = ConditionManifest.read(folder).libraries
    monkeypatch.setattr("diffusers_difftune.controls.build.library_versions", lambda: libraries)
    images = save_tiny_images(tmp_path / "images", count=3, size=8)
    target = load_target_data(DataConfig(train_data_dir=str(images)), 0, tmp_path / "cache")
    extracted: list[Image.Image] = []

    def edges(images: list[Image.Image]) -> list[Image.Image]:
        extracted.extend(images)
        return make_extractor("edge")(images)

    def build() -> None:
        extractor = replace(make_extractor("edge"), extract=edges)
        build_conditions(target, folder, extractor, shard_size=2, batch_size=2, progress=False)

    build()
    assert not extracted
    half_built(folder, "conditions.json", "data/train-00001-of-00002.parquet", ".building")
    build()
    assert len(extracted) == 1
    assert first.read_bytes() == before and stored_images(second) == images_before
    assert ConditionManifest.read(folder).shards == {path.name: file_sha256(path) for path in (first, second)}
