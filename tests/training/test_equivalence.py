# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that must be the same run: batch layouts, processes, resuming, retention off."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from . import runs
from .runs import FULL, LORA, assert_same_run, losses, run, unet


@pytest.fixture(scope="module")
def whole(tiny_pipeline, tiny_images, tmp_path_factory):
    """A run with the global batch of 8 in one piece."""
    return run(FULL, tiny_pipeline, tiny_images, tmp_path_factory.mktemp("whole"), "--train_batch_size 8")


@pytest.mark.parametrize("rows, accumulation", [(4, 2), (1, 8)])
def test_accumulation_does_not_change_the_run(whole, tiny_pipeline, tiny_images, tmp_path, rows, accumulation):
    flags = f"--train_batch_size {rows} --gradient_accumulation_steps {accumulation}"
    assert_same_run(run(FULL, tiny_pipeline, tiny_images, tmp_path, flags), whole)


def test_caching_does_not_change_the_run(whole, tiny_pipeline, tiny_images, tmp_path):
    assert_same_run(run(FULL, tiny_pipeline, tiny_images, tmp_path, "--train_batch_size 8 --no_cache"), whole)


def test_workers_do_not_change_the_run(whole, tiny_pipeline, tiny_images, tmp_path):
    folder = run(FULL, tiny_pipeline, tiny_images, tmp_path, "--train_batch_size 8 --dataloader_num_workers 2")
    assert losses(folder) == losses(whole)


@pytest.mark.parametrize(
    "script, flags",
    [
        (FULL, "--use_ema --random_flip --gradient_accumulation_steps 2 --lr_scheduler cosine"),
        (LORA, "--lora_dropout 0.2 --lora_alpha 8 --no_cache"),
    ],
)
def test_resuming_is_bit_identical(script, flags, tiny_pipeline, tiny_images, tmp_path):
    flags += " --max_train_steps 5 --checkpointing_steps 2"
    whole = run(script, tiny_pipeline, tiny_images, tmp_path / "whole", flags)
    resumed = run(script, tiny_pipeline, tiny_images, tmp_path / "resumed", flags)
    (resumed / "checkpoint-4" / "training_state.json").unlink()  # as if killed after step 4, before its checkpoint
    run(script, tiny_pipeline, tiny_images, tmp_path / "resumed", f"{flags} --resume_from_checkpoint latest")
    assert losses(resumed) == losses(whole)
    weights = [path.relative_to(whole) for path in whole.rglob("*.safetensors") if "checkpoint-2" not in path.parts]
    assert len(weights) >= 3
    for path in weights:
        tensors, expected = load_file(resumed / path), load_file(whole / path)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected), path


def test_without_retention_and_with_power_0_diff_tuning_is_standard(tiny_pipeline, tiny_images, tmp_path):
    standard = run(FULL, tiny_pipeline, tiny_images, tmp_path / "standard", "--objective standard")
    off = "--source_share 0 --reconsolidation_power 0"
    difftune = run(FULL, tiny_pipeline, tiny_images, tmp_path / "difftune", off)
    assert losses(standard) == losses(difftune)
    assert not (difftune / "knowledge_bank").exists()
    for name, weight in unet(standard).items():
        assert torch.equal(weight, unet(difftune)[name])


def test_weighted_and_sampled_coefficients_differ_in_draws_only(tiny_pipeline, tiny_images, tmp_path):
    sampled = run(FULL, tiny_pipeline, tiny_images, tmp_path / "sampled")
    weighted = run(FULL, tiny_pipeline, tiny_images, tmp_path / "weighted", "--coefficients weighted")
    assert losses(sampled) != losses(weighted)


def test_a_run_may_be_prolonged_with_the_bank_it_has(tiny_pipeline, tiny_images, tmp_path, caplog):
    run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", "--max_train_steps 2 --checkpointing_steps 2")
    manifest = (tmp_path / "run" / "knowledge_bank" / "manifest.json").read_text()
    longer = "--max_train_steps 4 --resume_from_checkpoint latest"
    assert "goes on with the knowledge bank that it has" not in caplog.text
    run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", longer)
    said = "goes on with the knowledge bank that it has, of 1 sample; one of this length would sample 3 by default"
    assert said in caplog.text
    assert (tmp_path / "run" / "knowledge_bank" / "manifest.json").read_text() == manifest
    bank = f"--max_train_steps 4 --knowledge_bank {tmp_path / 'run' / 'knowledge_bank'}"
    assert losses(tmp_path / "run") == losses(run(FULL, tiny_pipeline, tiny_images, tmp_path / "whole", bank))


def test_a_run_without_a_seed_that_is_begun_again_goes_on_with_its_bank(
    tiny_pipeline, tiny_images, tmp_path, monkeypatch
):
    monkeypatch.setattr(runs, "FLAGS", runs.FLAGS.replace("--seed 0", ""))
    first = run(FULL, tiny_pipeline, tiny_images, tmp_path / "first")
    killed = tmp_path / "killed"  # before its bank was whole
    shutil.copytree(first / "knowledge_bank", killed / "knowledge_bank")
    (killed / "knowledge_bank" / "data" / "shard-00000.parquet").unlink()
    manifest, record = killed / "knowledge_bank" / "manifest.json", json.loads((first / "run_config.json").read_text())
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"shards": {}}))
    (killed / "run_config.json").write_text(json.dumps({name: record[name] for name in record if name != "card"}))
    assert losses(run(FULL, tiny_pipeline, tiny_images, killed)) == losses(first)


def test_gradients_are_whole_whatever_accelerate_divides_by(tiny_pipeline, tiny_images, tmp_path, monkeypatch):
    """`accelerate launch` may set another number of accumulation steps than the flag, which decides."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1024")
    clipped = "--train_batch_size 8 --max_grad_norm 0.01"
    again = run(FULL, tiny_pipeline, tiny_images, tmp_path / "again", clipped)
    monkeypatch.delenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    assert losses(again) == losses(run(FULL, tiny_pipeline, tiny_images, tmp_path / "plain", clipped))
