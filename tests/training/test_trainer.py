# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Training from Python: the same runs as the scripts', with callbacks, and with mistakes that are exceptions."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import diffusers_difftune
from diffusers_difftune import Callback, DiffTuneError, TextToImageLoraTrainer, TextToImageTrainer
from diffusers_difftune.config import TextToImageConfig
from diffusers_difftune.errors import Stopped

from .runs import FULL, LORA, run, same_weights, timeless


SETTINGS: dict[str, Any] = {
    "resolution": 16,
    "train_batch_size": 4,
    "max_train_steps": 4,
    "bank_steps": 2,
    "bank_batch_size": 4,
    "seed": 0,
    "learning_rate": 1e-3,
    "adam_weight_decay": 0.0,
    "lr_warmup_steps": 0,
    "report_to": "none",
}


class Recorder(Callback):
    """Writes down what it is told, and draws random numbers, which must not change the run."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def note(self, trainer: Any, *what: Any) -> None:
        torch.rand(3)
        self.events.append((trainer.step, *what))

    def on_train_begin(self, trainer: Any) -> None:
        self.note(trainer, "begin")

    def on_step_end(self, trainer: Any) -> None:
        self.note(trainer, "step")

    def on_log(self, trainer: Any, line: dict[str, Any]) -> None:
        self.note(trainer, "log", line["step"])

    def on_save(self, trainer: Any, checkpoint: Path) -> None:
        assert (checkpoint / "training_state.json").is_file()
        self.note(trainer, "save", checkpoint.name)

    def on_validate(self, trainer: Any, images: list[Path]) -> None:
        assert all(image.is_file() for image in images)
        self.note(trainer, "validate", len(images))

    def on_train_end(self, trainer: Any) -> None:
        self.note(trainer, "end")


def places(pipeline: Path, images: Path, folder: Path) -> dict[str, Path]:
    return {"pretrained_model_name_or_path": pipeline, "train_data_dir": images, "output_dir": folder}


def test_keyword_arguments_train_as_the_command_line_does(tiny_pipeline, tiny_images, tmp_path):
    script = run(FULL, tiny_pipeline, tiny_images, tmp_path / "script", "--use_ema --checkpointing_steps 2")
    recorder = Recorder()
    trainer = TextToImageTrainer(
        **places(tiny_pipeline, tiny_images, tmp_path / "python"),
        **SETTINGS,
        use_ema=True,
        checkpointing_steps=2,
        callbacks=[recorder],
    )
    folder = trainer.run()
    assert folder == tmp_path / "python"
    assert timeless(folder) == timeless(script)
    same_weights(folder, script)
    records = [json.loads((each / "run_config.json").read_text()) for each in (folder, script)]
    for record in records:
        del record["flags"]["output_dir"], record["summary"]["output_dir"], record["summary"]["bank"]["folder"]
    assert records[0] == records[1]
    assert recorder.events == [
        (0, "begin"),
        (1, "step"),
        *((2, "log", 2), (2, "save", "checkpoint-2"), (2, "step")),
        (3, "step"),
        *((4, "log", 4), (4, "save", "checkpoint-4"), (4, "step")),
        (4, "end"),
    ]


def test_a_config_and_steps_of_ones_own_train_as_the_command_line_does(tiny_pipeline, tiny_images, tmp_path):
    flags = "--validation_prompt drawing --num_validation_images 2 --validation_steps 2"
    script = run(LORA, tiny_pipeline, tiny_images, tmp_path / "script", flags)
    given = places(tiny_pipeline, tiny_images, tmp_path / "python")
    config = diffusers_difftune.TextToImageLoraTrainer.config_class(
        **{name: str(path) for name, path in given.items()},
        **SETTINGS,
        validation_prompt="drawing",
        num_validation_images=2,
        validation_steps=2,
    )
    before, recorder = dict(vars(config)), Recorder()
    trainer = TextToImageLoraTrainer(config, callbacks=[recorder])
    trainer.check()
    trainer.sample_bank()
    trainer.prepare_data()
    trainer.build()
    trainer.train()
    trainer.finish()
    assert vars(config) == before, "it is the caller's"
    assert timeless(trainer.context.output_dir) == timeless(script)
    same_weights(trainer.context.output_dir, script)
    assert [event for event in recorder.events if event[1] == "validate"] == [(2, "validate", 2), (4, "validate", 2)]


def test_a_training_step_can_be_taken_by_hand(tiny_pipeline, tiny_images, tmp_path):
    trainer = TextToImageTrainer(**places(tiny_pipeline, tiny_images, tmp_path), **SETTINGS, objective="standard")
    trainer.check()
    trainer.sample_bank()
    trainer.prepare_data()
    trainer.build()
    losses, noisy = trainer.training_step(trainer.batches[0])
    assert losses.total.requires_grad and losses.rows.shape == (4,) and not noisy.is_source.any()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"train_data_dir": None}, "There is no data to train on; give --dataset_name or --train_data_dir."),
        ({"objective": "diff"}, "--objective is 'diff'; it must be one of difftune, standard."),
        ({"max_train_steps": 0}, "--max_train_steps is 0; it must be at least 1."),
        ({"pretrained_model_name_or_path": "nowhere/at-all"}, "nowhere/at-all"),
    ],
)
def test_mistakes_are_exceptions(wrong, sentence, tiny_pipeline, tiny_images, tmp_path):
    given = places(tiny_pipeline, tiny_images, tmp_path / "run") | SETTINGS | wrong
    with pytest.raises(DiffTuneError) as caught:
        TextToImageTrainer(**given).check()
    assert sentence in str(caught.value)


def test_what_is_no_setting_is_refused(tiny_pipeline):
    with pytest.raises(TypeError, match="resolutoin"):
        TextToImageTrainer(pretrained_model_name_or_path=tiny_pipeline, resolutoin=16)
    with pytest.raises(TypeError, match="give a config or resolution, not both"):
        TextToImageTrainer(TextToImageConfig(), resolution=16)


def test_steps_have_an_order(tiny_pipeline, tiny_images, tmp_path):
    trainer = TextToImageTrainer(**places(tiny_pipeline, tiny_images, tmp_path), **SETTINGS)
    with pytest.raises(
        DiffTuneError, match=r"^TextToImageTrainer\.train\(\) is called out of turn: the next one is check\(\)"
    ):
        trainer.train()


def test_a_request_to_stop_is_told_and_the_run_goes_on(tiny_pipeline, tiny_images, tmp_path):
    class Interrupt(Callback):
        def on_step_end(self, trainer: Any) -> None:
            if trainer.step == 1:
                os.kill(os.getpid(), signal.SIGINT)  # as "interrupt the kernel" does

    whole = TextToImageTrainer(**places(tiny_pipeline, tiny_images, tmp_path / "whole"), **SETTINGS).run()
    given = places(tiny_pipeline, tiny_images, tmp_path / "stopped") | SETTINGS
    with pytest.raises(Stopped, match=r"^Stopped by SIGINT after step 2: checkpoint-2 is saved; go on with"):
        TextToImageTrainer(**given, callbacks=[Interrupt()]).run()
    resumed = TextToImageTrainer(**given, resume_from_checkpoint="latest").run()
    assert timeless(resumed) == timeless(whole)
    same_weights(resumed, whole)
