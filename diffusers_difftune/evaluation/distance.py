# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How far fine-tuning moved the weights: plainly, and weighted by how much each weight matters to what was known."""

from typing import Any

import torch
from tqdm.auto import tqdm

from ..backbones import Backbone
from ..errors import DiffTuneError
from ..io.random import counter_generator
from ..objective import DiffTuningObjective
from ..objective.noise_levels import draw_levels
from .forgetting import row_losses, standard_error


def measure_distance(
    denoiser: torch.nn.Module,
    finetuned: dict[str, torch.Tensor],
    backbone: Backbone,
    objective: DiffTuningObjective,
    latents: torch.Tensor,
    condition: dict[str, torch.Tensor],
    draws: int = 4,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The distance of fine-tuned weights θ from the pretrained ones θ*.

    The diagonal Fisher information is that of the pretrained denoiser's loss on source data, Fᵢ = E[(∂ℓ/∂θᵢ)²], by
    exact gradients of one example at a time: each row of source data is taken at `draws` noise levels, one from each of as
    many equal parts of the law that plain training draws them by, under noise that depends on (seed, row, draw) alone. ℓ
    is the training loss of the example, the mean squared error over its numbers. It is the Fisher information up to a
    constant factor (of the Gaussian likelihood that has this loss), and empirical: at the noise that is there, and not at
    answers drawn from the model.

    Fine-tuned weights are given by their names in the pretrained denoiser, which is in float32; those that are not named
    are left out.

    Returns:
        `tuple[dict, dict[str, dict]]`: In all weights, and by block of the denoiser, in its order: `l2`, ‖θ − θ*‖;
        `relative_l2`, the same by ‖θ*‖ of the weights compared; `ewc`, ½ Σᵢ Fᵢ (θᵢ − θ*ᵢ)², the penalty of elastic weight
        consolidation at λ = 1 (Kirkpatrick et al., PNAS 2017, eq. 3), and its `ewc_standard_error`, by the choice of rows;
        `num_compared` weights, of which `num_changed` are in tensors that differ at all.
    """
    parameters = dict(denoiser.named_parameters())
    for name, values in finetuned.items():
        if name not in parameters or parameters[name].shape != values.shape:
            raise DiffTuneError(f"The fine-tuned weights do not fit the pretrained denoiser: see {name}.")
    changes = {}
    for name, values in finetuned.items():
        before = parameters[name].detach()
        after = values.detach().to(before)
        if not torch.equal(before, after):
            changes[name] = after - before
    weighted = ewc_by_row(denoiser, changes, backbone, objective, latents, condition, draws, seed)

    compared = [name for name in parameters if name in finetuned]
    blocks: dict[str, list[str]] = {}
    for name in compared:
        blocks.setdefault(block_of(name), []).append(name)

    def over(names: list[str]) -> dict[str, Any]:
        rows = sum((weighted[name] for name in names if name in weighted), torch.zeros(len(latents)).double())
        squares = sum(changes[name].double().square().sum().item() for name in names if name in changes)
        norm = sum(parameters[name].detach().double().square().sum().item() for name in names)
        return {
            "l2": squares**0.5,
            "relative_l2": (squares / norm) ** 0.5 if norm else 0.0,
            "ewc": rows.mean().item(),
            "ewc_standard_error": standard_error(rows),
            "num_compared": sum(parameters[name].numel() for name in names),
            "num_changed": sum(changes[name].numel() for name in names if name in changes),
        }

    return over(compared), {block: over(names) for block, names in blocks.items()}


def ewc_by_row(
    denoiser: torch.nn.Module,
    changes: dict[str, torch.Tensor],
    backbone: Backbone,
    objective: DiffTuningObjective,
    latents: torch.Tensor,
    condition: dict[str, torch.Tensor],
    draws: int,
    seed: int,
) -> dict[str, torch.Tensor]:
    """½ Σᵢ (∂ℓ/∂θᵢ · Δᵢ)² of each row and tensor of weights, a mean over its draws; of each tensor of shape `(N,)`.

    Its mean over rows is the Fisher-weighted distance, without the Fisher information of a billion weights in memory.
    """
    chosen = {name: parameter for name, parameter in denoiser.named_parameters() if name in changes}
    found = torch.zeros(len(chosen), len(latents), dtype=torch.float64)
    if not chosen:
        return {}
    frozen, training = [p for p in chosen.values() if not p.requires_grad], denoiser.training
    for parameter in frozen:
        parameter.requires_grad_(True)
    denoiser.eval()
    device = next(iter(chosen.values())).device
    for row in tqdm(range(len(latents)), "Fisher information", leave=False):
        clean = latents[row : row + 1].to(device, torch.float32)
        given = {name: values[row : row + 1].to(device) for name, values in condition.items()}
        for draw in range(draws):
            random = counter_generator(seed, "fisher", draw, row)
            uniform = torch.tensor((draw + random.random()) / draws, dtype=torch.float64)
            level = int(draw_levels(objective.levels.base, uniform))
            noise = torch.from_numpy(random.standard_normal(clean.shape, dtype="float32")).to(clean)
            loss = row_losses(denoiser, backbone, objective, level, clean, noise, given)
            gradients = torch.autograd.grad(loss.sum(), list(chosen.values()), materialize_grads=True)
            moved = [
                (gradient.float() * changes[name].float()).square().sum(dtype=torch.float64)
                for name, gradient in zip(chosen, gradients, strict=True)
            ]
            found[:, row] += torch.stack(moved).cpu() / (2 * draws)  # one wait for the device
    for parameter in frozen:
        parameter.requires_grad_(False)
    denoiser.train(training)
    return dict(zip(chosen, found, strict=True))


def block_of(name: str) -> str:
    """The block of a denoiser that a parameter is in: `down_blocks.0`, `mid_block`, `transformer_blocks.7` …"""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first
