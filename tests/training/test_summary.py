# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The summary at the start of a run."""

import json
import logging
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from diffusers_difftune.config import TextToImageConfig
from diffusers_difftune.config.parse import parse_config
from diffusers_difftune.console import counted, labelled_block
from diffusers_difftune.data.cut import CutCaptions
from diffusers_difftune.data.report import FileRows
from diffusers_difftune.training.summary import caption_words, data_words, percent, plain, save_words, short, when
from diffusers_difftune.training.validation import validation_steps
from tests.tiny import save_tiny_conditions
from tests.training.runs import CLASS, FULL, LORA, arguments, environment, launch, log, run


CONTROL = "train_controlnet_difftune"
TITLE = "Summary of this run"


def told_in(folder: Path) -> dict[str, str]:
    """The texts of a run's summary by their labels, by its record."""
    return json.loads((folder / "run_config.json").read_text())["summary"]


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
    summary = told_in(folder)
    assert summary.pop("notes") == []
    assert lines == labelled_block(TITLE, list(summary.items()), 80).splitlines(), "the file has what was shown"

    if script == LORA:
        trained = num_weights(folder / "pytorch_lora_weights.safetensors")
        assert row(lines, "trains").startswith(
            f"lora of rank 4 on to_k to_q to_v to_out.0 of the unet: {trained:,} parameters,"
        )
        assert row(lines, "validates") == "1 image after step 2, and after the last step"
    else:
        part = {FULL: "unet", CLASS: "transformer", CONTROL: "."}[script]
        trained = num_weights(folder / part / "diffusion_pytorch_model.safetensors")
        what = {FULL: "the unet", CLASS: "the transformer", CONTROL: "a ControlNet made from the denoiser"}[script]
        assert row(lines, "trains") == f"all of {what}: {trained:,} parameters"
        assert row(lines, "validates") == "no images"
    whole = tiny_dit / "transformer" if script == CLASS else tiny_pipeline / "unet"
    assert summary["model"].endswith(
        f" of {short(num_weights(whole / 'diffusion_pytorch_model.safetensors'))} parameters"
    )

    assert (
        "; target rows mostly at high noise (t^1), source rows mostly at low noise ((1 - t)^1) with weight 0.1"
        in row(lines, "objective")
    )
    assert summary["data"].startswith(f"6 rows of {tiny_conditions}")
    if script == CLASS:
        assert row(lines, "classes") == "3: ash, elm, oak"
    else:
        assert row(lines, "captions") == "6 distinct; none is longer than the 32 tokens that are read"
    assert row(lines, "images") == "at 16 × 16, from shorter sides of 16"
    assert row(lines, "steps") == "3 (1.6 epochs of 6 rows); 4 rows a step (3.2 target, 0.8 source)"

    rates = [line["lr"] for line in log(folder)]
    assert rates[0] == 0 and rates.index(max(rates)) == 1
    assert row(lines, "learning rate") == (
        f"cosine with 1 warm-up step: first 0, highest {max(rates):.3g} (step 2), last {rates[-1]:.3g} (step 3)"
    )

    bank = row(lines, "bank")
    assert bank.startswith("5 samples of ") and "2 steps of dpm++, guidance 1" in bank
    assert bank.endswith(f"about the work of {5 * 2 / 3 / 4:.2g} training steps (the time is told after the first 4)")
    assert row(lines, "saves") == "a checkpoint after step 2; the result after the last step"
    assert row(lines, "computes") == "in float32 on 1 process (cpu, 1 thread)"
    assert "run_config.json" in row(lines, "results")


def test_small_images_are_counted_and_a_built_bank_is_reused(tiny_pipeline, tmp_path, caplog):
    caplog.set_level(logging.INFO, "diffusers_difftune")
    images = save_tiny_conditions(tmp_path / "images", 5, (20, 12))
    flags = "--bank_samples 4 --max_train_steps 1"
    folder = run(FULL, tiny_pipeline, images, tmp_path / "run", flags)
    assert told_in(folder)["images"] == "at 16 × 16, from shorter sides of 12; 5 are smaller and enlarged"
    bank = folder / "knowledge_bank"
    again = run(FULL, tiny_pipeline, images, tmp_path / "again", f"{flags} --knowledge_bank {bank}")
    assert told_in(again)["bank"].startswith(f"4 samples that are there in {bank}; captions, ")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_summary_fits_on_a_screen_whatever_the_run(width):
    folder = "/srv/" + "very/long/" * 20 + "pipeline"
    labels = (
        "model",
        "trains",
        "objective",
        "data",
        "left out",
        "captions",
        "images",
        "steps",
        "learning rate",
        "bank",
    )
    labels += ("saves", "validates", "measures", "computes", "results")
    rows = dict.fromkeys(labels, "what is short") | {
        "model": f"{folder}, StableDiffusionPipeline",
        "trains": " ".join(f"block.{i}.attention.to_q" for i in range(60)),
        "data": ", ".join(f"{i} rows of a file" for i in range(60)),
        "left out": "; ".join(f"{i} files of a format that is not read, such as {'x' * 90}.avif" for i in range(9)),
    }
    lines = labelled_block(TITLE, list(rows.items()), width).splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= width
    assert [line[2:].split("  ")[0] for line in lines[1:] if line[2:3] != " "] == [*labels]
    assert row(lines, "model").endswith("/pipeline, StableDiffusionPipeline") and "…" in row(lines, "model")


def test_numbers_read_well():
    assert (counted(1, "row"), counted(2_000_000, "row"), counted(3, "is", "are")) == (
        "1 row",
        "2,000,000 rows",
        "3 are",
    )
    assert [plain(number) for number in (1234.5, 812.5, 1.63, 0.3)] == ["1,234", "812", "1.6", "0.3"]
    assert (percent(360_448 / 18_464), percent(0.00123)) == ("1,952 %", "0.12 %")
    assert (short(18_464), short(859_520_964)) == ("18.5 thousand", "860 million")


def test_captions_are_counted():
    assert caption_words(5, None) == "5 distinct"
    cut = CutCaptions(total=2_000_000, count=1234, limit=77, tokens=512)
    assert caption_words(2_000_000, cut) == "2,000,000 distinct; 1,234 are cut at 77 tokens (the longest has 512)"


def test_rows_are_told_by_split_and_file():
    files = [
        FileRows("train", "train-0.parquet", 70, True),
        FileRows("train", "train-1.parquet", 30, True),
        FileRows("test", "test.parquet", 9, False),
    ]
    assert data_words("D", 90, files, max_train_samples=90) == (
        "90 rows of D, drawn from 100 (--max_train_samples): train 100 in train-0.parquet, train-1.parquet;"
        " test 9 in test.parquet, not used"
    )
    many = [FileRows("train", f"{i}.parquet", 10, True) for i in range(4)]
    assert data_words("D", 40, many, None) == "40 rows of D: train 40 in 4 files"


def test_a_stream_says_which_splits_it_reads():
    files = [FileRows("train", "train.parquet", None, True), FileRows("test", "test.parquet", 9, False)]
    told = data_words("D", None, files, max_train_samples=2)
    assert told == "D, read as a stream: train in train.parquet; test 9 in test.parquet, not used"


def test_a_resumed_run_tells_what_is_still_to_come():
    steps = range(2, 9, 2)
    assert when(steps) == "every 2 steps (4 times)"
    assert when(steps, 4) == "after step 6 and every 2 steps from there (2 times)"
    assert (when(steps, 6), when(steps, 8)) == ("after step 8", "")
    config = TextToImageConfig(checkpointing_steps=2, checkpoints_total_limit=1)
    assert save_words(config, 8, 6) == "a checkpoint after step 8, the newest 1 kept; the result after the last step"


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
    assert told_in(folder)["notes"][-1] == told
