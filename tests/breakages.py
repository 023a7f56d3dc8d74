# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Deliberate breakages of the library, which the harness that kills runs must notice; each is called in a run's process."""

from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from diffusers_difftune.io.atomic import remove_folder
from diffusers_difftune.training.checkpoint import TrainingState
from diffusers_difftune.training.checkpoint_files import list_checkpoints


def old_checkpoints_go_first() -> None:
    """Checkpoints are removed before the new one is written."""
    write = TrainingState.write

    def wrong(state: TrainingState, *what: Any) -> None:
        for old in list_checkpoints(state.run.output_dir):
            remove_folder(old)
        write(state, *what)

    TrainingState.write = wrong


def the_schedule_begins_anew() -> None:
    """The learning rate of a resumed run warms up once more."""
    LambdaLR.load_state_dict = lambda *_: None
