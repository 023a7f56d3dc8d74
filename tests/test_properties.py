# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for all values: of the laws of noise levels, the loss, and the batch plan. Hypothesis looks for ones for which it
does not."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import assume, given
from hypothesis import strategies as st

from diffusers_difftune.data.plan import BatchPlan
from diffusers_difftune.io.random import seeded_order
from diffusers_difftune.objective import DiffTuningObjective, NoiseDraws
from diffusers_difftune.objective.noise_levels import NoiseLevels, draw_levels


SCHEMES = ("none", "logit_normal", "mode", "sigma_sqrt", "cosmap")
powers = st.floats(0, 20)


@st.composite
def levels(draw: st.DrawFn) -> NoiseLevels:
    """Noise levels of a diffusion or a flow-matching scheduler."""
    count = draw(st.integers(2, 60))
    if draw(st.booleans()):
        return NoiseLevels.of(DDPMScheduler(num_train_timesteps=count))
    shift, scheme = draw(st.floats(0.2, 8)), draw(st.sampled_from(SCHEMES))
    return NoiseLevels.of(FlowMatchEulerDiscreteScheduler(num_train_timesteps=count, shift=shift), scheme)


@given(levels(), powers, powers)
def test_coefficients_lean_the_right_way_and_laws_are_laws(found: NoiseLevels, p: float, q: float) -> None:
    order = found.noise.argsort()  # from data to noise, whatever the scheduler's own order is
    psi, xi = found.reconsolidation_coefficient(p)[order], found.retention_coefficient(q)[order]
    assert (psi.diff() >= 0).all() and (xi.diff() <= 0).all()
    for coefficient in (psi, xi):
        law = found.law(coefficient)
        assert (law >= 0).all() and law.sum().item() == pytest.approx(1, abs=1e-12)


@given(levels(), powers, st.integers(0, 2**32 - 1))
def test_weighting_has_the_expectation_of_sampling(found: NoiseLevels, power: float, seed: int) -> None:
    loss = np.random.default_rng(seed).exponential(size=len(found)) * found.loss_weight.numpy()
    for coefficient in (found.reconsolidation_coefficient(power), found.retention_coefficient(power)):
        sampled = math.fsum(found.law(coefficient).numpy() * loss)
        weighted = math.fsum((found.base * found.weight(coefficient)).numpy() * loss)
        assert weighted == pytest.approx(sampled, rel=1e-9)


@given(levels(), powers, st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_a_drawn_level_is_possible_and_rises_with_the_number(
    found: NoiseLevels, power: float, numbers: list[float]
) -> None:
    law = found.law(found.reconsolidation_coefficient(power))
    drawn = draw_levels(law, torch.tensor(sorted(numbers), dtype=torch.float64))
    assert (drawn.diff() >= 0).all() and (law[drawn] > 0).all()


@given(
    st.integers(1, 12), st.floats(0.01, 0.99), st.floats(0, 3), powers, powers, st.integers(0, 2**32 - 1), st.data()
)
def test_parts_of_a_batch_sum_up_to_it(
    rows: int, share: float, weight: float, p: float, q: float, seed: int, data: st.DataObject
) -> None:
    """However it is cut into micro-steps, and whatever rows are source rows."""
    objective = DiffTuningObjective(
        DDPMScheduler(num_train_timesteps=50), share, weight, p, q, data.draw(st.sampled_from(("sampled", "weighted")))
    )
    generator = torch.Generator().manual_seed(seed)
    latents, answer, noise = (torch.randn(rows, 2, 2, 2, generator=generator) for _ in range(3))
    uniform, is_source = torch.rand(rows, generator=generator), torch.rand(rows, generator=generator) < share
    ends = sorted(data.draw(st.sets(st.integers(1, max(1, rows - 1)), max_size=4)) | {0, rows})

    def loss(start: int, end: int) -> torch.Tensor:
        part = slice(start, end)
        noisy = objective.add_noise(latents[part], is_source[part], NoiseDraws(uniform[part], noise[part]))
        losses = objective.loss(answer[part], noisy, batch_size=rows)
        return torch.stack([losses.total, losses.reconsolidation, losses.retention]).double()

    whole = loss(0, rows)
    parts = sum(loss(start, end) for start, end in zip(ends, ends[1:]))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert (whole >= 0).all() and whole[0] == pytest.approx(float(whole[1] + weight * whole[2]), rel=1e-5)


plans = st.builds(
    BatchPlan,
    seed=st.integers(0, 2**64 - 1),
    batch_size=st.integers(1, 24),
    source_share=st.sampled_from((0.0, 0.05, 0.2, 0.25, 0.333, 0.5, 0.9)),
    num_target=st.integers(1, 15),
    num_source=st.integers(1, 15),
)


@given(plans, st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
def test_every_layout_of_a_batch_has_the_same_rows(plan: BatchPlan, step: int, world: int, accumulation: int) -> None:
    assume(plan.batch_size % (world * accumulation) == 0)
    per_process = plan.batch_size // (world * accumulation)
    laid_out = [
        plan.slot(step, (micro * world + rank) * per_process + row)
        for micro in range(accumulation)
        for rank in range(world)
        for row in range(per_process)
    ]
    assert laid_out == [plan.slot(step, position) for position in range(plan.batch_size)]


@given(plans, st.integers(0, 50), st.integers(1, 60))
def test_each_row_comes_once_an_epoch_and_the_share_is_met(plan: BatchPlan, first: int, count: int) -> None:
    slots = [plan.slot(step, position) for step in range(first, first + count) for position in range(plan.batch_size)]
    share = Fraction(str(plan.source_share))
    assert abs(sum(slot.is_source for slot in slots) - share * len(slots)) <= 1
    for is_source, rows in ((False, plan.num_target), (True, plan.num_source)):
        epochs: dict[int, list[int]] = {}
        for slot in slots:
            if slot.is_source == is_source:
                epochs.setdefault(slot.epoch, []).append(slot.row)
        for number, seen in epochs.items():
            assert len(seen) == len(set(seen)) and set(seen) <= set(range(rows))
            assert len(seen) == rows or number in (min(epochs), max(epochs)), "only the ends may be cut"


@given(st.integers(0, 2**64 - 1), st.integers(0, 1000), st.integers(1, 200))
def test_orders_are_permutations(seed: int, epoch: int, count: int) -> None:
    assert sorted(seeded_order(seed, "target order", epoch, count)) == list(range(count))
