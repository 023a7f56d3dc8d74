# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Training from Python: the same runs as the scripts', with callbacks, and with mistakes that are exceptions."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import diffusers_difftune
from diffusers_difftune import Callback, DiffTuneError, TextToImageLoraTrainer, TextToImageTrainer
from diffusers_difftune.config import TextToImageConfig
from diffusers_difftune.errors import Stopped
from diffusers_difftune.training.trainer import STEPS

from .runs import CLASS, FULL, LORA, ROOT, run, same_weights, timeless


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
        del record["flags"]["output_dir"], record["summary"]["results"]
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


def test_the_document_has_every_trainer_and_event():
    text = (ROOT / "docs" / "python_api.md").read_text()
    trainers = re.findall(r"^\| `(\w+Trainer)` \| `(\w+Config)` \| `(\w+\.py)` \|$", text, re.MULTILINE)
    assert {name for name, _, _ in trainers} == {
        name for name in diffusers_difftune.__all__ if name.endswith("Trainer")
    }
    for name, config, script in trainers:
        assert getattr(diffusers_difftune, name).config_class.__name__ == config
        assert f"import {name} " in (ROOT / "training_scripts" / script).read_text()
    events = re.findall(r"^\| `(on_\w+)\(", text, re.MULTILINE)
    assert events == [name for name in vars(Callback) if name.startswith("on_")]


def test_the_code_in_the_document_runs(tiny_pipeline, tiny_images, tmp_path):
    text = (ROOT / "docs" / "python_api.md").read_text()
    whole, steps, callback = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(whole.replace("folder = trainer.run()", ""), names)  # minutes; the settings are known
    assert re.findall(r"^trainer\.(\w+)\(\)", steps, re.MULTILINE) == list(STEPS)
    names["config"] = TextToImageConfig(**places(tiny_pipeline, tiny_images, tmp_path), **SETTINGS)
    exec(callback, names)
    ((step, loss),) = names["losses"].curve
    assert step == 4 and loss > 0


def test_the_document_has_the_files_of_the_larger_rooms():
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text[text.index("## The files of the larger rooms") : text.index("## What varies")]
    rooms = re.findall(r"^\*\*`(\w+)/`\*\*$(.*?)(?=^\*\*`|\Z)", section, re.MULTILINE | re.DOTALL)
    assert len(rooms) == 5
    for room, files in rooms:
        named = set(re.findall(r"`(\w+\.py)`", files))
        there = {path.name for path in (ROOT / "diffusers_difftune" / room).rglob("*.py")} - {"__init__.py"}
        assert named == there, room


def test_a_step_is_read_in_five_files():
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text[text.index("## One training step") : text.index("**Draws are functions of the place.**")]
    files = re.findall(r"^\| `([\w/]+\.py)` \|", section, re.MULTILINE)
    assert len(files) == 5 and all((ROOT / "diffusers_difftune" / file).is_file() for file in files)


@pytest.mark.parametrize("script", [FULL, LORA, CLASS, "train_controlnet_difftune"])
def test_what_is_wrong_with_flags_is_told_before_torch_is_imported(script):
    code = f"import sys; from training_scripts.{script} import main\ntry: main(['--max_train_steps', '0'])\n"
    code += "except SystemExit as done: assert done.code == 2 and not {'torch', 'diffusers', 'datasets'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stderr.startswith("error: --"), done.stderr
