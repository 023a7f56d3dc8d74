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
"""Which checkpoints are kept, and what a run does that finds some."""

from pathlib import Path

import pytest

from diffusers_difftune.training.checkpoint import list_checkpoints
from tests.training.runs import FULL, run


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoint-*")}


def test_the_limit_removes_checkpoints_of_an_earlier_run_first(tiny_pipeline, tiny_images, tmp_path):
    flags = "--objective standard --checkpointing_steps 1 --checkpoints_total_limit 2"
    run(FULL, tiny_pipeline, tiny_images, tmp_path, f"{flags} --max_train_steps 4")
    assert checkpoints(tmp_path) == {"checkpoint-3", "checkpoint-4"}
    run(FULL, tiny_pipeline, tiny_images, tmp_path, f"{flags} --max_train_steps 1")
    assert checkpoints(tmp_path) == {"checkpoint-1", "checkpoint-4"}
    run(FULL, tiny_pipeline, tiny_images, tmp_path, f"{flags} --max_train_steps 2")
    assert checkpoints(tmp_path) == {"checkpoint-1", "checkpoint-2"}


def test_a_checkpoint_that_was_put_aside_is_left_alone(tmp_path):
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-5-good", "checkpoint-best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training_state.json").touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10"]


def test_a_finished_run_that_is_resumed_in_another_folder_has_nothing_to_do(tiny_pipeline, tiny_images, tmp_path):
    done = run(FULL, tiny_pipeline, tiny_images, tmp_path / "done", "--objective standard --checkpointing_steps 4")
    flags = f"--objective standard --resume_from_checkpoint {done / 'checkpoint-4'}"
    again = run(FULL, tiny_pipeline, tiny_images, tmp_path / "again", flags)
    assert (again / "model_index.json").is_file() and (again / "training_log.jsonl").read_text() == ""


def test_a_run_that_would_end_before_its_checkpoint_is_refused(tiny_pipeline, tiny_images, tmp_path, capsys):
    flags = "--objective standard --checkpointing_steps 4"
    run(FULL, tiny_pipeline, tiny_images, tmp_path, flags)
    with pytest.raises(SystemExit):
        run(FULL, tiny_pipeline, tiny_images, tmp_path, f"{flags} --max_train_steps 3 --resume_from_checkpoint latest")
    assert "has done 4 steps and the run ends after 3; give more --max_train_steps" in capsys.readouterr().err
    assert len((tmp_path / "training_log.jsonl").read_text().splitlines()) == 4
