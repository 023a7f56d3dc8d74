# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The summary at the start of a run."""

import json
import logging
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from diffusers_difftune.config import (
    TextToImageConfig,
)
from diffusers_difftune.config.parse import parse_config
from diffusers_difftune.console import labelled_block
from diffusers_difftune.training.summary import moments
from diffusers_difftune.training.summary_text import caption_words, data_words, summary_rows
from diffusers_difftune.training.validation import validation_steps
from tests.tiny import save_tiny_conditions
from tests.training.runs import CLASS, FULL, LORA, arguments, environment, launch, log, run


CONTROL = "train_controlnet_difftune"
TITLE = "Summary of this run"


def block(summary: dict, width: int) -> list[str]:
    return labelled_block(TITLE, summary_rows(summary, width), width).splitlines()


def row(lines: list[str], label: str) -> str:
    """The text of a row, on one line."""
    start = next(i for i, line in enumerate(lines) if line.startswith(f"  {label} "))
    column = len(lines[start]) - len(lines[start][2 + len(label) :].lstrip())
    rest = lines[start + 1 :]
    more = [line.strip() for line in rest[: next((i for i, x in enumerate(rest) if x[2:3] != " "), len(rest))]]
    return " ".join([lines[start][column:], *more])


def num_weights(file: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(file).values())


@pytest.mark.parametrize("script", [FULL, LORA, CONTROL, CLASS])
def test_a_run_says_what_it_will_do_before_it_does_it(
    script, tiny_pipeline, tiny_dit, tiny_conditions, tmp_path, caplog, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    caplog.set_level(logging.INFO, "diffusers_difftune")
    flags = "--max_train_steps 3 --lr_scheduler cosine --lr_warmup_steps 1 --checkpointing_steps 2 --bank_samples 5"
    if script == LORA:
        flags += " --validation_prompt tree --num_validation_images 1 --validation_steps 2"
    folder = run(script, tiny_dit if script == CLASS else tiny_pipeline, tiny_conditions, tmp_path / "run", flags)

    told = [record.getMessage() for record in caplog.records]
    (shown,) = [message for message in told if message.startswith(TITLE)]
    assert told.index(shown) < next(
        i for i, message in enumerate(told) if message.startswith("Knowledge bank: 5 samples in ")
    )
    images = [f"Making 1 validation image in {folder / 'validation' / f'step-{step}'}" for step in (2, 3)]
    assert [message for message in told if message.startswith("Making")] == (images if script == LORA else [])
    assert told[-1] == f"Wrote {folder / 'README.md'}, which has code that uses the result"
    lines = shown.splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 80
    summary = json.loads((folder / "run_config.json").read_text())["summary"]
    assert lines == block(summary, 80), "the file has what was shown"

    model = summary["model"]
    if script == LORA:
        trained = num_weights(folder / "pytorch_lora_weights.safetensors")
        assert row(lines, "trains").startswith(f"lora of rank 4 on to_k to_q to_v to_out.0: {trained:,} parameters")
        assert row(lines, "validates") == "1 image after step 2, and after the last step"
    else:
        part = {FULL: "unet", CLASS: "transformer", CONTROL: "."}[script]
        trained = num_weights(folder / part / "diffusion_pytorch_model.safetensors")
        what = {FULL: "the unet", CLASS: "the transformer", CONTROL: "a ControlNet made from the denoiser"}[script]
        assert row(lines, "trains") == f"all of {what}: {trained:,} parameters"
        assert row(lines, "validates") == f"no images (no validation {'classes' if script == CLASS else 'prompts'})"
    assert model["trainable_parameters"] == trained
    whole = tiny_dit / "transformer" if script == CLASS else tiny_pipeline / "unet"
    assert model["parameters"] == num_weights(whole / "diffusion_pytorch_model.safetensors")

    assert (
        "; target rows mostly at high noise (t^1), source rows mostly at low noise ((1 - t)^1) with weight 0.1"
        in row(lines, "objective")
    )
    data = summary["data"]
    assert data["rows"] == 6 and str(data["name"]) == str(tiny_conditions)
    assert "6 rows of " in row(lines, "data")
    if script == CLASS:
        assert data["classes"] == 3 and row(lines, "classes") == "3: ash, elm, oak"
    else:
        assert row(lines, "captions") == "6 distinct; none is longer than the 32 tokens that are read"
    assert row(lines, "images") == "at 16 × 16, from shorter sides of 16"
    assert row(lines, "steps") == "3 (1.6 epochs of 6 rows); 4 rows a step (3.2 target, 0.8 source)"

    rates, curve = [line["lr"] for line in log(folder)], summary["learning_rate"]
    assert (curve["first"], curve["highest"], curve["last"]) == (rates[0], max(rates), rates[-1])
    assert curve["highest_step"] == 1 + rates.index(max(rates))
    assert row(lines, "learning rate").startswith("cosine with 1 warm-up step: first 0, highest 0.001 (step 2), last ")

    bank = row(lines, "bank")
    assert bank.startswith("5 samples of ") and "2 steps of dpm++, guidance 1" in bank
    assert summary["bank"]["network_outputs"] == 10 and summary["bank"]["as_training_steps"] == round(10 / 3 / 4, 1)
    assert row(lines, "saves") == "a checkpoint after step 2; the result after the last step"
    assert row(lines, "computes") == "in float32 on 1 process (cpu, 1 thread)"
    assert "run_config.json" in row(lines, "results")


def test_small_images_are_counted_and_a_built_bank_is_reused(tiny_pipeline, tmp_path, caplog):
    caplog.set_level(logging.INFO, "diffusers_difftune")
    images = save_tiny_conditions(tmp_path / "images", 5, (20, 12))
    flags = "--bank_samples 4 --max_train_steps 1"
    folder = run(FULL, tiny_pipeline, images, tmp_path / "run", flags)
    summary = json.loads((folder / "run_config.json").read_text())["summary"]
    expected = {"smallest": 12, "median": 12, "largest": 12, "enlarged": 5, "read": 5}
    assert summary["data"]["image_sides"] == expected
    assert row(block(summary, 120), "images") == "at 16 × 16, from shorter sides of 12; 5 are smaller and enlarged"
    bank = folder / "knowledge_bank"
    again = run(FULL, tiny_pipeline, images, tmp_path / "again", f"{flags} --knowledge_bank {bank}")
    summary = json.loads((again / "run_config.json").read_text())["summary"]
    assert summary["bank"]["there"] == summary["bank"]["samples"] == 4
    assert row(block(summary, 120), "bank").startswith("4 samples that are there in ")


def large_summary() -> dict:
    """Of a run with long names, many files and many things left out."""
    file = {"split": "train", "file": "a/" * 40 + "part.parquet", "rows": 1_234_567, "used": True}
    return {
        "model": {
            "name": "/srv/" + "very/long/" * 20 + "pipeline",
            "pipeline": "StableDiffusionPipeline",
            "denoiser": "UNet2DConditionModel",
            "parameters": 859_520_964,
            "trained": "unet",
            "trained_of": 859_520_964,
            "adapter": "lora",
            "rank": 128,
            "modules": [f"block.{i}.attention.to_q" for i in range(60)],
            "train_parameters": [],
            "trainable_parameters": 12_345_678,
            "ema": False,
        },
        "objective": {
            "name": "difftune",
            "prediction_type": "v_prediction",
            "source_share": 0.2,
            "snr_gamma": 5.0,
            "reconsolidation_power": 1.0,
            "coefficients": "weighted",
            "retention_power": 1.0,
            "retention_weight": 0.1,
            "retention_target": "pretrained",
            "retention_prompts": "empty",
        },
        "data": {
            "name": "/data/" + "folder/" * 30,
            "rows": 2_469_134,
            "files": [file, file | {"split": "validation", "used": False}, file | {"split": "test", "used": False}]
            * 4,
            "left_out": [f"{i} files of a format that is not read, such as {'x' * 90}.avif" for i in range(9)],
            "max_train_samples": 1_000_000,
            "resolution": 1024,
            "distinct_captions": 2_000_000,
            "captions_cut": {"total": 2_000_000, "count": 1234, "limit": 77, "tokens": 512},
            "image_sides": {"smallest": 64, "median": 512, "largest": 4096, "enlarged": 1200, "read": 2000},
        },
        "steps": {
            "total": 1_500_000,
            "start": 1_000_000,
            "epochs": 1234.5,
            "rows": 4096,
            "target_rows": 3276.8,
            "source_rows": 819.2,
            "train_batch_size": 16,
            "processes": 64,
            "gradient_accumulation_steps": 4,
        },
        "learning_rate": {
            "schedule": "cosine_with_restarts",
            "warmup_steps": 10_000,
            "first": 0.0,
            "highest": 1.23456e-4,
            "highest_step": 10_001,
            "last": 1e-12,
            "constant": False,
        },
        "bank": {
            "folder": "/out/" + "run/" * 30,
            "samples": 100_000,
            "there": 160,
            "prompts": "/prompts/" + "x" * 120 + ".txt",
            "distinct_prompts": 99_999,
            "guidance_scale": 7.5,
            "steps": 50,
            "solver": "unipc",
            "batch_size": 16,
            "network_outputs": 9_984_000,
            "as_training_steps": 812.5,
        },
        "events": {
            "checkpoints": {"first": 500, "every": 500, "times": 3000},
            "checkpoints_total_limit": 3,
            "validation": {"images": 4, "first": 123, "every": 1230, "times": 1219},
            "evaluation": {
                "name": "evaluation",
                "data": "/held_out/" + "folder/" * 30,
                "samples": 10_000,
                "first": 500,
                "every": 500,
                "times": 3000,
            },
        },
        "machine": {
            "mixed_precision": "bf16",
            "processes": 64,
            "device": "NVIDIA H200",
            "threads": None,
            "distribution": "FSDP",
        },
        "output_dir": "/out/" + "run/" * 40,
        "report_to": "tensorboard",
        "push_to_hub": True,
        "notes": [],
    }


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_summary_fits_on_a_screen_whatever_the_run(width):
    lines = block(large_summary(), width)
    assert len(lines) <= 25 and max(map(len, lines)) <= width
    assert [line[2:].split("  ")[0] for line in lines[1:] if line[2:3] != " "] == [
        *("model", "trains", "objective", "data", "left out", "captions", "images", "steps", "learning rate", "bank"),
        *("saves", "validates", "measures", "computes", "results"),
    ]


def test_numbers_are_not_written_as_powers_of_ten():
    rows = dict(summary_rows(large_summary(), 120))
    assert "1,234 epochs" in rows["steps"] and "4,096 rows a step" in rows["steps"]
    assert "812 training steps" in rows["bank"]
    assert rows["captions"] == "2,000,000 distinct; 1,234 are cut at 77 tokens (the longest has 512)"


def test_rows_are_told_by_split_and_file_and_what_is_left_out():
    summary = large_summary()
    files = [
        ("train", "train-0.parquet", 70, True),
        ("train", "train-1.parquet", 30, True),
        ("test", "test.parquet", 9, False),
    ]
    names = ("split", "file", "rows", "used")
    summary["data"] |= {"name": "D", "rows": 90, "files": [dict(zip(names, file)) for file in files]}
    summary["data"] |= {
        "left_out": ["3 files of formats that are not read (.avif 3), a.avif for one", "1 empty folder, b"]
    }
    rows = dict(summary_rows(summary, 120))
    assert rows["data"] == (
        "90 rows of D, drawn from 100 (--max_train_samples): train 100 in train-0.parquet, train-1.parquet;"
        " test 9 in test.parquet, not used"
    )
    assert rows["left out"] == "3 files of formats that are not read (.avif 3), a.avif for one; 1 empty folder, b"


def test_a_stream_says_which_splits_it_reads():
    files = [("train", "train.parquet", None, True), ("test", "test.parquet", 9, False)]
    names = ("split", "file", "rows", "used")
    data = {"name": "D", "rows": None, "files": [dict(zip(names, file)) for file in files], "max_train_samples": 2}
    assert data_words(data, 100) == "D, read as a stream: train in train.parquet; test 9 in test.parquet, not used"
    assert caption_words({"streamed": True}).startswith("of a stream, not counted; those longer")


def test_numbers_of_one_and_large_shares_read_well():
    summary = large_summary()
    bank = {"samples": 1, "there": 0, "steps": 1, "distinct_prompts": 1, "prompts": "captions", "folder": "/bank"}
    summary["bank"] |= bank | {"as_training_steps": 0.3}
    summary["model"] |= {"adapter": "lora", "rank": 512, "modules": ["to_q"], "train_parameters": []}
    summary["model"] |= {"trained_of": 18_464, "trainable_parameters": 360_448}
    rows = dict(summary_rows(summary, 120))
    assert rows["bank"] == (
        "1 sample of 1 prompt (captions), 1 step of unipc, guidance 7.5; to be sampled before training, about the work of"
        " 0.3 training steps"
    )
    assert rows["trains"].endswith("360,448 parameters, 1,952 % of 18.5 thousand")
    summary["bank"] |= {"there": 1}
    assert dict(summary_rows(summary, 120))["bank"].startswith("1 sample that is there in /bank; ")


def test_a_resumed_run_tells_what_is_still_to_come():
    assert moments(range(2, 9, 2), 4) == {"first": 6, "every": 2, "times": 2}
    assert moments(range(2, 9, 2), 8) == {"first": None, "every": 2, "times": 0}
    summary = large_summary()
    summary["events"] |= {"checkpoints": moments(range(2, 9, 2), 6), "checkpoints_total_limit": 1}
    saves = dict(summary_rows(summary, 120))["saves"]
    assert saves == "a checkpoint after step 8, the newest 1 kept; the result after the last step"


@pytest.mark.slow
def test_two_processes_show_it_once_and_no_bar_if_bars_are_off(tiny_pipeline, tiny_images, tmp_path):
    flags = "--max_train_steps 1 --bank_samples 4 --train_batch_size 2"
    command = launch(2, FULL, *arguments(tiny_pipeline, tiny_images, tmp_path / "run", flags))
    quiet = environment() | {"TQDM_DISABLE": "1"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(TITLE) == 1 and " 2 processes " in done.stderr
    assert "\r" not in done.stderr and "Training:" not in done.stderr and "%|" not in done.stderr


def test_when_validation_images_are_made():
    def steps(*argv: str) -> list[int]:
        return list(validation_steps(parse_config(TextToImageConfig, [*argv]), 4, 20))

    assert steps("--validation_epochs", "2") == [4, 12, 20], "after the first of every two epochs"
    assert steps("--validation_steps", "7", "--validation_epochs", "2") == [7, 14]
    assert steps("--streaming") == []


def test_a_warm_up_that_outlasts_the_run_is_told(tiny_pipeline, tiny_images, tmp_path, caplog):
    flags = "--objective standard --lr_scheduler cosine --max_train_steps 2 --lr_warmup_steps 500"
    folder = run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", flags)
    (told,) = [r.getMessage() for r in caplog.records if "warmed up" in r.getMessage()]
    assert "it reaches 2e-06, because --lr_warmup_steps is 500 and the run has 2 steps." in told
    assert max(line["lr"] for line in log(folder)) == pytest.approx(2e-6)
    assert json.loads((folder / "run_config.json").read_text())["summary"]["notes"][-1] == told
