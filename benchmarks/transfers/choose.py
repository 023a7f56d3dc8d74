# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The choice of the recipe, and of the learning rates of adapters: by standard fine-tuning on the tuning target."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from .settings import Recipe


def recipe_scores(runs: Sequence[dict[str, Any]]) -> dict[Recipe, dict[str, float]]:
    """FID and KID of every recipe that was tried, as means over seeds.

    Args:
        runs (`Sequence[dict]`): The tuning runs: a learning rate each, measured after several steps with both weights.
    """
    found: dict[Recipe, list[dict[str, float]]] = defaultdict(list)
    for run in runs:
        for step, by_weights in run["by_step"].items():
            for weights, quality in by_weights.items():
                tried = run["recipe"]
                recipe = Recipe(tried["learning_rate"], int(step), weights == "ema", tried["snr_gamma"])
                found[recipe].append(quality)
    return {recipe: means(qualities) for recipe, qualities in found.items()}


def best_recipe(runs: Sequence[dict[str, Any]]) -> Recipe:
    """The recipe with the lowest FID."""
    scores = recipe_scores(runs)
    return min(scores, key=lambda recipe: scores[recipe]["fid"])


def adapter_scores(runs: Sequence[dict[str, Any]]) -> dict[str, dict[float, dict[str, float]]]:
    """FID and KID of every adapter by learning rate, as means over seeds."""
    found: dict[str, dict[float, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[run["method"]][run["recipe"]["learning_rate"]].append(run["quality"])
    return {kind: {rate: means(values) for rate, values in rates.items()} for kind, rates in found.items()}


def best_adapter_rates(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The learning rate of every adapter with the lowest FID."""
    return {
        kind: min(rates, key=lambda rate: rates[rate]["fid"])  # noqa: B023
        for kind, rates in adapter_scores(runs).items()
    }


def means(qualities: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(quality[name] for quality in qualities) for name in ("fid", "kid")}
