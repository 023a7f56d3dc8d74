# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What `test_flags_effect.py` finds out about flags with: short runs of the scripts on a tiny pipeline."""

import json
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import save_tiny_conditions, save_tiny_dit_pipeline, save_tiny_pipeline
from training_scripts import train_class_conditional_difftune as class_script
from training_scripts import train_controlnet_difftune as control_script
from training_scripts import train_text_to_image_difftune as full_script
from training_scripts import train_text_to_image_lora_difftune as lora_script


FULL, LORA, CONTROL = "train_text_to_image", "train_text_to_image_lora", "train_controlnet"
CLASS = "train_class_conditional"
SCRIPTS = {
    FULL: (full_script.main, full_script.TextToImageConfig),
    LORA: (lora_script.main, lora_script.TextToImageLoraConfig),
    CONTROL: (control_script.main, control_script.ControlNetConfig),
    CLASS: (class_script.main, class_script.ClassConditionalConfig),
}
ROWS: dict[tuple[str, str], Callable] = {}


def row(*flags: str, scripts: tuple[str, ...] = (FULL, LORA, CONTROL, CLASS)) -> Callable:
    """Enters a check as the row of these flags."""

    def enter(check: Callable) -> Callable:
        for script in scripts:
            for flag in flags:
                assert (script, flag) not in ROWS
                ROWS[script, flag] = check
        return check

    return enter


class Result:
    """What a run left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def log(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "training_log.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.log]

    @property
    def lrs(self) -> list[float]:
        return [line["lr"] for line in self.log]

    @cached_property
    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}

    def weights(self, folder: str = "") -> dict[str, torch.Tensor]:
        name = "diffusion_pytorch_model.safetensors"
        lora, adapter = "pytorch_lora_weights.safetensors", "difftune_adapter.safetensors"
        places = (f"unet/{name}", f"transformer/{name}", lora, adapter, name, f"controlnet/{name}")
        files = [self.folder / folder / place for place in places]
        return load_file(next(file for file in files if file.is_file()))

    def moved(self, other: "Result") -> float:
        """The largest difference between two results' weights."""
        mine, others = self.weights(), other.weights()
        assert mine.keys() == others.keys()
        return max((mine[name] - others[name]).abs().max().item() for name in mine)


class Lab:
    """Runs a script in this process; the same arguments run once."""

    def __init__(self, script: str, room: "Room", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
        self.script, self.room, self.tmp_path = script, room, tmp_path
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def run(self, **given) -> Result:
        """A run of its own, in a fresh folder unless `output_dir` is given."""
        given.setdefault("output_dir", self.tmp_path / f"run-{len(list(self.tmp_path.iterdir()))}")
        SCRIPTS[self.script][0](self.room.arguments(given))
        return Result(Path(given["output_dir"]))

    def shared(self, **given) -> Result:
        """A run that rows share, and must not change."""
        key = (self.script, *sorted((name, str(value)) for name, value in given.items()))
        if key not in self.room.done:
            folder = self.room.folder / f"shared-{len(self.room.done)}"
            self.room.done[key] = self.run(output_dir=folder, **given)
        return self.room.done[key]

    @property
    def plain(self) -> Result:
        return self.shared()

    def tuned(self, **given) -> Result:
        return self.run(objective="difftune", knowledge_bank=self.room.bank, **given)

    @property
    def half(self) -> Result:
        """Diff-Tuning with one source row in each batch of two."""
        return self.shared(objective="difftune", knowledge_bank=self.room.bank, source_share=0.5)

    def refused(self, **given) -> str:
        with pytest.raises(SystemExit) as caught:
            self.run(**given)
        assert caught.value.code == 2
        message = self.capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("error: ")
        return message

    def spy(self, owner: object, name: str) -> list[tuple[tuple, dict]]:
        """Records the calls of a function, which still does its work."""
        calls, original = [], getattr(owner, name)

        def recording(*args, **kwargs):
            calls.append((args, kwargs))
            return original(*args, **kwargs)

        self.monkeypatch.setattr(owner, name, recording)
        return calls


class Room:
    """What rows share: pipelines, images (with labels and control images), a bank and the runs that are compared with.

    Args:
        folder (`Path`): Where the rest goes.
        pipeline (`Path`): The pretrained pipeline.
        images (`Path`): The target data.
        script (`str`, *optional*): Samples the bank.
    """

    def __init__(self, folder: Path, pipeline: Path, images: Path, script: str = FULL) -> None:
        self.folder, self.pipeline, self.images, self.script = folder, pipeline, images, script
        self.done: dict[tuple, Result] = {}
        self.defaults = {
            "pretrained_model_name_or_path": pipeline,
            "train_data_dir": images,
            "cache_dir": folder / "cache",
            "resolution": 16,
            "train_batch_size": 2,
            "max_train_steps": 2,
            "learning_rate": 1e-3,
            "seed": 0,
            "objective": "standard",
            "report_to": "none",
        }

    def arguments(self, given: dict) -> list[str]:
        """A command line: the defaults, and what is given in their place; `None` leaves a flag out."""
        argv = []
        for flag, value in (self.defaults | given).items():
            if value is not None and value is not False:
                argv.append(f"--{flag}")
            if value is not None and not isinstance(value, bool):
                argv += [str(item) for item in (value if isinstance(value, list) else [value])]
        return argv

    @cached_property
    def other_pipeline(self) -> Path:
        save = save_tiny_dit_pipeline if self.script == CLASS else save_tiny_pipeline
        return save(self.folder / "other-pipeline", seed=1)

    @cached_property
    def wide_images(self) -> Path:
        return save_tiny_conditions(self.folder / "wide-images", size=(40, 24))

    @cached_property
    def other_images(self) -> Path:
        """Images with other captions and labels, and in another folder."""
        folder = save_tiny_conditions(self.folder / "other-images")
        metadata = folder / "metadata.jsonl"
        other = metadata.read_text().replace('"text": "a', '"text": "something else, a')
        metadata.write_text(other.replace('"label": "ash"', '"label": "yew"'))
        return folder

    @cached_property
    def hub_cache(self) -> Path:
        """A cache of downloads with user/tiny in it: branch main is the pipeline, branch v2 the other pipeline."""
        cache = self.folder / "hub-cache"
        repo = cache / "models--user--tiny"
        for branch, commit, pipeline in (("main", "a" * 40, self.pipeline), ("v2", "b" * 40, self.other_pipeline)):
            shutil.copytree(pipeline, repo / "snapshots" / commit)
            (repo / "refs").mkdir(exist_ok=True)
            (repo / "refs" / branch).write_text(commit)
        return cache

    @cached_property
    def bank(self) -> Path:
        """A knowledge bank of four samples."""
        run = self.folder / "bank-run"
        given = {"objective": "difftune", "bank_samples": 4, "bank_steps": 2, "max_train_steps": 1, "output_dir": run}
        SCRIPTS[self.script][0](self.arguments(given))
        return run / "knowledge_bank"


def same(first: Result, second: Result) -> bool:
    """Whether two runs had the same losses to the last digit, as they have when a flag does nothing."""
    return first.losses == second.losses


def is_close(first: Result, second: Result) -> bool:
    """Whether they had the same losses but for the order of sums."""
    return first.losses == pytest.approx(second.losses, rel=1e-5)


def images(result: Result) -> set[str]:
    """The validation images of a run."""
    return {name.removeprefix("validation/") for name in result.files if name.startswith("validation/")}
