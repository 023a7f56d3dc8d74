# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A process of a ControlNet run whose measuring, which only the main process does, runs out of memory.

    python -m torch.distributed.run --nproc_per_node 2 -m tests.failing_run FOLDER ARGUMENTS…

Each process writes what it ended with to a file in FOLDER, and holds out until all have: a launcher ends the others as
soon as one has failed, and so would hide that they wait.
"""

import os
import sys
import time
from pathlib import Path

from diffusers_difftune.trainables import Trainable
from diffusers_difftune.training.control_evaluation import ControlEvaluation
from tests.training.runs import load_script


PATIENCE = 30  # seconds


def fail(evaluation: ControlEvaluation, trainable: Trainable) -> list:
    raise MemoryError("no memory left to draw with")


def main() -> None:
    folder, *arguments = sys.argv[1:]
    ControlEvaluation.sample = fail  # type: ignore[method-assign]
    try:
        load_script("train_controlnet_difftune").main(arguments)
    except BaseException as error:
        Path(folder, os.environ["RANK"]).write_text(f"{type(error).__name__}: {error}")
    until = time.monotonic() + PATIENCE
    while len(os.listdir(folder)) < int(os.environ["WORLD_SIZE"]) and time.monotonic() < until:
        time.sleep(0.1)
    os._exit(1)  # what is left of the group need not be waited for


if __name__ == "__main__":
    main()
