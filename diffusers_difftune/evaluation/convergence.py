# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""After how many steps a ControlNet obeys its condition.

While a run trains, images are generated for a fixed set of held-out conditions, prompts and noise, the condition is
extracted from each again, and how much the two differ is logged: the *condition error*. A run's *convergence step* is
where the curve of this error crosses a threshold. docs/evaluation.md has the rule, which is the same for every method.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DiffTuneError


MIN_CONDITIONS = 32
MIN_POINTS = 30
FINAL_POINTS = 3


def condition_error(
    kind: str, given: np.ndarray | Sequence[Image.Image], found: np.ndarray | Sequence[Image.Image]
) -> dict[str, list[float]]:
    """How much the conditions found in generated images differ from those that were given, image by image.

    Args:
        kind (`str`): The kind of condition; `"edge"` is also measured by its structure.
        given (`np.ndarray` or `Sequence[PIL.Image.Image]`): The conditions that the images were generated from, RGB;
            as an array uint8 of shape `(N, H, W, 3)`.
        found (`np.ndarray` or `Sequence[PIL.Image.Image]`): Those extracted from the generated images, likewise.

    Returns:
        `dict[str, list[float]]`: `"mse"`, the mean squared error of the colours in [0, 1], and for edges also
        `"ssim"`, 1 minus the structural similarity (Wang et al., 2004), which lies in [0, 2]; 0 for equal images.

    Raises:
        DiffTuneError: The images do not match or are none, or are smaller than the window of the similarity.
    """
    pair = [stacked(images) for images in (given, found)]
    if pair[0].shape != pair[1].shape or pair[0].ndim != 4 or pair[0].shape[-1] != 3:
        raise DiffTuneError(
            f"Conditions are compared as RGB images of equal size and number; these are of shape {pair[0].shape} (given)"
            f" and {pair[1].shape} (found)."
        )
    given, found = (images.astype(np.float64) / 255 for images in pair)
    errors = {"mse": np.square(given - found).mean((1, 2, 3)).tolist()}
    if kind == "edge":
        errors["ssim"] = ssim_distance(given, found)
    return errors


def stacked(images: np.ndarray | Sequence[Image.Image]) -> np.ndarray:
    """Images as one array, which has no pixels if there are none or they differ in size."""
    arrays = [np.asarray(image) for image in images]
    return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else np.empty(0)


def ssim_distance(given: np.ndarray, found: np.ndarray) -> list[float]:
    """1 − SSIM of images of shape `(N, H, W, 3)` in [0, 1], with the usual Gaussian window of 11 pixels."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(given.shape[1:3]) < 11:
        raise DiffTuneError(
            f"The structural similarity has a window of 11 pixels; these images have {given.shape[2]} × {given.shape[1]}."
        )
    pair = [torch.from_numpy(images).permute(0, 3, 1, 2) for images in (found, given)]
    similarity = structural_similarity_index_measure(*pair, data_range=1.0, reduction="none")
    return (1 - similarity).tolist()


def default_metric(kind: str) -> str:
    """What convergence is measured by: for edges 1 − SSIM, for other conditions the MSE, as in the paper."""
    return "ssim" if kind == "edge" else "mse"


@dataclass(frozen=True)
class Curve:
    """The condition error of one run.

    Attributes:
        run (`str`): The run folder.
        condition (`str`): The kind of condition.
        objective (`str`): `"standard"` or `"difftune"`.
        seed (`int`): Seed of the run.
        num_conditions (`int`, *optional*): How many held-out conditions the error is a mean over, where it is known.
        steps (`tuple[int, ...]`): Optimiser steps, increasing, the first of them 0.
        errors (`tuple[float, ...]`): The condition error after each.
        total_steps (`int`, *optional*): How many steps the run was to take, where it is known.
    """

    run: str
    condition: str
    objective: str
    seed: int
    num_conditions: int | None
    steps: tuple[int, ...]
    errors: tuple[float, ...]
    total_steps: int | None = None

    @property
    def budget(self) -> int:
        """The steps of the run; the last that was measured where they are not known."""
        return self.total_steps or self.steps[-1]

    @property
    def final_error(self) -> float:
        """The median of the last errors, so that one outlier at the end does not count."""
        return statistics.median(self.errors[-FINAL_POINTS:])


@dataclass(frozen=True)
class Crossing:
    """Where a curve comes down to a threshold, if it does; if not, `step` is the run's budget."""

    step: float
    crossed: bool


@dataclass(frozen=True)
class Group:
    """Runs on one kind of condition, what their curves are of (`"mse"` or `"ssim"`), and the threshold of that."""

    condition: str
    metric: str
    curves: list[Curve]
    threshold: float


def read_curve(run_folder: str | Path, name: str | None = None) -> Curve:
    """Reads a run's curve from its `training_log.jsonl` and `run_config.json`.

    Args:
        run_folder (`str` or `Path`): The `--output_dir` of a training script.
        name (`str`, *optional*): The metric, `"mse"` or `"ssim"`. `None` takes [`default_metric`].

    Returns:
        [`Curve`]: The curve.

    Raises:
        DiffTuneError: It is no run folder, the run is not finished, or it has no curve of this metric that begins at
            step 0.
    """
    folder = Path(run_folder)
    config = read_run_config(folder)
    condition = config["flags"].get("condition_kind") or "unknown"
    name = name or default_metric(condition)
    log = folder / "training_log.jsonl"
    try:
        lines = [
            json.loads(line) for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
        ]
    except (OSError, ValueError) as error:
        raise DiffTuneError(f"{log} cannot be read; name the output_dir of a training script.") from error
    measured = {line["step"]: line["condition_error"] for line in lines if "condition_error" in line}
    if not measured:
        raise DiffTuneError(f"{log} has no condition errors; train with --control_evaluation_data.")
    last, total = max(line["step"] for line in lines), config.get("total_steps")
    if total is not None and last < total:
        raise DiffTuneError(f"{folder} ends at step {last} of {total}; finish that run, or leave it out.")
    missing = [step for step, errors in measured.items() if name not in errors]
    if missing:
        known = ", ".join(measured[missing[0]])
        raise DiffTuneError(f"{log} has no {name} at step {missing[0]}, only {known}; choose with --metric.")
    steps = tuple(sorted(measured))
    if steps[0] != 0:
        raise DiffTuneError(f"{log} has no condition error of step 0, which the threshold is reckoned from.")
    if len(steps) < 2:
        raise DiffTuneError(f"{log} has a single condition error, of step 0; a curve needs at least two.")
    errors = tuple(float(measured[step][name]) for step in steps)
    if not all(math.isfinite(error) and error >= 0 for error in errors):
        raise DiffTuneError(f"{log} has a condition error ({name}) that is negative or not finite.")
    count = config["flags"].get("control_evaluation_samples")
    return Curve(str(run_folder), condition, config["flags"]["objective"], config["seed"], count, steps, errors, total)


def read_run_config(folder: Path) -> dict[str, Any]:
    """The `run_config.json` of a run folder."""
    try:
        config = json.loads((folder / "run_config.json").read_text(encoding="utf-8"))
        config["flags"]["objective"], config["seed"]  # noqa: B018
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DiffTuneError(
            f"{folder} is not a run folder, because it has no run_config.json of a training script; name an output_dir."
        ) from error
    return config


def smooth(errors: Sequence[float]) -> list[float]:
    """A centred running median of five points, narrower where the curve begins and ends.

    A median leaves every curve that only falls as it is, a sudden fall too, so that it moves no crossing; a running mean
    would blunt the fall and move it. It takes out what is off at one or two points in a row, and so the early crossings
    that noise makes of a slowly falling curve: with noise of 10 % on a fall to a tenth over 100 points, an unsmoothed
    curve crosses 5 points too early, three points' median 1.3, and this one 0.4.
    """
    values, half = np.asarray(errors, dtype=np.float64), 2
    reach = [min(half, i, len(values) - 1 - i) for i in range(len(values))]
    return [float(np.median(values[i - r : i + r + 1])) for i, r in enumerate(reach)]


def threshold(step0_error: float, final_errors: Sequence[float], fraction: float = 0.5) -> float:
    """The error at which a run counts as converged.

    Args:
        step0_error (`float`): Before training.
        final_errors (`Sequence[float]`): After standard training.
        fraction (`float`, *optional*, defaults to 0.5): How far down from the one to the median of the others, on a
            log scale; 0.5 is the rule.

    Returns:
        `float`: The threshold.

    Raises:
        DiffTuneError: Standard training did not bring the error down, so that there is nothing between.
    """
    end = statistics.median(final_errors)
    if not 0 < end < step0_error:
        raise DiffTuneError(
            f"Standard training ends with a condition error of {end:.4g}, which must be above 0 and below the"
            f" {step0_error:.4g} of step 0 for a threshold to lie between; train longer, or set --threshold."
        )
    return step0_error ** (1 - fraction) * end**fraction


def crossing(curve: Curve, threshold: float) -> Crossing:
    """Where the smoothed curve, joined by straight lines, first comes down to the threshold."""
    errors = smooth(curve.errors)
    place = next((i for i, error in enumerate(errors) if error <= threshold), None)
    if place is None:
        return Crossing(float(curve.budget), False)
    if place == 0:
        return Crossing(float(curve.steps[0]), True)
    (before, after), (high, low) = curve.steps[place - 1 : place + 1], errors[place - 1 : place + 1]
    return Crossing(before + (after - before) * (high - threshold) / (high - low), True)


def broken_rules(standard: Sequence[Curve], threshold: float) -> list[str]:
    """What makes the result of these runs of standard training less than the rule asks for, a sentence each."""
    found = []
    counts = {curve.num_conditions for curve in standard if curve.num_conditions is not None}
    if counts and min(counts) < MIN_CONDITIONS:
        found.append(
            f"The error is a mean over {min(counts)} held-out conditions; the rule is {MIN_CONDITIONS} or more."
        )
    if standard:
        median = statistics.median(crossing(curve, threshold).step for curve in standard)
        points = min(sum(step < median for step in curve.steps) for curve in standard)
        if points < MIN_POINTS:
            found.append(
                f"There are {points} points before the median crossing of standard training, step {median:.0f}; the"
                f" rule is {MIN_POINTS} or more, so measure more often."
            )
    return found
