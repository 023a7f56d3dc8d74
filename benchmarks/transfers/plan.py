# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which runs a stage has."""

from dataclasses import replace

from .methods import ADAPTERS, METHODS, VARIANTS, VARIED, WEIGHTED
from .settings import STAGE_2_TARGETS, STAGE_3_TARGET, TUNING_TARGET, Recipe, Run, Size


def tuning_runs(size: Size) -> list[Run]:
    """Standard fine-tuning on the tuning target: every weighting of the loss and every learning rate, measured after every
    number of steps."""
    last = max(size.steps)
    return [
        Run(TUNING_TARGET, "standard", seed, Recipe(rate, last, False, gamma), size.steps, True)
        for gamma in size.gammas
        for seed in size.tuning_seeds
        for rate in size.rates
    ]


def adapter_tuning_runs(size: Size, recipe: Recipe) -> list[Run]:
    """The adapters without Diff-Tuning on the tuning target, at their learning rates; steps are those of the recipe."""
    return [
        Run(TUNING_TARGET, kind, seed, Recipe(rate, recipe.steps, False, recipe.snr_gamma))
        for seed in size.tuning_seeds
        for kind in ADAPTERS
        for rate in size.adapter_rates
    ]


def stage_1_runs(size: Size, recipe: Recipe) -> list[Run]:
    """The table, a seed at a time so that a stopped benchmark has whole seeds."""
    return [
        Run(target, method, seed, recipe) for seed in size.seeds for target in size.targets for method in size.methods
    ]


def stage_2_runs(size: Size, recipe: Recipe, adapter_rates: dict[str, float]) -> list[Run]:
    """Adapters with and without Diff-Tuning, and variants; standard and Diff-Tuning are stage 1's.

    What the tuning set finds best for adapters is nearly no training at all, so they are also run with their highest rate.
    """
    targets = [target for target in STAGE_2_TARGETS if target in size.targets]
    highest = dict.fromkeys(ADAPTERS, max(size.adapter_rates))
    runs = [
        Run(target, method, seed, adapter_recipe(recipe, rates, method))
        for rates in (adapter_rates, highest)
        for seed in size.seeds
        for target in targets
        for method in VARIANTS
    ]
    return list(dict.fromkeys(runs))


def adapter_recipe(recipe: Recipe, rates: dict[str, float], method: str) -> Recipe:
    """The recipe of a method; an adapter has a learning rate of its own and no moving average."""
    kind = METHODS[method].adapter
    return recipe if kind is None else Recipe(rates[kind], recipe.steps, False, recipe.snr_gamma)


def stage_3_runs(size: Size, recipe: Recipe) -> list[Run]:
    """Sensitivity and the curves over training steps, on one target with the first two seeds."""
    seeds = size.seeds[:2]
    target = STAGE_3_TARGET if STAGE_3_TARGET in size.targets else size.targets[0]
    curve = tuple(sorted({*size.steps, recipe.steps}))
    longest = replace(recipe, steps=max(curve))
    return [Run(target, method, seed, recipe) for seed in seeds for method in VARIED] + [
        Run(target, method, seed, longest, curve) for seed in seeds for method in ("standard", "difftune")
    ]


def stage_4_runs(size: Size, recipe: Recipe) -> list[Run]:
    """Stage 1 with weighted losses, which the tuning set and stage 2 spoke for, and with the p that it finds best for them."""
    return [Run(target, method, seed, recipe) for seed in size.seeds for method in WEIGHTED for target in size.targets]
