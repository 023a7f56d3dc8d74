# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The distance of weights against NumPy, and the Fisher-weighted one against gradients in closed form."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.distance import block_of, measure_distance
from diffusers_difftune.io.random import counter_generator
from diffusers_difftune.objective import DiffTuningObjective


OBJECTIVE = DiffTuningObjective(DDPMScheduler(num_train_timesteps=50))
ROWS, WIDTH = 5, 3
LATENTS = torch.randn(ROWS, WIDTH, 1, 1, generator=torch.Generator().manual_seed(0))


class Linear(torch.nn.Module):
    """Predicts W x_t + b + c, and has a weight that takes no part."""

    def __init__(self, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.unused = torch.nn.Parameter(torch.zeros(4))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)


class Family:
    """Calls [`Linear`], whose answer is the sum of its two blocks'."""

    def predict(self, denoiser, sample, timesteps, condition):
        flat = sample.flatten(1)
        return (
            sum(block(flat) for block in denoiser.blocks)[:, :, None, None] * condition["factor"][:, None, None, None]
        )


CONDITION = {"factor": torch.linspace(0.5, 1.5, ROWS)}


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def measure(pretrained, finetuned, draws=2, seed=3):
    return measure_distance(pretrained, finetuned, Family(), OBJECTIVE, LATENTS, CONDITION, draws=draws, seed=seed)


def test_plain_distance_is_numpys() -> None:
    pretrained, finetuned = Linear(0), weights(Linear(1))
    total, blocks = measure(pretrained, finetuned)
    before, after = (np.concatenate([x.numpy().ravel() for x in w.values()]) for w in (weights(pretrained), finetuned))
    assert total["l2"] == pytest.approx(np.linalg.norm(after - before), rel=1e-6)
    assert total["relative_l2"] == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-6)
    assert total["num_compared"] == total["num_changed"] == 2 * 12 + 4
    assert list(blocks) == ["unused", "blocks.0", "blocks.1"]  # in the denoiser's order
    assert blocks["unused"]["l2"] == pytest.approx(
        np.linalg.norm(finetuned["unused"] - weights(pretrained)["unused"]), rel=1e-6
    )
    assert sum(block["l2"] ** 2 for block in blocks.values()) == pytest.approx(total["l2"] ** 2, rel=1e-6)


def closed_form_fisher(pretrained: Linear, draws: int, seed: int) -> list[dict[str, np.ndarray]]:
    """The squared gradients of each row, a mean over its draws, by hand: with ŷ = k (Σ W x + b) and ℓ = |ŷ − ε|² / D,
    ∂ℓ/∂W = 2k/D · (ŷ − ε) xᵀ and ∂ℓ/∂b = 2k/D · (ŷ − ε)."""
    rows = []
    w = {name: values.double().numpy() for name, values in weights(pretrained).items()}
    for row in range(ROWS):
        squares = {name: np.zeros(values.shape) for name, values in w.items()}
        factor = CONDITION["factor"][row].item()
        for draw in range(draws):
            random = counter_generator(seed, "fisher", draw, row)
            level = int(50 * (draw + random.random()) / draws)  # plain training draws all levels alike
            noise = random.standard_normal((WIDTH,), dtype="float32").astype(float)
            signal, sigma = OBJECTIVE.levels.signal[level].item(), OBJECTIVE.levels.noise[level].item()
            x = signal * LATENTS[row].flatten().double().numpy() + sigma * noise
            answer = factor * sum(w[f"blocks.{i}.weight"] @ x + w[f"blocks.{i}.bias"] for i in (0, 1))
            error = 2 * factor / WIDTH * (answer - noise)
            for i in (0, 1):
                squares[f"blocks.{i}.weight"] += np.outer(error, x) ** 2 / draws
                squares[f"blocks.{i}.bias"] += error**2 / draws
        rows.append(squares)
    return rows


def test_weighted_distance_is_the_closed_form() -> None:
    pretrained, finetuned = Linear(0), weights(Linear(1))
    total, blocks = measure(pretrained, finetuned)
    changes = {name: (finetuned[name] - weights(pretrained)[name]).double().numpy() for name in finetuned}
    per_row = [
        {name: (squares[name] * changes[name] ** 2).sum() / 2 for name in changes}
        for squares in closed_form_fisher(pretrained, draws=2, seed=3)
    ]
    sums = np.array([sum(row.values()) for row in per_row])
    assert total["ewc"] == pytest.approx(sums.mean(), rel=1e-4)
    assert total["ewc_standard_error"] == pytest.approx(sums.std(ddof=1) / ROWS**0.5, rel=1e-4)
    of_block = np.mean([row["blocks.1.weight"] + row["blocks.1.bias"] for row in per_row])
    assert blocks["blocks.1"]["ewc"] == pytest.approx(of_block, rel=1e-4)
    assert blocks["unused"]["ewc"] == 0 < blocks["unused"]["l2"]  # far, and it matters to nothing that was known


def test_only_what_is_named_is_compared_and_only_what_differs_counts_as_changed() -> None:
    pretrained = Linear(0)
    finetuned = weights(pretrained) | {"blocks.1.bias": weights(Linear(1))["blocks.1.bias"]}
    del finetuned["unused"]
    total, blocks = measure(pretrained, finetuned)
    assert list(blocks) == ["blocks.0", "blocks.1"]
    assert (total["num_compared"], total["num_changed"]) == (24, 3)
    assert blocks["blocks.0"]["l2"] == blocks["blocks.0"]["ewc"] == 0 < total["ewc"] == blocks["blocks.1"]["ewc"]


def test_equal_weights_have_no_distance_and_the_denoiser_stays_as_it_was() -> None:
    pretrained = Linear(0).train().requires_grad_(False)
    total, _ = measure(pretrained, weights(pretrained))
    assert (total["l2"], total["ewc"], total["ewc_standard_error"], total["num_changed"]) == (0, 0, 0, 0)
    measure(pretrained, weights(Linear(1)))
    assert pretrained.training and not any(p.requires_grad for p in pretrained.parameters())
    assert all(p.grad is None for p in pretrained.parameters())


def test_a_learned_variance_is_not_in_the_loss() -> None:
    class Twice(Family):
        def predict(self, *args):
            found = super().predict(*args)
            return torch.cat([found, found + 7], 1)

    pretrained, finetuned = Linear(0), weights(Linear(1))
    plain, _ = measure(pretrained, finetuned)
    learned, _ = measure_distance(pretrained, finetuned, Twice(), OBJECTIVE, LATENTS, CONDITION, draws=2, seed=3)
    assert learned["ewc"] == pytest.approx(plain["ewc"], rel=1e-6)


@pytest.mark.parametrize("name, values", [("other", torch.zeros(3)), ("unused", torch.zeros(5))])
def test_weights_of_another_model_are_refused(name: str, values: torch.Tensor) -> None:
    with pytest.raises(DiffTuneError, match=f"do not fit the pretrained denoiser: see {name}"):
        measure(Linear(0), {name: values})


def test_blocks() -> None:
    names = ["conv_in.weight", "down_blocks.0.resnets.1.conv1.weight", "mid_block.attentions.0.norm.bias", "scale"]
    assert [block_of(name) for name in names] == ["conv_in", "down_blocks.0", "mid_block", "scale"]
