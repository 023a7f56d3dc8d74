# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How fast the knowledge bank samples, beside a bare loop over the pipeline: same batches, same steps, same sampler.

The two take turns within one run, so that a machine that slows down meanwhile slows both. The bank's time has
everything in it: shards, hashes, preview. Figures go to benchmarks/results/bank_throughput.json.

    python benchmarks/bank_throughput.py
    python benchmarks/bank_throughput.py --pipeline FOLDER --resolution 512 --device cuda --dtype float16
"""

import argparse
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.bank.build import build_bank
from diffusers_difftune.bank.settings import BankSettings
from diffusers_difftune.bank.solver import solver_settings


ROOT = Path(__file__).resolve().parents[1]
PROMPTS = [
    "a red apple",
    "a blue car",
    "a flag",
    "a cat",
    "a house with a tree",
    "a folder",
    "a smiling face",
    "a key",
]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=ROOT / "examples/icons/pipeline", help="A pipeline's folder.")
    parser.add_argument("--resolution", type=int, default=32, help="Side of the images in pixels.")
    parser.add_argument("--samples", type=int, default=64, help="Samples of one run.")
    parser.add_argument("--batch_size", type=int, default=16, help="Samples made at once.")
    parser.add_argument("--steps", type=int, default=20, help="Sampling steps.")
    parser.add_argument("--solver", default="dpm++", help="The sampler.")
    parser.add_argument("--pairs", type=int, default=7, help="How often each is run.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/bank_throughput.json")
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)

    backbone = load_backbone(arguments.pipeline)
    pipeline = backbone.pipeline(None, torch.device(arguments.device), getattr(torch, arguments.dtype))
    pipeline.set_progress_bar_config(disable=True)
    scheduler_class, scheduler_settings = solver_settings(pipeline.scheduler, arguments.solver, arguments.steps)
    settings = BankSettings(
        num_samples=arguments.samples,
        resolution=arguments.resolution,
        batch_size=arguments.batch_size,
        steps=arguments.steps,
        solver=arguments.solver,
    )

    def bare() -> None:
        pipeline.scheduler = scheduler_class.from_config(scheduler_settings)
        for start in range(0, arguments.samples, arguments.batch_size):
            count = min(arguments.batch_size, arguments.samples - start)
            pipeline(
                prompt=[PROMPTS[index % len(PROMPTS)] for index in range(start, start + count)],
                height=arguments.resolution,
                width=arguments.resolution,
                num_inference_steps=arguments.steps,
                guidance_scale=1.0,
                output_type="latent",
            ).images.cpu()

    def bank() -> None:
        with tempfile.TemporaryDirectory() as folder:
            build_bank(
                pipeline,
                folder,
                PROMPTS,
                settings,
                latent_shape=backbone.latent_shape(arguments.resolution),
                model=str(arguments.pipeline),
                weights_fingerprint="",
                progress=False,
            )

    bare(), bank()  # to warm up
    rates: dict[str, list[float]] = {"bare_loop": [], "knowledge_bank": []}
    for pair in range(arguments.pairs):
        turns = [("bare_loop", bare), ("knowledge_bank", bank)]
        for name, run in turns if pair % 2 == 0 else reversed(turns):
            rates[name].append(arguments.samples / seconds(run))
    ratios = [ours / theirs for ours, theirs in zip(rates["knowledge_bank"], rates["bare_loop"])]
    report = {
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(arguments).items()
            if name not in ("pipeline", "output")
        }
        | {"pipeline": arguments.pipeline.name},
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_average_after": os.getloadavg(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        },
        "images_per_second": {name: spread(values) for name, values in rates.items()},
        "knowledge_bank_over_bare_loop": spread(ratios),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    for name, values in report["images_per_second"].items():
        print(f"{name}: {values['median']:.2f} images/s ({values['min']:.2f} to {values['max']:.2f})")
    ratio = report["knowledge_bank_over_bare_loop"]
    print(f"The bank samples at {ratio['median']:.3f} times the bare loop's speed. Written to {arguments.output}")


def seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def spread(values: list[float]) -> dict[str, float | list[float]]:
    """The median of a few runs, and all of them."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": values}


if __name__ == "__main__":
    main()
