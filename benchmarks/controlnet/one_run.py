# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""One run of the ControlNet benchmark, in a process of its own: trains, measures, writes a JSON file. Started by run.py.

    python one_run.py SPEC.json

A run that was stopped goes on from its last checkpoint.
"""

import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from settings import ROOT, Run, Size


sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "examples" / "icons")]
from finetune import command_line, load_script, quiet  # noqa: E402
from jobs import begin_run  # noqa: E402
from throughput import machine  # noqa: E402

from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


def main(argv: list[str]) -> None:
    spec = json.loads(Path(argv[0]).read_text())
    size = Size(**{name: tuple(value) if isinstance(value, list) else value for name, value in spec["size"].items()})
    work, output = Path(spec["work"]), Path(spec["output"])
    quiet()
    torch.backends.cuda.enable_flash_sdp(False)  # on processors its kernel is the slower one at 16 to 64 tokens
    if spec["run"] is None:
        found = measure_pretrained(size, work, spec["reference"])
    else:
        found = one_run(Run(**spec["run"]), size, work, spec["reference"])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(output, (json.dumps(found, indent=1) + "\n").encode())


def measure_pretrained(size: Size, work: Path, reference: str) -> dict[str, Any]:
    """The bare model before any training."""
    from bare import BareModel

    return BareModel(size, work / reference).pretrained()


def one_run(run: Run, size: Size, work: Path, reference: str) -> dict[str, Any]:
    """Trains and measures."""
    from bare import BareModel
    from diffusers import ControlNetModel

    started = time.perf_counter()
    settings, paths = run.settings(size), run.paths(size, work)
    folder = Path(paths["output_dir"])
    resumed = train(folder, settings, command_line(paths | settings["flags"]))
    trained = time.perf_counter()
    figures = None
    if settings["bare_model"]:
        figures = BareModel(size, work / reference).measure(ControlNetModel.from_pretrained(folder))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return {
        "condition": run.condition,
        "method": run.method,
        "seed": run.seed,
        "learning_rate": run.rate,
        "condition_error": condition_errors(folder),
        "bare_model": figures,
        "images_per_second": images_per_second(folder),
        "seconds": {"training": trained - started, "measurement": time.perf_counter() - trained},
        "resumed": resumed,
        "settings": settings,
        "machine": machine(),
    }


def train(folder: Path, settings: dict[str, Any], argv: list[str]) -> bool:
    """Runs the training script, from its last checkpoint if there is one; returns whether there was."""
    resumed = begin_run(folder, settings)
    how = ["--resume_from_checkpoint", "latest"] if resumed else ["--overwrite_output_dir"]
    load_script("train_controlnet_difftune").main(argv + how)
    return resumed


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


def images_per_second(folder: Path) -> float:
    """The median rate of a run, measurements not counted."""
    return statistics.median(line["images_per_second"] for line in read_log(folder) if "images_per_second" in line)


def condition_errors(folder: Path) -> dict[str, list[float]]:
    """The curves of a run: its `steps`, and the error after each by every measure."""
    lines = read_log(folder)
    measured = {line["step"]: line["condition_error"] for line in lines if "condition_error" in line}
    steps = sorted(measured)
    return {"steps": steps} | {name: [measured[step][name] for step in steps] for name in measured[steps[0]]}


if __name__ == "__main__":
    main(sys.argv[1:])
