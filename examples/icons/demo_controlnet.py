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
"""`make demo-controlnet`: trains a ControlNet for edges twice, and shows which one obeys sooner.

Finds the edges in a set of drawings, samples a knowledge bank from the embedded icon pipeline, and trains a ControlNet
twice from the same seed with equal budgets, by standard training and by Diff-Tuning. While they train, images are made
for held-out edges, and the edges found in those are compared with what was asked for.

    python examples/icons/demo_controlnet.py --kind segmentation --steps 600
"""

import argparse
import json
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from demo import Clock
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from finetune import PIPELINE, RESOLUTION, TARGETS, command_line, finetune, quiet, target_file
from picture import samples_picture

from diffusers_difftune.bank.solver import solver_settings
from diffusers_difftune.cli import main as difftune
from diffusers_difftune.conditions import KINDS, MODEL_KINDS
from diffusers_difftune.data.images import load_rgb
from diffusers_difftune.data.plan import counter_generator


SEED = 0
FULL = {"steps": 400, "batch": 32, "bank": 256, "bank_steps": 25, "rows": 32, "every": 10, "early": 150}
QUICK = {"steps": 4, "batch": 4, "bank": 4, "bank_steps": 2, "rows": 2, "every": 2, "early": 2}
LEARNING_RATE = 1e-3
GUIDANCE = 1.0  # of the images that are measured
PICTURE_GUIDANCE = 3.0  # of those in the picture, as one would make them
COLUMNS = 8
SAMPLING_STEPS = 20
METHODS = {"standard": "Standard training", "difftune": "Diff-Tuning"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="edge", help="The control images.")
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0], help="The drawings to train on.")
    parser.add_argument(
        "--steps", type=int, help=f"Optimiser steps of each of the two runs. Default: {FULL['steps']}."
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/demo-controlnet"), help="Where everything goes.")
    parser.add_argument("--pipeline", type=Path, default=PIPELINE, help="The pretrained pipeline.")
    parser.add_argument(
        "--quick", action="store_true", help="Too few steps to learn anything: tries that it all runs."
    )
    arguments = parser.parse_args(argv)
    quiet()
    size = QUICK if arguments.quick else FULL
    if arguments.steps is not None:
        size = size | {"steps": arguments.steps}
    output, clock = arguments.output, Clock(total=5)
    shutil.rmtree(output, ignore_errors=True)  # of an earlier demo
    output.mkdir(parents=True)
    condition = {"kind": arguments.kind, "model": "drawing" if arguments.kind in MODEL_KINDS else None}

    with clock.stage("conditions", f"Control images: {arguments.kind} of every drawing of {arguments.target}"):
        data = {part: build_conditions(arguments, condition, part) for part in ("train", "held_out")}
    rates = {}
    for method, title in METHODS.items():
        with clock.stage(f"train_{method}", f"{title}: {size['steps']} steps of {size['batch']} rows"):
            rates[method] = finetune(
                output / method,
                arguments.target,
                method,
                size["steps"],
                SEED,
                arguments.pipeline,
                script="train_controlnet_difftune",
                train_data_dir=data["train"],
                train_batch_size=size["batch"],
                learning_rate=LEARNING_RATE,
                condition_kind=condition["kind"],
                condition_model=condition["model"],
                control_evaluation_data=data["held_out"],
                control_evaluation_steps=size["every"],
                control_evaluation_samples=size["rows"],
                control_evaluation_guidance_scale=GUIDANCE,
                checkpointing_steps=size["early"],
                bank_samples=size["bank"],
                bank_steps=size["bank_steps"],
                bank_batch_size=min(32, size["bank"]),
                cache_dir=output / "cache",
            )["images_per_second"]
    with clock.stage("convergence", "When each came to obey"):
        runs = [str(output / method) for method in METHODS]
        files = {"--plot": output / "convergence.png", "--json": output / "convergence.json"}
        code = difftune(["convergence", *runs, *(str(word) for pair in files.items() for word in pair)])
        if code and not arguments.quick:  # a quick run learns nothing, so there is no threshold to cross
            sys.exit(code)
    with clock.stage("samples_picture", "The picture of samples"):
        draw_samples(arguments, size, data["held_out"], output / "samples.png")

    logs = {method: measured(output / method) for method in METHODS}
    summary = {
        "settings": {"target": arguments.target, "condition": condition, "seed": SEED, "guidance": GUIDANCE, **size},
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "seconds": clock.seconds,
        "convergence": json.loads(files["--json"].read_text()) if files["--json"].is_file() else None,
        **{method: {"images_per_second": rates[method], "condition_error": logs[method]} for method in METHODS},
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(explanation(summary, output))


def build_conditions(arguments: argparse.Namespace, condition: dict[str, str | None], part: str) -> Path:
    """`difftune conditions build`, on the training or the held-out drawings."""
    folder = arguments.output / f"{condition['kind']}_{part}"
    flags = {"cache_dir": arguments.output / "cache", **condition}
    code = difftune(
        ["conditions", "build", str(target_file(arguments.target, part)), str(folder), *command_line(flags)]
    )
    if code:
        sys.exit(code)
    return folder


def draw_samples(arguments: argparse.Namespace, size: dict[str, int], held_out: Path, path: Path) -> None:
    """Held-out control images, and what each method makes of them early and at the end, from the same noise."""
    shards = sorted(held_out.rglob("*.parquet"))
    table = pq.read_table(shards, columns=["text", "conditioning_image", "image"]).slice(0, size["rows"])
    rows = [row for row in table.to_pylist() if len(row["text"]) <= 24][:COLUMNS]
    prompts = [row["text"] for row in rows]
    drawings = {
        name: torch.stack([pixels(row[name]["bytes"]) for row in rows]) for name in ("conditioning_image", "image")
    }
    controls = drawings["conditioning_image"]
    blocks = []
    for title, place in ((f"After {size['early']} steps", f"checkpoint-{size['early']}/controlnet"),
                         (f"After {size['steps']} steps", "")):  # fmt: skip
        samples = {
            name.replace(" ", "\n"): sample(arguments.pipeline, arguments.output / method / place, prompts, controls)
            for method, name in METHODS.items()
        }
        blocks.append((title, prompts, {"condition": controls, **samples}))
    blocks[-1][2]["real"] = drawings["image"]
    samples_picture(blocks, path)


def pixels(content: bytes) -> torch.Tensor:
    """A stored image, uint8 of shape `(3, 32, 32)`."""
    from io import BytesIO

    from PIL import Image

    return torch.from_numpy(np.asarray(load_rgb(Image.open(BytesIO(content)))).copy()).permute(2, 0, 1)


def sample(pipeline_folder: Path, controlnet: Path, prompts: list[str], controls: torch.Tensor) -> torch.Tensor:
    """Images of a ControlNet, uint8 of shape `(N, 3, 32, 32)`; the i-th starts from noise i."""
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        pipeline_folder,
        controlnet=ControlNetModel.from_pretrained(controlnet),
        safety_checker=None,
        torch_dtype=torch.float32,
    )
    pipeline.set_progress_bar_config(disable=True)
    scheduler_class, settings = solver_settings(pipeline.scheduler, "unipc", SAMPLING_STEPS)
    pipeline.scheduler = scheduler_class.from_config(settings)
    side = RESOLUTION // pipeline.vae_scale_factor
    shape = (pipeline.unet.config.in_channels, side, side)
    noise = [
        counter_generator(0, "control evaluation", 0, i).standard_normal(shape, "float32") for i in range(len(prompts))
    ]
    images = pipeline(
        prompts,
        image=controls.float() / 255,
        latents=torch.from_numpy(np.stack(noise)),
        height=RESOLUTION,
        width=RESOLUTION,
        num_inference_steps=SAMPLING_STEPS,
        guidance_scale=PICTURE_GUIDANCE,
        output_type="np",
    ).images
    return torch.from_numpy((images.clip(0, 1) * 255).round().astype(np.uint8)).permute(0, 3, 1, 2)


def measured(run: Path) -> dict[str, dict[str, float]]:
    """The condition errors of a run by step."""
    lines = [json.loads(line) for line in (run / "training_log.jsonl").read_text().splitlines()]
    return {str(line["step"]): line["condition_error"] for line in lines if "condition_error" in line}


def explanation(summary: dict, output: Path) -> str:
    """Where the results are and what they mean."""
    final = {method: list(summary[method]["condition_error"].values())[-1] for method in METHODS}

    def both(values: dict) -> str:
        return ", ".join(f"{values[method]} ({name})" for method, name in METHODS.items())

    rates = {method: f"{summary[method]['images_per_second']:.0f} images/s" for method in METHODS}
    errors = {
        method: " and ".join(f"{name} {value:.3g}" for name, value in final[method].items()) for method in METHODS
    }
    return "\n" + "\n".join(
        [
            f"Obeying:  the condition error at the end, lower is better: {both(errors)}.",
            f"Sooner:   the table above has the step at which each crossed the threshold; {output / 'convergence.png'}",
            f"          shows the curves, and {output / 'samples.png'} what the ControlNets drew, early and at the end.",
            f"Cost:     {both(rates)}; all {summary['seconds']['total'] / 60:.1f} minutes, the bank included.",
            f"Details:  {output / 'summary.json'}; {output / 'standard'} and {output / 'difftune'} are ControlNets to load.",
        ]
    )


if __name__ == "__main__":
    main()
