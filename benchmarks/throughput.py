# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What Diff-Tuning, the cache and the knowledge bank cost or save, on the embedded pipeline with the training script.

Things compared are measured in turn within one run, in alternating order, so that a machine that slows down meanwhile
slows both. Only steps after the first ten of each run count. Everything goes to benchmarks/results/throughput.json:

- `objective`: Diff-Tuning beside standard fine-tuning;
- `data_path`: images and prompts encoded once beside encoded in every step, for both training scripts and for images
  that are stored at several sizes. The first size is that of the training and of the set's own files: there, nothing
  but the encoders is saved. Larger ones are the same drawings enlarged, as users' images are larger than what they
  train at: decoding and resizing them is saved too. No loader processes help, which is the scripts' default;
- `bank`: what building a knowledge bank takes.

    python benchmarks/throughput.py
    OMP_NUM_THREADS=1 python benchmarks/throughput.py --processor_time    # beside other work
    python benchmarks/throughput.py --upstream ~/diffusers/examples/text_to_image/train_text_to_image.py
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "icons"))
from finetune import PIPELINE, RESOLUTION, build_bank, command_line, finetune, quiet, target_file  # noqa: E402
from measure import read_drawings  # noqa: E402

from diffusers_difftune.training import log as training_log  # noqa: E402


TARGET = "fluent-emoji"
SCRIPTS = ("train_text_to_image_difftune", "train_text_to_image_lora_difftune")
AIM = 1.5  # cached over uncached images per second
BANK = {"bank_samples": 64, "bank_steps": 20, "bank_batch_size": 16}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="How often each comparison is made.")
    parser.add_argument(
        "--steps", type=int, default=40, help="Optimiser steps of a run, of which the first 10 do not count."
    )
    parser.add_argument("--batch_size", type=int, default=32, help="Rows of a step.")
    parser.add_argument(
        "--image_sizes",
        nargs="+",
        type=int,
        default=[RESOLUTION, 128, 256, 512],
        help=f"Sides in pixels of the stored images that the cache is measured with. The set's own have {RESOLUTION}.",
    )
    parser.add_argument("--upstream", type=Path, help="Path to diffusers' train_text_to_image.py, to run beside ours.")
    parser.add_argument("--pipeline", type=Path, default=PIPELINE, help="The pipeline to train.")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/throughput.json")
    parser.add_argument(
        "--processor_time",
        action="store_true",
        help="Count the seconds of the processor, for a machine that is busy with other things; for one thread.",
    )
    arguments = parser.parse_args(argv)
    quiet()
    if arguments.processor_time:
        torch.set_num_threads(1)
        # The rates come from the training log, which reads this clock.
        training_log.time = SimpleNamespace(perf_counter=time.process_time)
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments, Path(folder))
    report = {
        "machine": machine() | {"load_average_before": load_before, "load_average_after": os.getloadavg()},
        "settings": {"pipeline": arguments.pipeline.name, "target": TARGET, "resolution": RESOLUTION, "bank": BANK}
        | {
            name: getattr(arguments, name)
            for name in ("pairs", "steps", "batch_size", "image_sizes", "processor_time")
        },
        **results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    for comparison, figures in flatten(results):
        ranges = [f"{name} {x['median']:.2f} ({x['min']:.2f} to {x['max']:.2f})" for name, x in figures.items()]
        print(f"{comparison}: {', '.join(ranges)}")
    for words, ratio, met in aims(results["data_path"]):
        print(f"Cached {ratio:.2f} x uncached with {words}: the aim of {AIM} is {'met' if met else 'missed'}")
    print(f"Written to {arguments.output}")


def flatten(results: dict, prefix: str = "") -> list[tuple[str, dict]]:
    """The comparisons in `results`, with their names, however deep they lie."""
    found = []
    for name, result in results.items():
        if isinstance(result, dict) and all(
            isinstance(value, dict) and "median" in value for value in result.values()
        ):
            found.append((prefix + name, result))
        elif isinstance(result, dict):
            found += flatten(result, f"{prefix}{name}, ")
    return found


def aims(data_path: dict) -> list[tuple[str, float, bool]]:
    """Of each comparison of the data path: its name, by how much the cache is faster, and whether that is enough."""
    found = []
    for words, figures in flatten(data_path):
        ratio = figures["cached_rate_over_uncached"]["median"]
        found.append((words, ratio, ratio >= AIM))
    return found


def measure(arguments: argparse.Namespace, folder: Path) -> dict:
    """All comparisons."""
    started = time.perf_counter()
    build_bank(folder / "bank", TARGET, arguments.pipeline, cache_dir=folder / "cache", **BANK)
    bank_seconds = time.perf_counter() - started

    def rate(objective: str = "standard", **flags) -> Callable[[], float]:
        def run() -> float:
            bank = folder / "bank" if objective == "difftune" else None
            found = finetune(
                folder / "run",
                TARGET,
                objective,
                arguments.steps,
                seed=0,
                pretrained=arguments.pipeline,
                train_batch_size=arguments.batch_size,
                knowledge_bank=bank,
                cache_dir=folder / "cache",
                **flags,
            )
            shutil.rmtree(folder / "run")
            return found["images_per_second"]

        return run

    def data_path(script: str, size: int) -> dict:
        print(f"{script}, images of {size} pixels")
        flags = {"script": script, "train_data_dir": stored_at(size, folder)}
        rate(**flags)()  # fills the cache
        return compare({"uncached": rate(no_cache=True, **flags), "cached": rate(**flags)}, arguments.pairs)

    rate()()  # fills the cache and warms the machine up
    results = {
        "objective": compare({"standard": rate("standard"), "difftune": rate("difftune")}, arguments.pairs),
        "data_path": {
            script: {f"images of {size} px": data_path(script, size) for size in arguments.image_sizes}
            for script in SCRIPTS
        },
        "bank": {"seconds": bank_seconds, "samples_per_second": BANK["bank_samples"] / bank_seconds},
    }
    results["data_path_aim"] = {
        "cached_rate_over_uncached": AIM,
        "met": {words: met for words, _, met in aims(results["data_path"])},
    }
    if arguments.upstream:
        results["upstream"] = beside_upstream(arguments, folder)
    return results


def compare(rates: dict[str, Callable[[], float]], pairs: int) -> dict:
    """Images per second of two things, measured in turn.

    Args:
        rates (`dict`): Name and measurement of the baseline, and of what is compared with it.
        pairs (`int`): How often both are measured, every other time in reverse.

    Returns:
        `dict`: Images per second of both, and of each pair the second's over the first's, as median and range.
    """
    found: dict[str, list[float]] = {name: [] for name in rates}
    for pair in range(pairs):
        for name in list(rates) if pair % 2 == 0 else reversed(rates):
            found[name].append(rates[name]())
        print(f"pair {pair + 1} of {pairs}: " + ", ".join(f"{name} {x[-1]:.1f} images/s" for name, x in found.items()))
    baseline, other = found
    ratios = [b / a for a, b in zip(found[baseline], found[other])]
    return {f"{name}_images_per_second": spread(values) for name, values in found.items()} | {
        f"{other}_rate_over_{baseline}": spread(ratios),
        f"{other}_time_over_{baseline}": spread([1 / ratio for ratio in ratios]),
    }


def spread(values: list[float]) -> dict[str, float | list[float]]:
    """Median, range and the values themselves."""
    rounded = [round(value, 4) for value in values]
    return {"median": statistics.median(rounded), "min": min(rounded), "max": max(rounded), "all": rounded}


def beside_upstream(arguments: argparse.Namespace, folder: Path) -> dict | str:
    """Our script and diffusers', as programs, on the same images with the same flags."""
    ours = ROOT / "training_scripts/train_text_to_image_difftune.py"
    flags = {
        "pretrained_model_name_or_path": arguments.pipeline.resolve(),
        "train_data_dir": image_folder(folder / "images"),
        "resolution": RESOLUTION,
        "train_batch_size": arguments.batch_size,
        "max_train_steps": arguments.steps,
        "seed": 0,
        "output_dir": folder / "program",
        "cache_dir": folder / "cache",
    }

    def rate(script: Path, **extra) -> Callable[[], float]:
        def run() -> float:
            shutil.rmtree(folder / "program", ignore_errors=True)
            command = [sys.executable, str(script), *command_line(flags | extra)]
            return arguments.batch_size / seconds_per_step(command, arguments.steps)

        return run

    try:
        upstream = rate(arguments.upstream)
        return {
            "standard": compare({"upstream": upstream, "ours": rate(ours, objective="standard")}, arguments.pairs),
            "difftune": compare(
                {"upstream": upstream, "ours": rate(ours, knowledge_bank=folder / "bank")}, arguments.pairs
            ),
        }
    except subprocess.CalledProcessError as error:
        message = f"Not measured: {Path(error.cmd[1]).name} stopped with '{error.stderr.strip().splitlines()[-1]}'"
        print(message)
        return message


def seconds_per_step(command: list[str], steps: int) -> float:
    """Runs a training program and times the steps after the tenth by its progress bar, which all scripts have."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_MININTERVAL": "0", "PYTHONUNBUFFERED": "1"}
    seen: dict[int, float] = {}
    said = ""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as program:
        while chunk := os.read(program.stderr.fileno(), 65536):
            now = time.perf_counter()
            said += chunk.decode(errors="replace")
            for count in re.findall(rf"(?:Steps|Training):[^\r\n]*?(\d+)/{steps} ", said[-4096:]):
                seen.setdefault(int(count), now)
    if program.returncode:
        raise subprocess.CalledProcessError(program.returncode, command, stderr=said)
    first = min(count for count in seen if count >= min(10, steps - 1))
    return (seen[steps] - seen[first]) / (steps - first)


def stored_at(size: int, folder: Path) -> Path:
    """The Parquet file of the target drawings, enlarged to `size` pixels and stored as PNG."""
    own, file = target_file(TARGET, "train"), folder / f"images_{size}.parquet"
    if size == RESOLUTION or file.is_file():
        return own if size == RESOLUTION else file
    table = pq.read_table(own, columns=["image", "text"])
    images = []
    for image in table["image"].to_pylist():
        enlarged, png = Image.open(BytesIO(image["bytes"])).resize((size, size), Image.Resampling.BICUBIC), BytesIO()
        enlarged.save(png, "PNG")
        images.append({"bytes": png.getvalue(), "path": None})
    pq.write_table(pa.table({"image": images, "text": table["text"]}), file)
    return file


def image_folder(folder: Path) -> Path:
    """The target drawings as files with a metadata.jsonl, which is what diffusers' script reads."""
    folder.mkdir()
    images, captions = read_drawings(target_file(TARGET, "train"))
    lines = []
    for index, (image, caption) in enumerate(zip(images, captions)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:04}.png")
        lines.append(json.dumps({"file_name": f"{index:04}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def machine() -> dict:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = cpuinfo.read_text().split("model name") if cpuinfo.exists() else []
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    commit = subprocess.run(describe, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return {
        "processor": models[1].split("\n")[0].strip(" \t:") if len(models) > 1 else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "commit": commit or None,
    }


if __name__ == "__main__":
    main()
