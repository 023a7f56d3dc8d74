# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Measuring while a run trains: when, on which process, and on which held-out data."""

import dataclasses
import logging
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from ..data.dataset import TargetData, load_target_data
from ..data.source import HELD_OUT
from ..errors import DiffTuneError
from ..io.processes import from_main
from ..publishing.card.run import read_log
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
        every (`int`): How many optimiser steps lie between two measurements.
    """

    name: ClassVar[str]  # what the figures are called in the log
    flags: ClassVar[str]  # what the names of its flags begin with
    measures: ClassVar[str]  # the figures, for people

    def __init__(self, run: Run, held_out: TargetData, every: int) -> None:
        self.run, self.held_out, self.every = run, held_out, every
        self.data, self.samples = self.flag("data"), self.flag("samples")

    def flag(self, name: str) -> Any:
        """The value of one of its flags, such as `--evaluation_samples`."""
        return getattr(self.run.config, f"{self.flags}_{name}")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the figures beside the weights: those of one log must be of one kind."""
        names = ("samples", "guidance_scale", "inference_steps")
        flags = {f"{self.flags}_{name}": self.flag(name) for name in names}
        return {f"{self.flags}_data": self.held_out.content_key, **flags}

    @abstractmethod
    def figures(self, trainable: Trainable) -> dict[str, float]:
        """The figures of now, on this process alone."""

    def measure(self, step: int, trainable: Trainable) -> dict[str, float]:
        """The figures of now, after so many steps, which the main process prints; call it on every process."""
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
        return next((line.get(self.name, {}) for line in read_log(self.run.output_dir) if line["step"] == 0), {})


def shown(name: str, figures: dict[str, float], named: bool = True) -> str:
    """A figure as it is printed."""
    title, digits, spread = SHOWN[name]
    words = f"{title} " if named else ""
    words += f"{figures[name]:.{digits}f}"
    return f"{words} ± {figures[spread]:.{digits}f}" if named and spread in figures else words


def open_held_out(run: Run, flags: str) -> TargetData:
    """Opens and checks held-out data, as the target data are opened. The names of the flags begin with `flags`.

    Raises:
        DiffTuneError: The data cannot be opened, or have too few rows.
    """
    folder, samples = getattr(run.config, f"{flags}_data"), getattr(run.config, f"{flags}_samples")
    where = {"train_data_dir": folder, "dataset_name": None, "dataset_config_name": None, "max_train_samples": None}
    config = dataclasses.replace(run.config, **where)
    data = load_target_data(config, run.seed, config.cache_dir, HELD_OUT, f"--{flags}_data")
    data.report.tell(logger)
    if len(data) < samples:
        raise DiffTuneError(
            f"--{flags}_data {folder} has {len(data)} rows, and --{flags}_samples is {samples}; give more rows or measure"
            " fewer."
        )
    return data
