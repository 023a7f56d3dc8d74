# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""One run of the transfer benchmark, in a process of its own: trains, measures, writes a JSON file. Started by run.py.

    python one_run.py SPEC.json

A run that was stopped goes on from its last checkpoint.
"""

import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "icons")]
from finetune import command_line, load_script, quiet  # noqa: E402

from benchmarks.jobs import begin_run  # noqa: E402
from benchmarks.throughput import machine  # noqa: E402
from benchmarks.transfers.generality import copied, denoising_losses  # noqa: E402
from benchmarks.transfers.l2sp import with_pull  # noqa: E402
from benchmarks.transfers.measure import HeldOut, sample, source_prompts, through_autoencoder  # noqa: E402
from benchmarks.transfers.measure_source import source_figures  # noqa: E402
from benchmarks.transfers.methods import METHODS  # noqa: E402
from benchmarks.transfers.settings import Places, Recipe, Run, Size  # noqa: E402
from benchmarks.transfers.splits import SOURCE  # noqa: E402
from diffusers_difftune import ClassConditionalTrainer  # noqa: E402
from diffusers_difftune.adapters import load_adapter, merge_adapter  # noqa: E402
from diffusers_difftune.backbones import load_backbone  # noqa: E402
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


EVERY = 500  # steps between two checkpoints of a run that is measured at its end


def main(argv: list[str]) -> None:
    spec = json.loads(Path(argv[0]).read_text())
    size = Size(**tuples(spec["size"]))
    places = Places(**{name: Path(place) for name, place in spec["places"].items()})
    output = Path(spec["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    quiet()
    torch.backends.cuda.enable_flash_sdp(False)  # on processors its kernel is the slower one at 16 tokens
    if spec["run"] is None:
        found, picture = measure_pretrained(size, places, list(spec["settings"]["data"]))
        write_bytes_atomic(output.with_name("source_samples.png"), picture)
    else:
        run = Run(**tuples(spec["run"]) | {"recipe": Recipe(**spec["run"]["recipe"])})
        found = one_run(run, spec["settings"], size, places)
    found |= {"settings": spec["settings"], "machine": machine()}
    write_bytes_atomic(output, (json.dumps(found, indent=1) + "\n").encode())
    if spec["run"] is not None:
        # Only now: a finished run that was stopped before this is measured again, not trained again.
        shutil.rmtree(places.work / "runs" / run.name)


def tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the settings have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def measure_pretrained(size: Size, places: Places, names: list[str]) -> tuple[dict[str, Any], bytes]:
    """The source model before any transfer, on its own held-out drawings with a picture, and samples of its own classes
    against every target set; and what its autoencoder alone costs: held-out drawings encoded and decoded again."""
    started = time.perf_counter()
    backbone = load_backbone(places.source)
    denoiser = backbone.load_denoiser()
    own, picture = source_figures(backbone, denoiser, size, places)
    targets = {name: HeldOut(name, size, places) for name in names if name != SOURCE}
    prompts = source_prompts(max(len(held_out.prompts) for held_out in targets.values()), places.data)
    images = sample(backbone, denoiser, prompts, size, 0)
    figures = {
        name: held_out.measure(images[: len(held_out.prompts)])
        | denoising_losses(backbone, denoiser, name, places, knows_classes=False)
        for name, held_out in targets.items()
    }
    backbone.load_encoders(torch.device("cpu"), torch.float32)
    alone = {
        name: held_out.measure(through_autoencoder(backbone, held_out.drawings()))
        for name, held_out in {SOURCE: HeldOut(SOURCE, size, places), **targets}.items()
    }
    return {
        "sets": {SOURCE: own} | figures,
        "autoencoder": alone,
        "seconds": {"measurement": time.perf_counter() - started},
    }, picture


def one_run(run: Run, settings: dict[str, Any], size: Size, places: Places) -> dict[str, Any]:
    """Trains and measures."""
    started = time.perf_counter()
    folder = places.work / "runs" / run.name
    resumed = train(folder, settings, command_line(settings["flags"] | paths(run, size, places, folder)))
    trained = time.perf_counter()
    held_out = HeldOut(run.target, size, places)
    by_step: dict[str, dict[str, Any]] = {}
    for step, weights, backbone, denoiser in results(run, settings, folder, places.source):
        images = sample(backbone, denoiser, held_out.prompts, size, run.seed)
        figures = held_out.measure(images) | copied(images, run.target, places)
        by_step.setdefault(str(step), {})[weights] = figures | denoising_losses(backbone, denoiser, run.target, places)
    log = read_log(folder)
    return {
        "target": run.target,
        "method": run.method,
        "seed": run.seed,
        "recipe": vars(run.recipe),
        "by_step": by_step,
        "target_images_seen": target_images_seen(settings["flags"]),
        "final_loss": statistics.fmean(line["loss"] for line in log[-100:]),
        "images_per_second": statistics.median(line["images_per_second"] for line in log),
        "seconds": {"training": trained - started, "measurement": time.perf_counter() - trained},
        "resumed": resumed,
    }


def paths(run: Run, size: Size, places: Places, folder: Path) -> dict[str, Any]:
    """The flags that say where things are and how often to keep a checkpoint."""
    bank = run.bank(size)
    return {
        "pretrained_model_name_or_path": places.start if METHODS[run.method].from_scratch else places.source,
        "train_data_dir": places.data / f"{run.target}_train.parquet",
        "knowledge_bank": bank and places.bank(bank),
        "cache_dir": places.work / "cache",
        "output_dir": folder,
        "checkpointing_steps": math.gcd(*run.measured) if run.measured else EVERY,
        "checkpoints_total_limit": None if run.measured else 1,
    }


def train(folder: Path, settings: dict[str, Any], argv: list[str]) -> bool:
    """Runs the training script, from its last checkpoint if there is one; returns whether there was."""
    resumed = begin_run(folder, settings)
    script = load_script("train_class_conditional_difftune")
    load = ClassConditionalTrainer.load_trainable
    if settings["pull"]:
        load = with_pull(load, settings["pull"] * settings["flags"]["learning_rate"])
    with mock.patch.object(ClassConditionalTrainer, "load_trainable", load):
        script.main(argv + (["--resume_from_checkpoint", "latest"] if resumed else ["--overwrite_output_dir"]))
    return resumed


def results(
    run: Run, settings: dict[str, Any], folder: Path, source: Path
) -> Iterator[tuple[int, str, Any, torch.nn.Module]]:
    """What is to be measured: after which step, which weights, and the model."""
    backbone = load_backbone(source)
    if METHODS[run.method].adapter:
        pipeline = backbone.pipeline(backbone.load_denoiser(), torch.device("cpu"), torch.float32)
        load_adapter(pipeline, folder)
        merge_adapter(pipeline)
        yield run.recipe.steps, "raw", backbone, pipeline.transformer
        return
    for step in settings["measured"]:
        for weights in run.weights:
            name = "transformer_ema" if weights == "ema" else "transformer"
            place = folder / f"checkpoint-{step}" / name if run.measured else folder / "transformer"
            yield step, weights, backbone, backbone.denoiser_class.from_pretrained(place)


def target_images_seen(flags: dict[str, Any]) -> int:
    """Rows of the target set that a run was trained on."""
    share = 0.0 if flags["objective"] == "standard" else flags.get("source_share", 0.2)
    return round(flags["max_train_steps"] * flags["train_batch_size"] * (1 - share))


def read_log(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


if __name__ == "__main__":
    main(sys.argv[1:])
