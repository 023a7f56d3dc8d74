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
"""The loss log: `training_log.jsonl` in the run folder, and the trackers.

Losses stay on the device and are fetched once every [`TrainingLog.EVERY`] steps, so that logging never makes the
device wait.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..atomic import write_bytes_atomic
from ..objective import DiffTuningLoss, NoisyBatch


class TrainingLog:
    """Collects the losses of each step and writes them in batches.

    Args:
        path (`Path`): The `training_log.jsonl`.
        accelerator ([`~accelerate.Accelerator`]): Sums over processes and feeds the trackers.
        batch_size (`int`): Rows of a global batch.
        retention_weight (`float`): Weight of the retention loss in the total.
        start_step (`int`, *optional*, defaults to 0): Where the run (re)starts; later lines of an older log are cut off.
    """

    EVERY = 10
    BINS = 10

    def __init__(
        self, path: Path, accelerator: Accelerator, batch_size: int, retention_weight: float, start_step: int = 0
    ) -> None:
        self.path, self.accelerator = path, accelerator
        self.batch_size, self.retention_weight = batch_size, retention_weight
        self.written = start_step
        self.steps: list[tuple[torch.Tensor, float]] = []
        self.bins = self.current = None
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
        self.current = sums if self.current is None else self.current + sums
        level = (noisy.height * self.BINS).ceil().long().clamp(1, self.BINS) - 1
        place = level + self.BINS * noisy.is_source.long()
        bins = torch.zeros(2, 2 * self.BINS, device=losses.rows.device)
        bins[0].index_add_(0, place, losses.rows)
        bins[1].index_add_(0, place, torch.ones_like(losses.rows))
        self.bins = bins if self.bins is None else self.bins + bins

    def end_step(self, lr: float) -> None:
        """Closes an optimiser step."""
        self.steps.append((self.current, lr))
        self.current = None

    def note(self, facts: dict[str, Any]) -> None:
        """Adds more to the line of the newest step."""
        self.noted[self.written + len(self.steps)] = facts

    def write_start(self, facts: dict[str, Any]) -> None:
        """Writes what was measured before the first step, as the line of step 0."""
        line = {"step": 0, **facts}
        if self.accelerator.is_main_process:
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")
        self.accelerator.log(flatten(line), step=0)
        self.started = time.perf_counter()

    def due(self) -> bool:
        """Whether it is time to [`flush`]."""
        return (self.written + len(self.steps)) % self.EVERY == 0

    def flush(self) -> dict[str, Any] | None:
        """Writes the collected steps. Call it on every process.

        Returns:
            `dict` or `None`: The last line written; `None` if there was nothing to write.
        """
        if not self.steps:
            return None
        summed = self.accelerator.reduce(torch.stack([losses for losses, _ in self.steps]), "sum").tolist()
        bin_sums, bin_counts = self.accelerator.reduce(self.bins, "sum").tolist()
        now = time.perf_counter()
        rate = len(self.steps) * self.batch_size / (now - self.started)
        lines = []
        for (reconsolidation, retention), (_, lr) in zip(summed, self.steps, strict=True):
            self.written += 1
            lines.append(
                {
                    "step": self.written,
                    "samples_seen": self.written * self.batch_size,
                    "loss": reconsolidation + self.retention_weight * retention,
                    "loss_reconsolidation": reconsolidation,
                    "loss_retention": retention,
                    "lr": lr,
                    "images_per_second": round(rate, 2),
                    **self.noted.pop(self.written, {}),
                }
            )
        means = [s / c if c else None for s, c in zip(bin_sums, bin_counts, strict=True)]
        lines[-1]["loss_reconsolidation_by_level"] = means[: self.BINS]
        lines[-1]["loss_retention_by_level"] = means[self.BINS :]
        if self.accelerator.is_main_process:
            with open(self.path, "a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        for line in lines:
            self.accelerator.log(flatten(line), step=line["step"])
        self.steps, self.bins, self.started = [], None, now
        return lines[-1]

    def pause(self) -> "Pause":
        """A context whose time does not count into images_per_second."""
        return Pause(self)


class Pause:
    def __init__(self, log: TrainingLog) -> None:
        self.log = log

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *exception) -> None:
        self.log.started += time.perf_counter() - self.began


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
        elif name != "step":
            scalars[name] = value
    return scalars
