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
"""Deliberate breakages of the library, which the harness that kills runs must notice; each is called in a run's process."""

from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from diffusers_difftune.atomic import remove_folder
from diffusers_difftune.training.checkpoint import TrainingState, list_checkpoints


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
