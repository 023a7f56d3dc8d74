# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.bank.manifest import MANIFEST_NAME, BankManifest
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.version import __version__


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
    assert clauses == ["--bank_steps is 7, not 3", "the prompts of --bank_prompts captions are others than they were"]


@pytest.mark.parametrize(
    ("changes", "clauses"),
    [
        (
            {"num_samples": 12, "prompts_sha256": "a" * 64},
            ["--bank_samples is 12, not 10 (by default a run samples as many as it draws)"],
        ),
        ({"solver": "euler", "scheduler": {"class": "EulerDiscreteScheduler"}}, ["--bank_solver is euler, not dpm++"]),
        ({"resolution": 32, "latent_shape": [4, 16, 16]}, ["--resolution is 32, not 16"]),
        ({"weights_fingerprint": "f" * 64, "model": "user/other"}, ["the model is user/other, not MODEL"]),
        (
            {"weights_fingerprint": "f" * 64},
            ["the weights or the tokenizer of MODEL are others than they were"],
        ),
        ({"libraries": {"torch": "9"}}, None),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_differences_are_told_in_words(bank: KnowledgeBank, changes: dict, clauses: list | None) -> None:
    """Never by a hash, and what follows from another difference not at all."""
    begun = dataclasses.replace(bank.manifest, shards={})  # a whole bank does not mind other libraries
    found = begun.differences(dataclasses.replace(begun, **changes))
    assert not any(re.search("[0-9a-f]{12}", clause) for clause in found)
    if clauses is None:
        assert found[0] == f"the version of diffusers-difftune is None, not {__version__}" and len(found) == 4
    else:
        assert [clause.replace(bank.manifest.model, "MODEL") for clause in found] == clauses


def test_a_changed_scheduler_is_told_by_what_changed(bank: KnowledgeBank) -> None:
    scheduler = bank.manifest.scheduler | {"beta_end": 0.02}
    found = bank.manifest.differences(dataclasses.replace(bank.manifest, scheduler=scheduler))
    assert found == ["the sampling scheduler's beta_end is 0.02, not 0.012"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        ('{"format_version": 2}', "has format 2, and this version reads format 1"),
        ('{"format_version": 1, "model": "a"}', r"is damaged \(revision is missing\)"),
        ('{"format_version": "1\\u001b[2J"}', r"has format '1\\x1b\[2J', and this version reads format 1"),
        ('{"format_version": ' + "[" * 100_000, "is damaged"),
        ('{"format_version": ' + "1" * 10_000 + "}", "is damaged"),
        ("\xff", "is damaged"),
    ],
    ids=range(9),
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(DiffTuneError, match=message):
        BankManifest.read(tmp_path)


def test_a_folder_without_one_is_no_bank(tmp_path: Path) -> None:
    with pytest.raises(DiffTuneError, match="is not a knowledge bank: it has no manifest.json"):
        BankManifest.read(tmp_path)


NAMES = [entry.name for entry in dataclasses.fields(BankManifest)]
WORDS = {
    "model",
    "revision",
    "weights_fingerprint",
    "pipeline_class",
    "solver",
    "prompt_source",
    "prompts_sha256",
    "dtype",
}
TYPES = [True, [], {}, ["a"], {"a": [1]}, math.nan, math.inf, -math.inf]
WRONG = {
    **{name: [*TYPES, 7, 0.5] + [None] * (name != "revision") for name in WORDS},
    "scheduler": [None, True, "a", 7, [], math.nan],
    "libraries": [None, True, "a", 7, [], {"torch": 2}],
    "guidance_scale": [None, *TYPES, "1", -1, 1e30, 10**30],
    "seed": [None, *TYPES, "1", 0.5, -1, 2**32, 10**30],
    **{name: [None, *TYPES, "1", 0.5, 0, -1, 10**30] for name in ("steps", "num_samples", "shard_size", "resolution")},
    "latent_shape": [None, *TYPES, "4", 7, [4, 8, 0], [4, -8, -8], [4, 8, 8.0], [4, 8, True], [4, 8, 10**30]],
    "format_version": [None, *TYPES, "1", 0, 2, -1, 10**30],
    "shards": [None, True, "a", 7, [], ["data/shard-00000.parquet"], {"data/shard-00000.parquet": 7}],
}


def tampered(bank: KnowledgeBank, folder: Path, **values: object) -> Path:
    """A copy of a bank whose manifest says something else; `...` leaves a field out."""
    shutil.copytree(bank.folder, folder, dirs_exist_ok=True)
    facts = json.loads(bank.manifest.to_bytes()) | values
    left = {name: value for name, value in facts.items() if value is not ...}
    (folder / MANIFEST_NAME).write_text(json.dumps(left))
    return folder


def test_every_field_is_in_the_table() -> None:
    assert set(WRONG) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_field_of_the_wrong_kind_is_refused(name: str, bank: KnowledgeBank, tmp_path: Path) -> None:
    for value in WRONG[name]:
        with pytest.raises(DiffTuneError, match=r"is damaged|has format") as error:
            BankManifest.read(tampered(bank, tmp_path, **{name: value}))
        assert len(str(error.value)) < 500 and (name in str(error.value) or name == "format_version")
    if name != "shards":  # without which a bank is half built
        with pytest.raises(DiffTuneError, match="is damaged"):
            BankManifest.read(tampered(bank, tmp_path, **{name: ...}))


def test_a_field_too_many_is_refused(bank: KnowledgeBank, tmp_path: Path) -> None:
    with pytest.raises(DiffTuneError, match=r"is damaged \(command is no field of it\)"):
        BankManifest.read(tampered(bank, tmp_path, command="rm"))


LIES = {
    "shards elsewhere": {"shards": {"../../elsewhere.parquet": "0" * 64}},
    "shards of other names": {"shards": {f"data/../data/shard-0000{k}.parquet": "0" * 64 for k in range(3)}},
    "other bytes": {"shards": {f"data/shard-0000{k}.parquet": "0" * 64 for k in range(3)}},
    "a sample less": {"num_samples": 9},
    "a sample more": {"num_samples": 11},
    "as many as there are numbers": {"num_samples": 2**32 - 1},
    "smaller shards": {"shard_size": 3},
    "larger latents": {"latent_shape": [4, 8, 9]},
    "as large as there are numbers": {"latent_shape": [2**32 - 1] * 3},
    "the same numbers in another order": {"latent_shape": [8, 8, 4]},
    "another model": {"weights_fingerprint": "f" * 64},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused(lie: str, bank: KnowledgeBank, tmp_path: Path) -> None:
    folder = tampered(bank, tmp_path / "bank", **LIES[lie])
    with pytest.raises(DiffTuneError, match=r"^(The bank in|.*manifest.json is damaged) .*[^.]\.$"):
        KnowledgeBank.load(folder).check(bank.manifest.weights_fingerprint, (4, 8, 8))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(NAMES), json_values)
def test_whatever_a_field_is_the_bank_is_whole_or_refused(
    bank: KnowledgeBank, tmp_path_factory: pytest.TempPathFactory, name: str, value: object
) -> None:
    """Also where the check has no model to compare with: then every sample can be read."""
    facts = json.loads(bank.manifest.to_bytes()) | {name: value}
    folder = tmp_path_factory.mktemp("mutated")
    (folder / "data").symlink_to(bank.folder / "data")
    (folder / MANIFEST_NAME).write_text(json.dumps(facts))
    try:
        opened = KnowledgeBank.load(folder).check()
    except DiffTuneError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert BankManifest.read(folder) == opened.manifest
    assert json.loads(opened.manifest.to_bytes()) == facts, "nothing was made of what was not understood"
    for index in range(len(opened)):
        assert torch.equal(opened.latents(index), bank.latents(index)) and opened.prompt(index) == bank.prompt(index)
