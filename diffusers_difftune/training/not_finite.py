# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What to say when a loss or a gradient is not finite: the step, the rows, their noise levels, and what is left to go on from."""

import logging
from pathlib import Path

import torch
from accelerate.utils import gather_object

from ..data.stream import StreamedTarget
from ..errors import DiffTuneError
from .batches import PlannedBatches
from .checkpoint_files import list_checkpoints
from .log import NotFinite


logger = logging.getLogger(__name__)
SHOWN = 4  # rows
# So many steps in a row that are left out are not an accident.
MOST_LEFT_OUT = 20


class LeftOutSteps:
    """Which optimiser steps to leave out because their gradient is not finite, with `--skip_nonfinite_steps`. Without it
    nobody looks, which would wait for the device."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.in_a_row = 0

    def next(self, gradient_norm: torch.Tensor) -> bool:
        """Whether to leave out a step, by its gradient's norm, the same on every process; raises a [`DiffTuneError`] if it
        would be one too many in a row."""
        if not self.wanted or gradient_norm.isfinite():
            self.in_a_row = 0
            return False
        self.in_a_row += 1
        if self.in_a_row > MOST_LEFT_OUT:
            raise DiffTuneError(
                f"--skip_nonfinite_steps: {self.in_a_row} steps in a row have no finite gradient, so nothing is learned any"
                " more; try a lower --learning_rate or another --mixed_precision, from the last checkpoint."
            )
        logger.warning("A step is left out: its gradient is not finite.")
        return True


def not_finite_error(error: NotFinite, batches: PlannedBatches, output_dir: Path) -> DiffTuneError:
    """The mistake to end a run with; call it on every process."""
    rows = sorted(gather_object(bad_rows(error, batches)))
    checkpoints = list_checkpoints(output_dir)
    where = f"{checkpoints[-1].name} is the last good checkpoint" if checkpoints else "there is no checkpoint yet"
    if not rows:
        what = "the gradient is not finite, though the losses are"
    else:
        shown = ", ".join(text for _, text in rows[:SHOWN])
        more = f" and {len(rows) - SHOWN} more of its {batches.plan.batch_size} rows" if len(rows) > SHOWN else ""
        what = f"the loss is not finite for {shown}{more}"
    return DiffTuneError(
        f"Step {error.number}: {what}; {where}. Try a lower --learning_rate or --max_grad_norm or another"
        " --mixed_precision, or leave such steps out with --skip_nonfinite_steps."
    )


def bad_rows(error: NotFinite, batches: PlannedBatches) -> list[tuple[int, str]]:
    """The rows of this process whose loss is not finite, by their position in the global batch."""
    found = []
    for micro, (losses, heights) in enumerate(error.step.rows):
        first = (micro * batches.world_size + batches.rank) * batches.train_batch_size
        for place in (~losses.isfinite()).nonzero().flatten().tolist():
            text = f"{row_name(batches, error.number - 1, first + place)} at noise level {heights[place].item():.3f}"
            found.append((first + place, text))
    return found


def row_name(batches: PlannedBatches, step: int, position: int) -> str:
    """How people find the row that was in a place of a global batch."""
    slot = batches.plan.slot(step, position)
    if slot.is_source:
        return f"bank sample {slot.row}"
    if isinstance(batches.target, StreamedTarget):
        return f"row {slot.ordinal} of the stream"
    return batches.target.name(slot.row)
