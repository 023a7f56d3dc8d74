# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which sampler makes the best bank in the fewest steps.

Two measurements. *Detail*: each sampler draws from Gaussian data, whose exact denoiser is known, under Stable
Diffusion's noise schedule; of the data's standard deviation, how much do the samples have? (1 is right; less means
that fine detail is averaged away, which retention would then teach.) *Distance*: all samplers follow the same
path from noise to image, so on a real pipeline they should end where very many steps end; how far off are they, as a
root mean square, relative to the samples' own deviation? Figures go to benchmarks/results/bank_solvers.json.

    python benchmarks/bank_solvers.py
    python benchmarks/bank_solvers.py --pipeline FOLDER --resolution 512 --device cuda
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DiffusionPipeline

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.bank.prompts import read_prompts
from diffusers_difftune.bank.sampler import Sampler
from diffusers_difftune.bank.solver import SOLVERS, solver_settings


ROOT = Path(__file__).resolve().parents[1]
STEPS = (10, 20, 25, 50, 100)
DEVIATIONS = (0.05, 0.2, 1.0)
REFERENCE_STEPS = 500


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=ROOT / "examples/icons/pipeline", help="A pipeline's folder.")
    parser.add_argument("--resolution", type=int, default=32, help="Side of the images in pixels.")
    parser.add_argument("--samples", type=int, default=32, help="Samples of the real pipeline, in one batch.")
    parser.add_argument("--prompts", default="empty", help="As --bank_prompts of the training scripts.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/bank_solvers.json")
    arguments = parser.parse_args(argv)

    report = {
        "detail": {
            solver: {steps: {d: detail(solver, steps, d) for d in DEVIATIONS} for steps in STEPS} for solver in SOLVERS
        }
    }
    print(f"Share of the deviation {DEVIATIONS} of Gaussian data that the samples have")
    for solver, by_steps in report["detail"].items():
        for steps, shares in by_steps.items():
            print(f"  {solver:<6} {steps:>4} steps   " + "   ".join(f"{share:.3f}" for share in shares.values()))

    if (arguments.pipeline / "model_index.json").is_file():
        pipeline = load_backbone(arguments.pipeline).pipeline(None, torch.device(arguments.device), torch.float32)
        report["distance"] = distances(pipeline, arguments)
        print(f"Distance from ddim with {REFERENCE_STEPS} steps, relative to the samples' deviation")
        for solver, by_steps in report["distance"].items():
            print(f"  {solver:<6} " + "   ".join(f"{steps}: {value:.4f}" for steps, value in by_steps.items()))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")


def detail(solver: str, steps: int, deviation: float, mean: float = 0.5, count: int = 20_000) -> float:
    """The deviation of samples of Gaussian data, relative to the data's."""
    own = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)
    scheduler_class, settings = solver_settings(own, solver, steps)
    scheduler = scheduler_class.from_config(settings)
    scheduler.set_timesteps(steps)
    x = torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * float(scheduler.init_noise_sigma)
    cumulative = own.alphas_cumprod.double()
    for t in scheduler.timesteps:
        x_in = scheduler.scale_model_input(x, t)
        below, part = int(t), float(t) % 1  # euler's timesteps may lie between two
        alpha = cumulative[below] * (1 - part) + cumulative[min(below + 1, len(cumulative) - 1)] * part
        variance = alpha * deviation**2 + 1 - alpha
        epsilon = (1 - alpha).sqrt() * (x_in - alpha.sqrt() * mean) / variance
        x = scheduler.step(epsilon, t, x, return_dict=False)[0]
    return float(x.std() / deviation)


def distances(pipeline: DiffusionPipeline, arguments: argparse.Namespace) -> dict[str, dict[int, float]]:
    """How far each sampler ends from where many steps end, from the same noise."""
    pool = read_prompts(arguments.prompts)
    prompts = [pool[index % len(pool)] for index in range(arguments.samples)]
    shape = (
        pipeline.unet.config.in_channels,
        *(arguments.resolution // pipeline.vae_scale_factor for _ in range(2)),
    )

    def sample(solver: str, steps: int) -> torch.Tensor:
        sampler = Sampler(pipeline, solver, steps, 1.0, 0, arguments.resolution, shape)
        return torch.from_numpy(sampler.sample(range(arguments.samples), prompts).latents)

    reference = sample("ddim", REFERENCE_STEPS)
    found: dict[str, dict[int, float]] = {}
    for solver in SOLVERS:
        found[solver] = {
            steps: float((sample(solver, steps) - reference).square().mean().sqrt() / reference.std())
            for steps in STEPS
        }
    return found


if __name__ == "__main__":
    main()
