# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`make demo-controlnet`: trains a ControlNet for regions of colour twice, and shows which one obeys sooner.

Finds the regions in a set of drawings, samples a knowledge bank from the embedded icon pipeline, and trains a ControlNet
twice from the same seed with equal budgets, by standard training and by Diff-Tuning. While they train, images are made
for held-out regions, and the regions found in those are compared with what was asked for.

    python examples/icons/demo_controlnet.py --kind edge --steps 600
"""

import argparse
import json
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from demo import Clock, chosen_size, demo_parser, short_captions
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from finetune import command_line, finetune, quiet, target_file
from measure import sample_images
from picture import samples_picture
from PIL import Image

from diffusers_difftune.cli import main as difftune
from diffusers_difftune.controls import KINDS, MODEL_KINDS, make_extractor


SEED = 0
FULL = {"steps": 400, "batch": 32, "bank": 256, "bank_steps": 25, "rows": 32, "every": 10, "early": 100}
QUICK = {"steps": 4, "batch": 4, "bank": 4, "bank_steps": 2, "rows": 2, "every": 2, "early": 2}
LEARNING_RATE = 3e-3  # what benchmarks/controlnet chose by standard training
GUIDANCE, SAMPLING_STEPS = 1.0, 10  # of the images that are measured
PICTURE_GUIDANCE, PICTURE_STEPS = 3.0, 20  # of those in the picture, as one would make them
LONGEST = 9  # letters of a caption in the picture
METHODS = {"standard": "Standard training", "difftune": "Diff-Tuning"}


def main(argv: list[str] | None = None) -> None:
    parser = demo_parser(__doc__, FULL["steps"], Path("outputs/demo-controlnet"))
    parser.add_argument("--kind", choices=KINDS, default="segmentation", help="The control images.")
    arguments = parser.parse_args(argv)
    quiet()
    size = chosen_size(arguments, FULL, QUICK)
    size = size | {"early": min(size["early"], size["steps"])}
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
                control_evaluation_inference_steps=SAMPLING_STEPS,
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
        draw_samples(arguments, condition, size, output / "samples.png")

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


def draw_samples(
    arguments: argparse.Namespace, condition: dict[str, str | None], size: dict[str, int], path: Path
) -> None:
    """Held-out control images, and what each method makes of them early and at the end, from the same noise."""
    images, prompts = short_captions(target_file(arguments.target, "held_out"), LONGEST)
    drawings = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    found = np.stack([np.asarray(control) for control in make_extractor(**condition)(drawings)])
    controls = torch.from_numpy(found).permute(0, 3, 1, 2)
    rows, steps = {"condition": controls}, 2 if arguments.quick else PICTURE_STEPS
    for step, place in ((size["early"], f"checkpoint-{size['early']}/controlnet"), (size["steps"], "")):
        for method, title in METHODS.items():
            controlnet = ControlNetModel.from_pretrained(arguments.output / method / place)
            pipeline = StableDiffusionControlNetPipeline.from_pretrained(
                arguments.pipeline, controlnet=controlnet, safety_checker=None, torch_dtype=torch.float32
            )
            label = f"{title.removesuffix(' training')},\n{step} steps"
            rows[label] = sample_images(pipeline, prompts, steps, PICTURE_GUIDANCE, controls=controls)
    samples_picture([(f"Held-out drawings by their {condition['kind']}", prompts, rows | {"real": images})], path)


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
