# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The denoising loss by noise level against denoisers whose loss is known."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.forgetting import (
    LossByLevel,
    denoising_loss_by_level,
    equally_spaced_levels,
    forgetting,
    forgetting_difference,
    increase_error,
    relative_increase,
)
from diffusers_difftune.objective import DiffTuningObjective


DDPM = DDPMScheduler()
LATENTS = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(0))
CONDITION = {"prompt": LATENTS.clone()}  # tells the denoiser the answer


class Denoiser(torch.nn.Module):
    """Holds what is wrong with its answers: a constant in every number."""

    def __init__(self, wrong: float = 0.0):
        super().__init__()
        self.wrong = torch.nn.Parameter(torch.tensor(wrong))


def backbone(levels, kind):
    """Knows the clean latents from the condition, and so the noise."""

    def predict(denoiser, sample, timesteps, condition):
        index = (levels.timesteps[None] == timesteps[:, None]).float().argmax(1)
        a, b = (x[index].float().view(-1, 1, 1, 1) for x in (levels.signal, levels.noise))
        clean = condition["prompt"]
        noise = (sample - a * clean) / b
        answer = {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": a * noise - b * clean,
            "velocity": noise - clean,
        }[kind]
        return answer + denoiser.wrong

    return SimpleNamespace(predict=predict)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "velocity"])
def test_the_loss_of_a_denoiser_that_is_off_by_a_constant_is_its_square(kind):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0) if kind == "velocity" else DDPM
    objective = DiffTuningObjective(scheduler, prediction_type=kind)
    family = backbone(objective.levels, kind)
    exact = denoising_loss_by_level(Denoiser(0.0), family, objective, LATENTS, CONDITION)
    off = denoising_loss_by_level(Denoiser(0.5), family, objective, LATENTS, CONDITION)
    assert exact.rows.shape == (20, 6) and exact.rows.max() < 1e-6
    torch.testing.assert_close(off.rows, torch.full((20, 6), 0.25, dtype=torch.float64), atol=1e-4, rtol=0)
    assert exact.heights.diff().min() > 0  # from data to noise, whatever the scheduler's own order


def test_noise_is_a_function_of_row_and_level_alone():
    seen = []

    class Family:
        def predict(self, denoiser, sample, timesteps, condition):
            seen.append((timesteps.tolist(), sample.clone()))
            return torch.zeros_like(sample)

    objective = DiffTuningObjective(DDPM)
    runs = [
        denoising_loss_by_level(Denoiser(), Family(), objective, LATENTS, CONDITION, num_levels=3, batch_size=size)
        for size in (6, 4)
    ]
    assert torch.equal(runs[0].rows, runs[1].rows)
    some = denoising_loss_by_level(Denoiser(), Family(), objective, LATENTS[:2], {"prompt": LATENTS[:2]}, num_levels=3)
    assert torch.equal(some.rows, runs[0].rows[:, :2])
    assert not torch.equal(runs[0].rows[0], runs[0].rows[1])
    # a denoiser that answers nothing has the noise's own power as its loss
    assert runs[0].mean.mean().item() == pytest.approx(1, abs=0.2)


def test_levels_are_the_centres_of_twenty_equal_parts():
    levels = DiffTuningObjective(DDPM).levels
    assert equally_spaced_levels(levels.height, 20).tolist() == list(range(24, 1000, 50))


def curves(rows):
    heights = torch.linspace(0.1, 0.9, len(rows))
    return LossByLevel(torch.arange(len(rows)), heights, torch.tensor(rows, dtype=torch.float64))


def test_forgetting_is_the_mean_relative_increase_and_knows_its_error():
    pretrained = curves([[1.0, 3.0], [0.1, 0.3]])
    finetuned = curves([[2.0, 4.0], [0.1, 0.3]])
    assert relative_increase(finetuned, pretrained).tolist() == pytest.approx([0.5, 0])
    value, error = forgetting(finetuned, pretrained)
    assert value == pytest.approx(0.25)
    # rows (2 − 1.5·1) / 2 = 0.25 and (4 − 1.5·3) / 2 = −0.25 at the first level, halved by the mean over levels
    assert error == pytest.approx(0.125 * 2**0.5 / 2**0.5)
    assert forgetting(pretrained, pretrained) == (0, 0)
    assert increase_error(finetuned, pretrained).tolist() == pytest.approx([0.25, 0])  # 0.25 · √2 / √2 of two rows


def test_error_of_the_forgetting_is_its_spread_over_draws_of_rows():
    generator = torch.Generator().manual_seed(0)
    before = 1 + torch.rand(4, 20_000, generator=generator, dtype=torch.float64)
    after = before * (1.1 + 0.2 * torch.rand(4, 20_000, generator=generator, dtype=torch.float64))
    heights = torch.linspace(0, 1, 4)
    draws = [
        forgetting(LossByLevel(heights, heights, a), LossByLevel(heights, heights, b))
        for a, b in zip(after.split(100, 1), before.split(100, 1), strict=True)
    ]
    values, errors = torch.tensor(draws).T
    assert values.mean().item() == pytest.approx(0.2, abs=0.01)
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.15)


def test_two_models_are_compared_on_the_same_rows():
    generator = torch.Generator().manual_seed(0)
    before, hard, of_one, of_other = (
        1 + torch.rand(4, 20_000, generator=generator, dtype=torch.float64) for _ in range(4)
    )
    # what a row costs either model is mostly the row's own
    losses = [before, before * (hard + 0.1 * of_one), before * (hard + 0.1 * of_other)]
    heights = torch.linspace(0, 1, 4)
    draws = [
        [LossByLevel(heights, heights, rows) for rows in draw] for draw in zip(*(x.split(100, 1) for x in losses))
    ]
    values, errors = torch.tensor([forgetting_difference(one, other, base) for base, one, other in draws]).T
    each = torch.tensor([forgetting(one, base)[1] for base, one, _ in draws]).mean()
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.15)  # the spread over draws of rows
    assert errors.mean() < 0.3 * 2**0.5 * each  # as two independent errors would have it

    base, one, other = draws[0]
    assert values[0].item() == pytest.approx(forgetting(one, base)[0] - forgetting(other, base)[0], rel=1e-5)
    assert forgetting_difference(one, one, base) == (0, 0)
    assert forgetting_difference(one, base, base) == pytest.approx(forgetting(one, base))


def test_a_prompt_per_row_is_asked_for():
    with pytest.raises(DiffTuneError, match="2 for 6 rows"):
        denoising_loss_by_level(
            Denoiser(), SimpleNamespace(), DiffTuningObjective(DDPM), LATENTS, {"prompt": LATENTS[:2]}
        )
