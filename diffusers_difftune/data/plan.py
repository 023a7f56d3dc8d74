# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows make up each batch, and the random numbers of each row.

Everything here is a pure function of (seed, optimiser step, position in the global batch). Processes and accumulation
micro-steps only select positions, so 8×1 = 4×2 = 1×8, one process equals two, and resuming is starting at step k.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch

from ..io.random import counter_generator, seeded_order


@dataclass(frozen=True)
class Slot:
    """One place in a global batch.

    Attributes:
        is_source (`bool`): Whether a knowledge bank row goes here.
        row (`int`): Which row of the target data (or of the bank).
        epoch (`int`): How many times the target data (or the bank) was gone through before.
        ordinal (`int`): How many target (or source) rows came before in the whole run.
    """

    is_source: bool
    row: int
    epoch: int
    ordinal: int


@dataclass(frozen=True)
class BatchPlan:
    """The order in which target and source rows are trained on.

    All rows of a run form one sequence, global batch after global batch. Of that sequence every (1 / share)-th row is
    a source row, spread as evenly as whole numbers allow, so a share that does not divide the batch is met exactly
    over a plan period, and never off by more than one row. Target rows and bank rows are each gone through in a new
    seeded order every epoch.

    Args:
        seed (`int`): The run's seed.
        batch_size (`int`): The rows of a global batch, over all processes and accumulation micro-steps.
        source_share (`float`): The requested fraction of source rows, in [0, 1).
        num_target (`int`): Rows of target data, at least 1.
        num_source (`int`): Rows of the knowledge bank; at least 1 unless the share is 0.
    """

    seed: int
    batch_size: int
    source_share: float
    num_target: int
    num_source: int = 0

    @cached_property
    def share(self) -> Fraction:
        """The requested share as the decimal fraction that was written."""
        return Fraction(str(self.source_share))

    @property
    def period(self) -> int:
        """After how many optimiser steps the places of the source rows repeat."""
        return (self.share * self.batch_size).denominator

    def num_source_rows(self, rows: int) -> int:
        """How many of the first `rows` rows of the run are source rows."""
        return rows * self.share.numerator // self.share.denominator

    def slot(self, step: int, position: int) -> Slot:
        """What goes to `position` of the global batch of optimiser step `step` (counted from 0)."""
        index = step * self.batch_size + position
        source_before = self.num_source_rows(index)
        is_source = self.num_source_rows(index + 1) > source_before
        ordinal = source_before if is_source else index - source_before
        count, name = (self.num_source, "source order") if is_source else (self.num_target, "target order")
        epoch, place = divmod(ordinal, count)
        return Slot(is_source, int(seeded_order(self.seed, name, epoch, count)[place]), epoch, ordinal)


@dataclass(frozen=True)
class RowRandom:
    """The random numbers of one row of one global batch, each by its purpose."""

    seed: int
    step: int
    position: int

    def uniform(self, purpose: str) -> float:
        """A number in [0, 1)."""
        return float(counter_generator(self.seed, purpose, self.step, self.position).random())

    def integer(self, purpose: str, count: int) -> int:
        """A whole number in 0 … count − 1."""
        return int(counter_generator(self.seed, purpose, self.step, self.position).integers(count))

    def normal(self, purpose: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A standard normal tensor, float32."""
        generator = counter_generator(self.seed, purpose, self.step, self.position)
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
