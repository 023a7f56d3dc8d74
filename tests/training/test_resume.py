# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What a resumed run does with flags, data and a bank that are not those it began with: none of it is silent."""

import json
import re
import shutil
from pathlib import Path

import pytest

from diffusers_difftune.bank.manifest import MANIFEST_NAME, BankManifest
from diffusers_difftune.training.checkpoint_files import read_settings
from diffusers_difftune.training.differences import FACTS, differences
from tests.tiny import save_tiny_images
from tests.training.runs import FULL, arguments, load_script, log, losses, same_weights


RESUME = "--resume_from_checkpoint latest --max_train_steps 4"


@pytest.fixture(scope="module")
def begun(tiny_pipeline, tiny_images, tmp_path_factory) -> Path:
    """A run of two steps with a bank of its own, sampled for a file of prompts. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "prompts.txt").write_text("a green bar\na blue cross\n")
    run(tiny_pipeline, tiny_images, folder / "run", f"--max_train_steps 2 --bank_prompts {folder / 'prompts.txt'}")
    return folder


def run(pipeline: Path, images: Path, folder: Path, flags: str, without: str = "") -> Path:
    """A run whose command line lacks some of the usual flags, each of which has one value."""
    words = arguments(pipeline, images, folder, f"--checkpointing_steps 2 --source_share 0.5 {flags}")
    for flag in without.split():
        while flag in words:
            place = words.index(flag)
            del words[place : place + 2]
    load_script(FULL).main(words)
    return folder


def refused(capsys, *rest) -> str:
    with pytest.raises(SystemExit):
        run(*rest)
    return capsys.readouterr().err.strip().splitlines()[-1]


def sampled(folder: Path) -> dict:
    """What the record of a run says of its bank's sampling."""
    flags = json.loads((folder / "run_config.json").read_text())["flags"]
    return {name: value for name, value in flags.items() if name.startswith("bank_")}


def test_bank_flags_that_are_not_what_the_bank_was_sampled_with_are_refused(
    begun, tiny_pipeline, tiny_images, tmp_path, capsys, caplog
):
    folder = tmp_path / "run"
    shutil.copytree(begun / "run", folder)
    before = sampled(folder)
    rest = (tiny_pipeline, tiny_images, folder)
    said = refused(capsys, *rest, f"{RESUME} --bank_guidance_scale 7.5 --bank_steps 9 --bank_samples 3")
    for clause in ("--bank_guidance_scale is 7.5, not 1.0", "--bank_steps is 9, not 2", "--bank_samples is 3, not 4"):
        assert clause in said
    assert "the run that is resumed goes on with the knowledge bank that it sampled" in said
    assert "--bank_prompts is empty, not" in refused(capsys, *rest, f"{RESUME} --bank_prompts empty")
    assert "--bank_solver is ddim, not dpm++" in refused(capsys, *rest, f"{RESUME} --bank_solver ddim")
    said = refused(capsys, *rest, f"{RESUME} --bank_batch_size 16")  # the default, given
    assert "--bank_batch_size is 16, not 4" in said and "--bank_steps" not in said
    assert sampled(folder) == before, "none of them came as far as the record"

    shutil.move(begun / "prompts.txt", begun / "kept.txt")
    try:
        (begun / "prompts.txt").write_text("something else\n")
        said = refused(capsys, *rest, f"{RESUME} --bank_prompts {begun / 'prompts.txt'}")
    finally:
        shutil.move(begun / "kept.txt", begun / "prompts.txt")
    assert "prompts.txt has other prompts than the bank was sampled for" in said
    shutil.copy(begun / "prompts.txt", tmp_path / "moved.txt")
    run(*rest, f"{RESUME} --bank_prompts {tmp_path / 'moved.txt'}")


def test_flags_that_are_left_out_are_those_of_the_bank(begun, tiny_pipeline, tiny_images, tmp_path):
    """Also where their defaults are others, and where more steps would draw more samples."""
    folder = tmp_path / "run"
    shutil.copytree(begun / "run", folder)
    assert BankManifest.read(folder / "knowledge_bank").num_samples == 4
    run(tiny_pipeline, tiny_images, folder, RESUME, without="--bank_steps --bank_batch_size")
    assert len(log(folder)) == 4
    manifest = BankManifest.read(folder / "knowledge_bank")
    assert sampled(folder) == manifest.flags()
    assert sampled(folder) == sampled(begun / "run"), "an uninterrupted run has the same record"
    assert sampled(folder)["bank_steps"] == 2 and sampled(folder)["bank_samples"] == 4


def test_a_bank_that_is_gone_is_sampled_again_as_it_was(begun, tiny_pipeline, tiny_images, tmp_path):
    """Or the run is resumed in another folder: a longer run would draw more samples by default, and be another run."""
    folder = tmp_path / "run"
    shutil.copytree(begun / "run", folder)
    run(tiny_pipeline, tiny_images, folder, RESUME)
    other = tmp_path / "other"
    flags = f"--resume_from_checkpoint {begun / 'run' / 'checkpoint-2'} --max_train_steps 4"
    run(tiny_pipeline, tiny_images, other, flags, without="--bank_steps --bank_batch_size")
    manifests = [(each / "knowledge_bank" / MANIFEST_NAME).read_bytes() for each in (folder, other)]
    assert manifests[0] == manifests[1]
    assert losses(folder)[2:] == losses(other)
    same_weights(other, folder)


def test_bank_flags_beside_a_bank_that_is_given_are_told(begun, tiny_pipeline, tiny_images, tmp_path, caplog):
    bank = begun / "run" / "knowledge_bank"
    folder = run(tiny_pipeline, tiny_images, tmp_path / "run", f"--knowledge_bank {bank} --bank_steps 9")
    told = [record.message for record in caplog.records if "has no use with --knowledge_bank" in record.message]
    assert told == ["--bank_steps is 9, not 2: this has no use with --knowledge_bank, whose samples are there."]
    assert sampled(folder) == BankManifest.read(bank).flags(), "the record says how its samples were made"


def test_other_data_are_told_in_numbers(begun, tiny_pipeline, tiny_images, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(begun / "run", folder)
    more = save_tiny_images(tmp_path / "more", count=8)
    said = refused(capsys, tiny_pipeline, more, folder, RESUME)
    assert f"the target data was 6 rows with 6 distinct captions from {tiny_images} and is 8 rows with 8" in said
    other = save_tiny_images(tmp_path / "other", captions=["one caption"] * 6)
    assert "and is 6 rows with 1 distinct caption from" in refused(capsys, tiny_pipeline, other, folder, RESUME)
    bank = begun / "run" / "knowledge_bank"
    given = refused(capsys, tiny_pipeline, tiny_images, folder, f"{RESUME} --knowledge_bank {bank}")
    assert f"--knowledge_bank was not given and is 4 samples of {tiny_pipeline} from {bank};" in given
    assert not re.search("[0-9a-f]{16}", said + given), "nobody knows a hash"


def test_every_setting_has_its_words(begun):
    """No setting, whatever changes it, is told by a hash or by its name in the code."""
    now = read_settings(begun / "run" / "checkpoint-2")
    then = {name: ("0" * 64 if name in ("model", "target_data") else "other") for name in now if name != FACTS}
    assert len(then) > 40
    clauses = differences(then | {"controlnet": True}, now)
    assert len(clauses) == len(then)
    for clause in clauses:
        assert clause.startswith(("--", "the ", "it trained "))
        assert not re.search("[0-9a-f]{16}", clause.replace(str(begun.parent), "")), clause
    then = {"extractor's kind": "edge", "control_evaluation_data": "a", "control_evaluation_samples": 2}
    now = {"extractor's kind": "sketch", "control_evaluation_data": "b", "control_evaluation_samples": 3}
    assert differences(then, now) == [
        "the extractor's kind was edge and is sketch",
        "--control_evaluation_data has other rows than it had",
        "--control_evaluation_samples was 2 and is 3",
    ]
