# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The loss log: `training_log.jsonl` in the run folder, and the trackers.

Losses stay on the device and are fetched once every [`TrainingLog.EVERY`] steps, so that logging never makes the
device wait.
"""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..io.atomic import write_bytes_atomic
from ..objective import DiffTuningLoss, NoisyBatch
from ..publishing.card.run import read_log


@dataclass
class Step:
    """An optimiser step whose losses are still on the device."""

    losses: torch.Tensor | None = None  # (reconsolidation, retention) of this process
    # The losses and the noise levels of the rows of each micro-step.
    rows: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    lr: float = 0.0
    gradient_norm: torch.Tensor | None = None  # of all processes
    was_left_out: bool = False  # since something was not finite


class NotFinite(Exception):
    """The loss or the gradient of a step is not finite."""

    def __init__(self, number: int, step: Step) -> None:
        super().__init__(f"step {number}")
        self.number, self.step = number, step


class TrainingLog:
    """Collects the losses of each step and writes them in batches. Of an older log, lines after `start_step`, where the run
    (re)starts, are cut off; `pending` is what [`pending`] said when the run was stopped there."""

    EVERY = 10
    BINS = 10

    def __init__(
        self,
        path: Path,
        accelerator: Accelerator,
        batch_size: int,
        retention_weight: float,
        start_step: int = 0,
        pending: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.accelerator = path, accelerator
        self.batch_size, self.retention_weight = batch_size, retention_weight
        self.written = start_step
        self.steps: list[Step] = []
        self.step = Step()
        self.bins = None
        if pending is not None and accelerator.is_main_process:  # the others add to it
            self.bins = torch.tensor(pending["bins"], device=accelerator.device)
        self.noted: dict[int, dict[str, Any]] = {}
        self.started = time.perf_counter()
        if accelerator.is_main_process:
            kept = []
            if path.is_file() and start_step:
                lines = path.read_text().splitlines(keepends=True)
                kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start_step]
            write_bytes_atomic(path, "".join(kept).encode())

    def add(self, losses: DiffTuningLoss, noisy: NoisyBatch) -> None:
        """Adds one micro-step's share of the losses."""
        sums = torch.stack([losses.reconsolidation, losses.retention])
        self.step.losses = sums if self.step.losses is None else self.step.losses + sums
        self.step.rows.append((losses.rows, noisy.height))
        level = (noisy.height * self.BINS).ceil().long().clamp(1, self.BINS) - 1
        place = level + self.BINS * noisy.is_source.long()
        bins = torch.zeros(2, 2 * self.BINS, device=losses.rows.device)
        counted = losses.rows.isfinite()
        bins[0].index_add_(0, place, torch.where(counted, losses.rows, 0))
        bins[1].index_add_(0, place, counted.float())
        self.bins = bins if self.bins is None else self.bins + bins

    def end_step(self, lr: float, gradient_norm: torch.Tensor, was_left_out: bool = False) -> None:
        """Closes an optimiser step."""
        self.step.lr, self.step.gradient_norm, self.step.was_left_out = lr, gradient_norm, was_left_out
        self.steps.append(self.step)
        self.step = Step()

    def note(self, facts: dict[str, Any]) -> None:
        """Adds more to the line of the newest step."""
        self.noted[self.written + len(self.steps)] = facts

    def due(self) -> bool:
        """Whether it is time to [`flush`]."""
        return (self.written + len(self.steps)) % self.EVERY == 0

    def flush(self, with_levels: bool = True) -> dict[str, Any] | None:
        """Writes the collected steps, and returns the last line, if there is one; call it on every process. The losses by noise
        level are written with the last line, or else are [`pending`].

        Raises:
            NotFinite: The loss or the gradient of a step was not finite, and the step was not left out; the lines of the
                steps before it are written.
        """
        if not self.steps:
            return None
        steps, self.steps = self.steps, []
        # Norms are the same on every process, so that their sums are as finite as they are; all is fetched at once.
        numbers = torch.stack([torch.cat([step.losses, step.gradient_norm.to(step.losses).view(1)]) for step in steps])
        summed = self.accelerator.reduce(numbers, "sum").tolist()
        now = time.perf_counter()
        rate = len(steps) * self.batch_size / (now - self.started)
        self.started = now
        lines: list[dict[str, Any]] = []
        wrong: Step | None = None
        for (reconsolidation, retention, norm), step in zip(summed, steps, strict=True):
            loss = reconsolidation + self.retention_weight * retention
            # A loss scaler's business are gradients: it tries how large they may be.
            numbers_used = (loss,) if self.accelerator.scaler is not None else (loss, norm)
            if not (step.was_left_out or all(map(math.isfinite, numbers_used))):
                wrong = step
                break
            self.written += 1
            lines.append(
                {
                    "step": self.written,
                    "samples_seen": self.written * self.batch_size,
                    "loss": finite(loss),
                    "loss_reconsolidation": finite(reconsolidation),
                    "loss_retention": finite(retention),
                    "lr": step.lr,
                    "images_per_second": round(rate, 2),
                    **self.noted.pop(self.written, {}),
                }
            )
        if with_levels and lines and wrong is None:
            lines[-1] |= self.by_level()
            self.bins = None
        self.write(lines)
        if wrong is not None:
            raise NotFinite(self.written + 1, wrong)
        return lines[-1]

    def by_level(self) -> dict[str, list[float | None]]:
        """The losses by noise level since they were last written."""
        sums, counts = self.accelerator.reduce(self.bins, "sum").tolist()
        means = [s / c if c else None for s, c in zip(sums, counts, strict=True)]
        return {"loss_reconsolidation_by_level": means[: self.BINS], "loss_retention_by_level": means[self.BINS :]}

    def pending(self) -> dict[str, Any] | None:
        """What is to be written with a later line; call it on every process."""
        return None if self.bins is None else {"bins": self.accelerator.reduce(self.bins, "sum").tolist()}

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Adds lines to the log, and gives them to the trackers."""
        if self.accelerator.is_main_process:
            with open(self.path, "a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        for line in lines:
            self.accelerator.log(flatten(line), step=line["step"])

    def lacks(self, step: int, name: str) -> bool:
        """Whether the line of a step was written without some figures; call it on the main process."""
        return any(line["step"] == step and name not in line for line in read_log(self.path.parent))

    def add_to(self, step: int, facts: dict[str, Any]) -> None:
        """Adds figures to a line that was written before; call it on every process."""
        if self.accelerator.is_main_process:
            whole = [line | facts if line["step"] == step else line for line in read_log(self.path.parent)]
            write_bytes_atomic(self.path, "".join(json.dumps(line) + "\n" for line in whole).encode())
        self.accelerator.log(flatten(facts), step=step)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """A context whose time does not count into images_per_second."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.started += time.perf_counter() - began


def finite(value: float) -> float | None:
    """The value as JSON can hold it."""
    return value if math.isfinite(value) else None


def flatten(line: dict[str, Any]) -> dict[str, float]:
    """A log line as tracker scalars; the loss of noise level bin 0.2-0.3 becomes `loss_retention/t_0.2-0.3`."""
    scalars = {}
    for name, value in line.items():
        if isinstance(value, list):
            for index, mean in enumerate(value):
                if mean is not None:
                    scalars[f"{name.removesuffix('_by_level')}/t_{index / 10:.1f}-{(index + 1) / 10:.1f}"] = mean
        elif isinstance(value, dict):
            scalars |= {f"{name}/{key}": number for key, number in value.items()}
        elif name != "step" and value is not None:
            scalars[name] = value
    return scalars
