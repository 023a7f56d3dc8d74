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
import dataclasses
import json
from pathlib import Path

import pytest

from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.bank.manifest import MANIFEST_NAME, BankManifest
from diffusers_difftune.errors import DiffTuneError


def test_it_survives_writing_and_reading(bank: KnowledgeBank) -> None:
    assert BankManifest.read(bank.folder) == bank.manifest
    assert (bank.folder / MANIFEST_NAME).read_bytes() == bank.manifest.to_bytes()


def test_it_is_strict_json_and_names_everything(bank: KnowledgeBank) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    facts = json.loads(bank.manifest.to_bytes(), parse_constant=refuse)
    assert set(facts) == {
        "model", "revision", "weights_fingerprint", "pipeline_class", "solver", "scheduler", "steps", "guidance_scale",
        "seed", "prompt_source", "prompts_sha256", "num_samples", "shard_size", "resolution", "latent_shape", "dtype",
        "libraries", "format_version", "shards",
    }  # fmt: skip
    assert facts["pipeline_class"] == "StableDiffusionPipeline"
    assert facts["scheduler"]["class"] == "DPMSolverMultistepScheduler"
    assert set(facts["libraries"]) == {"diffusers-difftune", "diffusers", "torch", "transformers"}
    assert facts["latent_shape"] == [4, 8, 8] and facts["dtype"] == "float32"


def test_shards_are_fixed_batches(bank: KnowledgeBank) -> None:
    manifest = bank.manifest
    assert manifest.shard_names == [f"data/shard-0000{k}.parquet" for k in range(3)]
    assert [list(manifest.shard_range(k)) for k in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert manifest.is_complete
    assert not dataclasses.replace(manifest, shards={}).is_complete
    assert not dataclasses.replace(manifest, num_samples=20).is_complete


def test_differences_are_told_by_their_flags(bank: KnowledgeBank) -> None:
    other = dataclasses.replace(bank.manifest, steps=7, model="elsewhere", prompts_sha256="a" * 64)
    clauses = bank.manifest.differences(other)
    assert clauses[0] == "--bank_steps is 7, not 3"
    assert clauses[1].startswith("the hash of the prompts is aaaaaaaaaaaa, not ")
    assert len(clauses) == 2


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        ('{"format_version": 2}', "has format 2, and this version reads format 1"),
        ('{"format_version": 1, "model": "a"}', "is damaged"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(DiffTuneError, match=message):
        BankManifest.read(tmp_path)


def test_a_folder_without_one_is_no_bank(tmp_path: Path) -> None:
    with pytest.raises(DiffTuneError, match="is not a knowledge bank: it has no manifest.json"):
        BankManifest.read(tmp_path)
