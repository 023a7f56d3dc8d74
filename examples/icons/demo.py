# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What Diff-Tuning is for, in at most eight minutes on two cores: run by `make demo`.

Samples a knowledge bank from the embedded icon pipeline, fine-tunes the pipeline on a set of drawings in another style
twice from the same seed with equal budgets, by standard fine-tuning and by Diff-Tuning, and measures on drawings that
none of them was trained on what was learned and what was forgotten.

    python examples/icons/demo.py --target flat-color-icons --steps 200
"""

import argparse
import json
import platform
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from finetune import BANK, DATA, PIPELINE, RECIPE, STEPS, TARGETS, build_bank, finetune, quiet, target_file
from forgetting_plot import plot_forgetting
from measure import Measurement, load_pipeline, read_drawings, sample_images
from picture import samples_picture

from diffusers_difftune.evaluation.forgetting import LossByLevel, forgetting_difference


SEED = 0
FULL = {
    "steps": STEPS,
    "batch": RECIPE["train_batch_size"],
    "bank": BANK["bank_samples"],
    "bank_steps": BANK["bank_steps"],
    "images": 200,
    "rows": 128,
    "sampling_steps": 15,
}
QUICK = {"steps": 4, "batch": 4, "bank": 4, "bank_steps": 2, "images": 66, "rows": 4, "sampling_steps": 2}
GUIDANCE = 3.0
COLUMNS = 8
METHODS = {"pretrained": "(pretrained)", "standard": "(standard)", "difftune": "(Diff-Tuning)"}
LABELS = {"pretrained": "pretrained", "standard": "standard\nfine-tuning", "difftune": "Diff-Tuning"}


def main(argv: list[str] | None = None) -> None:
    parser = demo_parser(__doc__, FULL["steps"], Path("outputs/demo"))
    arguments = parser.parse_args(argv)
    quiet()
    size = chosen_size(arguments, FULL, QUICK)
    output, clock = arguments.output, Clock(total=6)
    folders = {"pretrained": arguments.pipeline, "standard": output / "standard", "difftune": output / "difftune"}
    for name in ("knowledge_bank", "standard", "difftune"):  # of an earlier demo
        shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)

    with clock.stage("knowledge_bank", f"Knowledge bank: {size['bank']} samples of the pretrained pipeline"):
        build_bank(
            output / "knowledge_bank",
            arguments.target,
            arguments.pipeline,
            bank_samples=size["bank"],
            bank_steps=size["bank_steps"],
            bank_batch_size=min(BANK["bank_batch_size"], size["bank"]),
            seed=SEED,
            cache_dir=output / "cache",
        )
    rates = {}
    for method, title in (("standard", "Standard fine-tuning"), ("difftune", "Diff-Tuning")):
        with clock.stage(f"train_{method}", f"{title}: {size['steps']} steps of {size['batch']} rows"):
            rates[method] = finetune(
                folders[method],
                arguments.target,
                method,
                size["steps"],
                SEED,
                arguments.pipeline,
                train_batch_size=size["batch"],
                knowledge_bank=output / "knowledge_bank" if method == "difftune" else None,
                cache_dir=output / "cache",
            )["images_per_second"]

    figures, losses = {}, {}
    with clock.stage("measure", f"Measuring: {size['images']} samples of each model, and its loss by noise level"):
        measurement = Measurement(
            arguments.pipeline, arguments.target, size["images"], size["rows"], size["sampling_steps"], GUIDANCE
        )
        for name, folder in folders.items():
            figures[name], losses[name] = measurement.measure(folder, name)
            figures[name] |= {"images_per_second": rates[name]} if name in rates else {}
    with clock.stage("samples_picture", "The picture of samples"):
        draw_samples(folders, arguments.target, 2 if arguments.quick else 25, output / "samples.png")
    with clock.stage("forgetting_picture", "The picture of forgetting"):
        counts = {part: len(prompts) for part, (_, prompts) in measurement.data.items()}
        titles = {
            f"{counts['target']} held-out {arguments.target} drawings": "target",
            f"{counts['source']} held-out source drawings": "source",
        }
        panels = {title: {name: curves[part] for name, curves in losses.items()} for title, part in titles.items()}
        plot_forgetting(panels, output / "forgetting.png")

    settings = {
        "target": arguments.target,
        "seed": SEED,
        **size,
        "recipe": RECIPE | {"train_batch_size": size["batch"]},
    }
    machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    summary = {"settings": settings, "machine": machine, "seconds": clock.seconds, **figures}
    summary["difference"] = differences(losses)
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(explanation(summary, output))


def differences(losses: dict[str, dict[str, LossByLevel]]) -> dict[str, float]:
    """Diff-Tuning's changes of the loss minus those of standard fine-tuning, on the same rows, with their errors."""
    found = {}
    for part, name in (("source", "forgetting_source"), ("target", "loss_change_target")):
        curves = (losses[method][part] for method in ("difftune", "standard", "pretrained"))
        found[name], found[f"{name}_standard_error"] = forgetting_difference(*curves)
    return found


def demo_parser(description: str | None, steps: int, output: Path) -> argparse.ArgumentParser:
    """The arguments that demos share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0], help="The drawings to train on.")
    parser.add_argument("--steps", type=int, help=f"Optimiser steps of each of the two runs. Default: {steps}.")
    parser.add_argument("--output", type=Path, default=output, help="Where everything is written.")
    parser.add_argument("--pipeline", type=Path, default=PIPELINE, help="The pretrained pipeline.")
    parser.add_argument(
        "--quick", action="store_true", help="Too few steps to learn anything: tries that it all runs."
    )
    return parser


def chosen_size(arguments: argparse.Namespace, full: dict[str, int], quick: dict[str, int]) -> dict[str, int]:
    """How much to do, as the arguments say."""
    size = quick if arguments.quick else full
    return size if arguments.steps is None else size | {"steps": arguments.steps}


class Clock:
    """Says which stage begins, and keeps how long each took."""

    def __init__(self, total: int) -> None:
        self.total, self.seconds, self.started = total, {"total": 0.0}, time.perf_counter()

    @contextmanager
    def stage(self, name: str, title: str):
        print(f"\n[{len(self.seconds)}/{self.total}] {title}", flush=True)
        began = time.perf_counter()
        yield
        now = time.perf_counter()
        self.seconds[name] = round(now - began, 1)
        self.seconds["total"] = round(now - self.started, 1)


def draw_samples(folders: dict[str, Path], target: str, steps: int, path: Path) -> None:
    """Samples of each model from the same noise, for captions that it was trained on: of the target and of source sets."""
    parts = {
        f"What was to be learned: drawings of {target}": target_file(target, "train"),
        "What it knew before: drawings of the source sets": DATA / "source_examples.parquet",
    }
    chosen = {title: short_captions(file) for title, file in parts.items()}
    prompts = [prompt for _, captions in chosen.values() for prompt in captions]
    samples = {
        name: sample_images(load_pipeline(folder), prompts, steps, GUIDANCE, SEED, title=name).split(COLUMNS)
        for name, folder in folders.items()
    }
    blocks = []
    for index, (title, (real, captions)) in enumerate(chosen.items()):
        rows = {LABELS[name]: images[index] for name, images in samples.items()}
        blocks.append((title, captions, rows | {"real": real}))
    samples_picture(blocks, path)


def short_captions(file: Path, longest: int = 24) -> tuple[torch.Tensor, list[str]]:
    """The first drawings of a seeded draw whose captions fit under a picture, and the captions."""
    images, captions = read_drawings(file, seed=SEED)
    fitting = [index for index, caption in enumerate(captions) if len(caption) <= longest][:COLUMNS]
    return images[fitting], [captions[index] for index in fitting]


def explanation(summary: dict, output: Path) -> str:
    """Where the results are and what they mean, in five lines."""
    pretrained, standard, difftune = (summary[name] for name in LABELS)
    seconds = summary["seconds"]

    def three(figure: str) -> str:
        return ", ".join(f"{summary[name][figure]:.4g} {words}" for name, words in METHODS.items())

    def change(name: str) -> str:
        changes = (
            f"{100 * x[name]:+.1f} ± {100 * x[f'{name}_standard_error']:.1f} %"
            for x in (standard, difftune, summary["difference"])
        )
        return "{} (standard) and {} (Diff-Tuning), a difference of {}".format(*changes)

    lines = [
        f"Learned:   the denoising loss on {pretrained['num_target']} held-out {summary['settings']['target']} drawings"
        f" changed by {change('loss_change_target')}; lower is better.",
        f"Drawn:     FID to {pretrained['num_real']} of them, lower is better: {three('fid_target')}; other real drawings"
        f" have {pretrained['fid_floor']:.4g}. KID: {three('kid_target')}; {pretrained['kid_floor']:.4g}."
        f" {output / 'samples.png'} shows samples.",
        f"Forgotten: the denoising loss on {pretrained['num_source']} source drawings changed by"
        f" {change('forgetting_source')}; {output / 'forgetting.png'} shows where.",
        f"Cost:      {standard['images_per_second']:.0f} images/s (standard), {difftune['images_per_second']:.0f}"
        f" (Diff-Tuning); the bank took {seconds['knowledge_bank']:.0f} s, all {seconds['total'] / 60:.1f} minutes.",
        f"Details:   {output / 'summary.json'} has every figure with its settings; {output / 'standard'} and"
        f" {output / 'difftune'} are pipelines to load.",
    ]
    return "\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
