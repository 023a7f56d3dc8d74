# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The difference of two KIDs over images made of the same noise, and its error."""

import pytest
import torch

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.kid_difference import kid_difference
from diffusers_difftune.evaluation.metrics import kernel_distance


def draws(generator: torch.Generator, count: int) -> torch.Tensor:
    return torch.randn(count, 4, generator=generator, dtype=torch.float64)


def test_it_is_the_difference_of_the_two_kids() -> None:
    generator = torch.Generator().manual_seed(0)
    real, one, other = draws(generator, 1500), draws(generator, 1200) + 0.3, draws(generator, 1200) + 0.1
    value, error = kid_difference(real, one, other)
    expected = kernel_distance(real, one)[0] - kernel_distance(real, other)[0]
    assert value == pytest.approx(expected, abs=0.02) and value > 5 * error
    assert kid_difference(real, other, one) == pytest.approx((-value, error))
    assert kid_difference(real, one, one) == (0, 0)


def test_the_estimate_is_gretton_and_others_sum() -> None:
    generator = torch.Generator().manual_seed(1)
    real, one, other = draws(generator, 7), draws(generator, 5), draws(generator, 5)

    def squared_discrepancy(generated: torch.Tensor) -> float:
        among = [((generated[i] @ generated[j]) / 4 + 1) ** 3 for i in range(5) for j in range(5) if i != j]
        across = [((x @ y) / 4 + 1) ** 3 for x in real for y in generated]
        return (sum(among) / 20 - 2 * sum(across) / 35).item()

    assert kid_difference(real, one, other)[0] == pytest.approx(squared_discrepancy(one) - squared_discrepancy(other))


# at the floor, where a discrepancy has no first-order part, the error is on the careful side
@pytest.mark.parametrize("from_real, most", [(1.0, 1.2), (0.5, 1.2), (0.0, 1.8)])
def test_its_error_is_its_spread_over_draws(from_real: float, most: float) -> None:
    generator = torch.Generator().manual_seed(2)
    values, errors = [], []
    for _ in range(150):
        shared = draws(generator, 60) + from_real
        one, other = (shared + 0.3 * draws(generator, 60) for _ in range(2))
        value, error = kid_difference(draws(generator, 80), one, other)
        values.append(value)
        errors.append(error)
    assert 0.83 < torch.tensor(errors).mean() / torch.tensor(values).std() < most


def test_images_come_in_pairs() -> None:
    with pytest.raises(DiffTuneError, match="compared in pairs"):
        kid_difference(torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(6, 3))
