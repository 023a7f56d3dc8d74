# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Measuring while a run trains: when, on which process, and on which held-out data."""

import dataclasses
import json
import logging
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from ..data.dataset import TargetData, load_target_data
from ..data.source import HELD_OUT
from ..errors import DiffTuneError
from ..io.processes import from_main
from ..trainables import Trainable
from .run import Run


logger = logging.getLogger(__name__)
# The figures that are printed, by what they are called in the log: a name for people, digits, and the figure of its spread.
SHOWN = {
    "fid": ("FID", 2, None),
    "kid": ("KID", 5, "kid_std"),
    "precision": ("precision", 3, None),
    "recall": ("recall", 3, None),
    "clip_score": ("CLIP score", 2, None),
    "mse": ("mean squared error", 5, None),
    "ssim": ("1 - SSIM", 4, None),
}


class Evaluation(ABC):
    """Figures of the weights that would be saved now, which are measured before the first step, every so many steps, and
    after the last, always on the same held-out rows.

    Args:
        run ([`Run`]): The run.
        held_out ([`TargetData`]): The held-out rows.

    Attributes:
        name (`str`): What the figures are called in the log.
        flags (`str`): What the names of its flags begin with.
        data (`str`): Where the held-out rows are, as the flag says.
        samples (`int`): How many are used.
        every (`int`): How many optimiser steps lie between two measurements.
    """

    name: ClassVar[str]
    flags: ClassVar[str]
    data: str
    samples: int
    every: int

    def __init__(self, run: Run, held_out: TargetData) -> None:
        self.run, self.held_out = run, held_out

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides the figures beside the weights: those of one log must be of one kind."""

    @abstractmethod
    def figures(self, trainable: Trainable) -> dict[str, float]:
        """The figures of now, on this process alone."""

    def due(self, step: int) -> bool:
        """Whether to measure after this many steps."""
        return step % self.every == 0

    def measure(self, step: int, trainable: Trainable) -> dict[str, float]:
        """The figures of now, which the main process prints; call it on every process.

        Args:
            step (`int`): How many steps were done.
            trainable ([`Trainable`]): What trains.

        Returns:
            `dict[str, float]`: The figures.
        """
        with self.run.whole_weights():
            figures = from_main(self.run.accelerator, self.run.stop.giving_way(lambda: self.figures(trainable)))
        if self.run.accelerator.is_main_process:
            logger.info(self.in_words(step, figures))
        return figures

    def in_words(self, step: int, figures: dict[str, float]) -> str:
        """The figures in a line, with those of the start behind them."""
        words = f"Step {step:,}: {', '.join(shown(name, figures) for name in SHOWN if name in figures)}"
        start = {} if step == 0 else self.at_start()
        before = [shown(name, start, named=False) for name in SHOWN if name in figures and name in start]
        return words + (f" (at the start {', '.join(before)})" if before else "")

    def at_start(self) -> dict[str, float]:
        """The figures of step 0, by the log; none if they were not measured."""
        with open(self.run.output_dir / "training_log.jsonl") as file:
            first = json.loads(file.readline() or "{}")
        return first.get(self.name, {}) if first.get("step") == 0 else {}


def shown(name: str, figures: dict[str, float], named: bool = True) -> str:
    """A figure as it is printed."""
    title, digits, spread = SHOWN[name]
    words = f"{title} " if named else ""
    words += f"{figures[name]:.{digits}f}"
    return f"{words} ± {figures[spread]:.{digits}f}" if named and spread in figures else words


def open_held_out(run: Run, flag: str, folder: str, samples: int) -> TargetData:
    """Opens and checks held-out data, as the target data are opened; loads no weights.

    Args:
        run ([`Run`]): The run.
        flag (`str`): What the names of the flags begin with: `"evaluation"` for `--evaluation_data`.
        folder (`str`): What that flag says.
        samples (`int`): What `--evaluation_samples` says.

    Returns:
        [`TargetData`]: The held-out rows.

    Raises:
        DiffTuneError: The data cannot be opened, or have too few rows.
    """
    where = {"train_data_dir": folder, "dataset_name": None, "dataset_config_name": None, "max_train_samples": None}
    config = dataclasses.replace(run.config, **where)
    data = load_target_data(config, run.seed, config.cache_dir, HELD_OUT, f"--{flag}_data")
    data.report.tell(logger)
    if len(data) < samples:
        raise DiffTuneError(
            f"--{flag}_data {folder} has {len(data)} rows, and --{flag}_samples is {samples}; give more rows or measure"
            " fewer."
        )
    return data
