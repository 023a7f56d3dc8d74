# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Two methods compared over pairs of runs: means, intervals, and what is refused."""

import json
import math

import numpy as np
import pytest

from benchmarks.paired import Pair, bootstrap_interval, compare
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.convergence import Crossing


def pair(condition, seed, standard, difftune):
    return Pair(condition, seed, Crossing(standard, True), Crossing(difftune, True))


def test_mean_step_reduction_is_over_conditions_then_paired_seeds():
    pairs = [pair("edge", 1, 100, 50), pair("edge", 2, 200, 150), pair("edge", 3, 400, 400), pair("depth", 1, 10, 9)]
    found = compare(pairs)
    assert found["conditions"]["edge"]["mean_step_reduction"] == pytest.approx(0.25)
    assert found["conditions"]["depth"]["mean_step_reduction"] == pytest.approx(0.1)
    assert found["mean_step_reduction"] == pytest.approx(0.175)  # conditions count the same, not pairs
    assert (
        found["conditions"]["edge"]["standard_steps"] == 200 and found["conditions"]["edge"]["difftune_steps"] == 150
    )
    assert found["num_pairs"] == 4 and found == compare(pairs)
    json.dumps(found)


@pytest.mark.parametrize(
    ("counts", "has_interval"),
    [((3,), False), ((4,), True), ((3, 3), False), ((9, 9), False), ((1, 1, 1), False), ((2, 1, 1), True)],
)
def test_there_is_no_interval_of_two_conditions_or_three_pairs(counts, has_interval):
    kinds = ("edge", "depth", "normal")
    pairs = [pair(kinds[i], seed, 100, 40 + 5 * i + seed) for i, count in enumerate(counts) for seed in range(count)]
    found = compare(pairs)
    assert (found["ci95"] is not None) == has_interval
    if has_interval:
        low, high = found["ci95"]
        assert low < found["mean_step_reduction"] < high
    assert all((part["ci95"] is not None) == (part["num_pairs"] > 3) for part in found["conditions"].values())


def test_runs_that_never_crossed_are_counted():
    found = compare([Pair("edge", 1, Crossing(100, True), Crossing(200, False)), pair("edge", 2, 100, 80)])
    assert found["never_crossed"] == {"standard": 0, "difftune": 1}
    assert found["conditions"]["edge"]["pairs"][0]["difftune_crossed"] is False


def test_bootstrap_interval_has_the_spread_of_both_stages():
    generator = np.random.default_rng(0)
    seeds = generator.standard_normal(400)
    low, high = bootstrap_interval([seeds], 0)  # one group: the classical interval of a mean
    assert (high - low) / 2 == pytest.approx(1.96 * seeds.std() / 20, rel=0.05)
    between = generator.standard_normal(60)
    groups = [value + 2 * generator.standard_normal(4) for value in between]
    low, high = bootstrap_interval(groups, 0)
    means = np.array([values.mean() for values in groups])
    within = np.mean([values.var() / len(values) for values in groups])
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt((means.var() + within) / 60), rel=0.06)
    assert bootstrap_interval([np.array([0.1, 0.1]), np.array([0.1])], 0) == pytest.approx([0.1, 0.1])


def test_nothing_to_compare_is_told():
    with pytest.raises(DiffTuneError, match="nothing to compare"):
        compare([])
    with pytest.raises(DiffTuneError, match="edge and seed 3 is below the threshold at step 0"):
        compare([pair("edge", 3, 0, 0)])
