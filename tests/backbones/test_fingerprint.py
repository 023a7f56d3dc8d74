# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from pathlib import Path

import pytest

from diffusers_difftune.backbones.fingerprint import hub_commit, weights_fingerprint
from diffusers_difftune.errors import DiffTuneError
from tests.tiny import save_tiny_pipeline


COMPONENTS = ("unet", "vae", "text_encoder")


@pytest.fixture
def model(tiny_pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "copy"))


def unet_file(model: Path) -> Path:
    return model / "unet" / "diffusion_pytorch_model.safetensors"


def test_it_does_not_depend_on_where_the_model_lies(tiny_pipeline: Path, model: Path, tmp_path: Path) -> None:
    here = weights_fingerprint(model, COMPONENTS)
    assert here == weights_fingerprint(tiny_pipeline, COMPONENTS) == weights_fingerprint(model, COMPONENTS[::-1])
    assert here == weights_fingerprint(model, COMPONENTS, cache_dir=tmp_path / "index")
    assert here == weights_fingerprint(model, COMPONENTS, cache_dir=tmp_path / "index")


def test_one_byte_changes_it(model: Path, tmp_path: Path) -> None:
    before = weights_fingerprint(model, COMPONENTS, cache_dir=tmp_path / "index")
    data = bytearray(unet_file(model).read_bytes())
    data[-1] ^= 1
    unet_file(model).write_bytes(data)
    assert weights_fingerprint(model, COMPONENTS, cache_dir=tmp_path / "index") != before
    assert weights_fingerprint(model, ("vae", "text_encoder")) != before


def test_other_weights_have_another(model: Path, tmp_path: Path) -> None:
    assert weights_fingerprint(save_tiny_pipeline(tmp_path / "other", seed=1), COMPONENTS) != weights_fingerprint(
        model, COMPONENTS
    )


def test_a_setting_of_the_network_changes_it_and_a_version_does_not(model: Path) -> None:
    before, path = weights_fingerprint(model, COMPONENTS), model / "unet" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"_diffusers_version": "9.9", "_name_or_path": "elsewhere"}))
    assert weights_fingerprint(model, COMPONENTS) == before
    path.write_text(json.dumps(config | {"flip_sin_to_cos": False}))
    assert weights_fingerprint(model, COMPONENTS) != before


def test_only_the_files_that_would_be_loaded_count(model: Path) -> None:
    plain = weights_fingerprint(model, COMPONENTS)
    assert weights_fingerprint(model, COMPONENTS, variant="fp16") == plain  # there is none, so the plain files load
    variant = unet_file(model).with_name("diffusion_pytorch_model.fp16.safetensors")
    variant.write_bytes(b"half")
    unet_file(model).with_suffix(".bin").write_bytes(b"pickle")
    assert weights_fingerprint(model, COMPONENTS) == plain
    assert weights_fingerprint(model, COMPONENTS, variant="fp16") != plain


def test_a_component_without_weights_counts_with_its_files(model: Path) -> None:
    before = weights_fingerprint(model, ("tokenizer",))
    file = next(path for path in sorted((model / "tokenizer").iterdir()) if path.suffix == ".json")
    file.write_text(file.read_text() + " ")
    assert weights_fingerprint(model, ("tokenizer",)) != before


def test_a_missing_component_is_refused(model: Path) -> None:
    with pytest.raises(DiffTuneError, match="^There is no folder text_encoder_2"):
        weights_fingerprint(model, ("unet", "text_encoder_2"))


def test_the_commit_of_a_folder_in_the_hubs_cache() -> None:
    assert hub_commit(Path("hub/models--a--b/snapshots/0123abc")) == "0123abc"
    assert hub_commit(Path("models/mine")) is None
