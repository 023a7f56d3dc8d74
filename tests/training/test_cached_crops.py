# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A resumed run goes on with the crops that it began with, or not at all."""

import json

import pytest

from tests.tiny import save_tiny_images
from tests.training.runs import FULL, run


def test_a_checkpoint_with_crops_of_an_older_version_is_not_gone_on_with(tiny_pipeline, tmp_path, capsys):
    images, output = save_tiny_images(tmp_path / "wide", size=(24, 16)), tmp_path / "run"
    flags = f"--objective standard --checkpointing_steps 1 --cache_dir {tmp_path / 'cache'}"
    run(FULL, tiny_pipeline, images, output, f"{flags} --max_train_steps 1")
    state = output / "checkpoint-1" / "training_state.json"
    content = json.loads(state.read_text())
    assert content["settings"].pop("crops_drawn_from") == "image bytes"
    state.write_text(json.dumps(content))  # as older versions wrote it
    with pytest.raises(SystemExit) as stopped:
        run(FULL, tiny_pipeline, images, output, f"{flags} --max_train_steps 2 --resume_from_checkpoint latest")
    told = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and not (output / "checkpoint-2").exists()
    assert "--resume_from_checkpoint" in told and "cropped the 6 images that are not square at other places" in told
