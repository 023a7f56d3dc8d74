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
from collections import Counter

import numpy as np
import pytest

from diffusers_difftune.data.plan import BatchPlan, RowRandom


def slots(plan: BatchPlan, steps: int):
    return [plan.slot(step, position) for step in range(steps) for position in range(plan.batch_size)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.25, 1 / 3, 0.5, 0.9])
@pytest.mark.parametrize("batch_size", range(1, 10))
def test_the_share_is_met(batch_size, share):
    share = round(share, 3)
    plan = BatchPlan(0, batch_size, share, num_target=7, num_source=5)
    steps = min(plan.period, 40)
    kinds = [slot.is_source for slot in slots(plan, 2 * steps)]
    if steps == plan.period:
        assert sum(kinds[: steps * batch_size]) * 1000 == round(share * 1000) * steps * batch_size
        assert kinds[: steps * batch_size] == kinds[steps * batch_size :]
    for rows in range(len(kinds) + 1):  # never off by more than one row
        assert abs(sum(kinds[:rows]) - share * rows) < 1 + 1e-9


@pytest.mark.parametrize("batch_size", range(1, 10))
def test_every_epoch_is_a_permutation(batch_size):
    plan = BatchPlan(3, batch_size, 0.2, num_target=12, num_source=4)
    all_slots = slots(plan, 200)
    orders = set()
    for is_source, count in ((False, 12), (True, 4)):
        rows = [slot for slot in all_slots if slot.is_source == is_source]
        assert [slot.ordinal for slot in rows] == list(range(len(rows)))
        for epoch in range(len(rows) // count):
            passed = rows[epoch * count : (epoch + 1) * count]
            assert {slot.epoch for slot in passed} == {epoch}
            order = tuple(slot.row for slot in passed)
            assert sorted(order) == list(range(count))
            orders.add(order)
    assert len(orders) > 10  # and not always the same one


def test_without_a_share_there_are_no_source_rows():
    assert not any(slot.is_source for slot in slots(BatchPlan(0, 4, 0.0, num_target=3), 10))


def test_the_batch_size_does_not_change_the_order_of_rows():
    rows = {size: slots(BatchPlan(1, size, 0.2, 9, 4), 24 // size) for size in (1, 2, 4, 8)}
    assert rows[1] == rows[2] == rows[4] == rows[8]


def test_random_numbers_depend_on_seed_step_position_and_purpose_only():
    drawn = Counter()
    for seed, step, position, purpose in [(0, 0, 0, "flip"), (1, 0, 0, "flip"), (0, 1, 0, "flip"), (0, 0, 1, "flip")]:
        drawn[RowRandom(seed, step, position).uniform(purpose)] += 1
    drawn[RowRandom(0, 0, 0).uniform("level")] += 1
    assert max(drawn.values()) == 1
    assert RowRandom(0, 0, 0).uniform("flip") == RowRandom(0, 0, 0).uniform("flip")
    assert RowRandom(-1, 0, 0).uniform("flip") != RowRandom(1, 0, 0).uniform("flip")


def test_normal_numbers_are_standard_normal():
    numbers = np.concatenate([RowRandom(0, step, 0).normal("noise", (4, 8, 8)).numpy().ravel() for step in range(100)])
    assert abs(numbers.mean()) < 0.02 and abs(numbers.std() - 1) < 0.02
    assert {RowRandom(0, step, 0).integer("crop", 4) for step in range(50)} == {0, 1, 2, 3}
