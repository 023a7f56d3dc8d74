# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The batch plan and the random numbers of its rows: which row goes where, and that nothing but the place decides."""

import math
import pickle
import re
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from diffusers_difftune.data.plan import BatchPlan, RowRandom, Slot
from diffusers_difftune.io.random import counter_generator
from tests.laws import chi_square_p


SHARES = {
    0.2: Fraction(1, 5),
    0.15: Fraction(3, 20),
    0.333: Fraction(333, 1000),
    0.5: Fraction(1, 2),
    0.9: Fraction(9, 10),
}
# Every purpose the library draws numbers for; each must have a stream of its own.
PURPOSES = [
    "level",
    "noise",
    "offset",
    "perturbation",
    "posterior",
    "flip",
    "crop",
    "crop_top",
    "crop_left",
    "empty prompt",
    "caption",
]
PURPOSES += ["target order", "source order", "bank", "cached crop", "forgetting", "control evaluation"]
PURPOSES += ["evaluation", "fisher", "class rows", "source rows"]


def plan_of(
    batch_size: int, share: float = 0.2, num_target: int = 13, num_source: int = 7, seed: int = 0
) -> BatchPlan:
    return BatchPlan(seed, batch_size, share, num_target, num_source)


def slots_of(plan: BatchPlan, steps: int) -> list[Slot]:
    return [plan.slot(step, position) for step in range(steps) for position in range(plan.batch_size)]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("batch_size", range(1, 10))
def test_the_share_is_exact_over_a_period_and_never_off_by_more_than_a_row(batch_size, share):
    plan, exact = plan_of(batch_size, share), SHARES[share]
    assert plan.share == exact
    assert plan.period == (exact * batch_size).denominator
    assert plan.period == exact.denominator // math.gcd(exact.denominator, batch_size)
    periods = 2 if plan.period < 100 else 1
    is_source = [slot.is_source for slot in slots_of(plan, periods * plan.period)]
    rows = plan.period * batch_size
    for start in range(0, len(is_source), rows):
        assert sum(is_source[start : start + rows]) == exact * rows
    if periods == 2:
        assert is_source[:rows] == is_source[rows:], "the places repeat"
    for count, seen in enumerate(np.cumsum(is_source), start=1):
        assert 0 <= exact * count - int(seen) < 1
        assert plan.num_source_rows(count) == seen
    # Evenly spread: every stretch of n rows holds ⌊s·n⌋ or ⌈s·n⌉ source rows.
    seen = np.concatenate([[0], np.cumsum(is_source)])
    for stretch in (1, 3, batch_size, 20):
        counts = seen[stretch:] - seen[:-stretch]
        assert set(counts.tolist()) <= {math.floor(exact * stretch), math.ceil(exact * stretch)}


def test_the_share_of_each_batch_when_it_divides():
    plan = plan_of(10)
    for step in range(7):
        assert [plan.slot(step, p).is_source for p in range(10)] == ([False] * 4 + [True]) * 2


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_no_share_needs_no_bank(share):
    plan = BatchPlan(0, 4, share, num_target=5, num_source=0 if share == 0 else 3)
    assert any(slot.is_source for slot in slots_of(plan, 10)) == (share > 0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8, 9])
def test_every_epoch_of_each_half_is_a_permutation(batch_size):
    plan = plan_of(batch_size)
    slots = slots_of(plan, 600 // batch_size)
    for half, count in ((False, 13), (True, 7)):
        mine = [slot for slot in slots if slot.is_source == half]
        assert [slot.ordinal for slot in mine] == list(range(len(mine)))
        epochs = [mine[start : start + count] for start in range(0, len(mine) - count + 1, count)]
        assert len(epochs) > 5
        orders = []
        for number, epoch in enumerate(epochs):
            assert {slot.epoch for slot in epoch} == {number}
            assert sorted(slot.row for slot in epoch) == list(range(count))
            orders.append(tuple(slot.row for slot in epoch))
        assert len(set(orders)) == len(orders), "each epoch has an order of its own"


def test_the_two_halves_are_shuffled_independently():
    plan = plan_of(10, 0.5, num_target=40, num_source=40)
    slots = slots_of(plan, 8)
    target, source = ([s.row for s in slots if s.is_source == half] for half in (False, True))
    assert sorted(target) == sorted(source) and target != source


def test_orders_are_uniform():
    first = [plan_of(1, 0.0, num_target=10, seed=seed).slot(0, 0).row for seed in range(3000)]
    assert chi_square_p(torch.tensor(first), np.full(10, 0.1)) > 1e-3
    per_epoch = [plan_of(1, 0.0, num_target=10).slot(10 * epoch, 0).row for epoch in range(3000)]
    assert chi_square_p(torch.tensor(per_epoch), np.full(10, 0.1)) > 1e-3


def test_a_slot_depends_on_its_place_alone():
    plan = plan_of(8)
    in_order = {(step, p): plan.slot(step, p) for step in range(40) for p in range(8)}
    again = pickle.loads(pickle.dumps(plan))
    for place in sorted(in_order, key=lambda place: (place[1], -place[0])):
        assert again.slot(*place) == in_order[place]
    other_seed = plan_of(8, seed=1)
    assert [other_seed.slot(s, p).row for s, p in in_order] != [slot.row for slot in in_order.values()]
    assert [other_seed.slot(s, p).is_source for s, p in in_order] == [slot.is_source for slot in in_order.values()]


def test_the_global_batch_size_alone_decides_the_sequence():
    """8 × 1, 4 × 2 and 1 × 8, and any number of processes, only cut the same sequence differently."""
    sequence = slots_of(plan_of(8), 12)
    assert slots_of(plan_of(4), 24) == sequence
    assert slots_of(plan_of(1), 96) == sequence


# Random numbers


def raw_words(seed: int, purpose: str, step: int, position: int) -> tuple[int, ...]:
    return tuple(counter_generator(seed, purpose, step, position).bit_generator.random_raw(4).tolist())


def test_streams_of_different_places_and_purposes_do_not_overlap():
    places = list(product((0, 1), PURPOSES, (0, 1, 2, 3), (0, 1, 2, 3)))
    words = [word for place in places for word in raw_words(*place)]
    assert len(set(words)) == len(words) == 4 * len(places)


def test_streams_do_not_overlap_however_long_they_are():
    """Philox with 4 × 64 bits counts in its first words; the place sits in the last ones, 2^128 blocks apart."""
    state = counter_generator(5, "noise", 7, 3).bit_generator.state["state"]
    assert state["counter"].tolist() == [0, 0, 3, 7]
    generator = counter_generator(5, "noise", 7, 3)
    generator.standard_normal(1_000_000)
    low, carry, position, step = generator.bit_generator.state["state"]["counter"].tolist()
    assert 0 < low < 2**32 and (carry, position, step) == (0, 3, 7)
    keys = {tuple(counter_generator(5, name, 0).bit_generator.state["state"]["key"].tolist()) for name in PURPOSES}
    assert len(keys) == len(PURPOSES), "two purposes share a stream"


def test_every_purpose_of_the_library_is_in_the_list_above():
    """So that a new purpose is checked for a stream of its own."""
    package = Path(__file__).parents[1] / "diffusers_difftune"
    text = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    used = re.findall(r'\.(?:uniform|integer|normal)\("([^"]+)"', text)
    used += re.findall(r'counter_generator\(\s*[\w.]+,\s*"([^"]+)"', text)
    used += ["source order", "target order"]
    assert len(set(used)) > 8
    assert set(used) <= set(PURPOSES)


@pytest.mark.parametrize("changed", ["seed", "purpose", "step", "position"])
def test_numbers_of_different_places_are_uncorrelated(changed):
    def numbers(seed: int = 0, purpose: str = "noise", step: int = 5, position: int = 5) -> np.ndarray:
        return RowRandom(seed, step, position).normal(purpose, (40_000,)).numpy()

    other = {"seed": 1, "purpose": "posterior", "step": 6, "position": 6}[changed]
    assert np.array_equal(numbers(), numbers())
    correlation = np.corrcoef(numbers(), numbers(**{changed: other}))[0, 1]
    assert abs(correlation) < 5 / math.sqrt(40_000)


def test_first_numbers_over_steps_and_positions_have_their_law():
    """The first number of each stream is what training sees, so its law over places is what counts."""
    rows = [RowRandom(3, step, position) for step in range(250) for position in range(16)]
    uniform = np.array([row.uniform("level") for row in rows])
    assert uniform.min() >= 0 and uniform.max() < 1
    assert kstest(uniform, "uniform").pvalue > 1e-3
    normal = np.array([row.normal("noise", (2,)).numpy() for row in rows])
    assert kstest(normal[:, 0], "norm").pvalue > 1e-3
    assert kstest(normal[:, 1], "norm").pvalue > 1e-3
    bound = 5 / math.sqrt(len(rows))
    assert abs(np.corrcoef(uniform[:-1], uniform[1:])[0, 1]) < bound, "between neighbouring positions"
    assert abs(np.corrcoef(uniform[:-16], uniform[16:])[0, 1]) < bound, "between neighbouring steps"
    assert abs(np.corrcoef(uniform, normal[:, 0])[0, 1]) < bound, "between purposes"
    picks = torch.tensor([row.integer("caption", 5) for row in rows])
    assert chi_square_p(picks, np.full(5, 0.2)) > 1e-3


def test_normal_is_standard_float32_of_the_asked_shape():
    numbers = RowRandom(0, 0, 0).normal("noise", (4, 100, 50))
    assert numbers.shape == (4, 100, 50) and numbers.dtype == torch.float32
    assert kstest(numbers.flatten().numpy(), "norm").pvalue > 1e-3


def test_any_seed_works():
    for seed in (0, 2**31, 2**63, 2**64 - 1, -1):
        assert 0 <= RowRandom(seed, 0, 0).uniform("level") < 1
    assert RowRandom(2**31, 0, 0).uniform("level") != RowRandom(0, 0, 0).uniform("level")
