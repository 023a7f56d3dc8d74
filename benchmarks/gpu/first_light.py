# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A first light on a GPU: do the scripts train, in which precisions, do they resume, and do they agree with the processor?

Written for a few minutes on a rented machine. Two processes work side by side: the *reference*, on the processor in float32,
and the *device*, on the first GPU. Both train the four scripts for some steps from the same seed, on the pipelines in this
repository; the random numbers of a run are the same wherever it runs, so that losses can be compared step by step. Every
part writes its result to OUTPUT as soon as it is done, and one that fails does not stop the others.

    python benchmarks/gpu/first_light.py --output outputs/first_light             # at most 6 minutes
    python benchmarks/gpu/first_light.py --rehearse --output outputs/rehearsal    # the same without a GPU

A machine for rent often has torch, accelerate, transformers and peft, but no diffusers, no datasets and no network. What
`--rehearse` also does is to weigh what has to be copied there (payload.py): the tracked files and the missing wheels.

Tolerances are on the loss of each step, relative to the reference's: see `TOLERANCE`.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement


ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "icons")]
from benchmarks.gpu.payload import ASSUMED, CARRIED, weigh  # noqa: E402


SCRIPTS = {
    "text_to_image": "train_text_to_image_difftune",
    "lora": "train_text_to_image_lora_difftune",
    "controlnet": "train_controlnet_difftune",
    "class_conditional": "train_class_conditional_difftune",
}
PRECISIONS = ("bf16", "no", "fp16")  # what people train in first, then what compares best
STEPS, RESUMED_AFTER, ROWS, RESOLUTION = 6, 3, 8, 32
# Largest difference of a step's loss from the reference's, as a part of it. float32 is without TF32.
TOLERANCE = {"no": 1e-3, "bf16": 5e-2, "fp16": 1e-2}
# Largest difference of a bank's latents after 8 solver steps, in their standard deviations.
BANK_TOLERANCE = 1e-2
BANK = {"bank_samples": 16, "bank_steps": 8, "bank_batch_size": 8}
SPEED_STEPS, SPEED_ROWS = 60, 128
FLAGS = {
    "resolution": RESOLUTION,
    "train_batch_size": ROWS,
    "max_train_steps": STEPS,
    "checkpointing_steps": RESUMED_AFTER,
    "learning_rate": 1e-4,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "seed": 0,
    "report_to": "none",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="Folder for the results, in JSON.")
    parser.add_argument("--rehearse", action="store_true", help="Use the processor in the GPU's place.")
    parser.add_argument("--minutes", type=float, default=6.0, help="No part starts later than this.")
    parser.add_argument(
        "--work", type=Path, help="Folder for runs and caches; by default one in OUTPUT, removed at the end."
    )
    parser.add_argument("--worker", choices=("reference", "device"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.output = arguments.output.absolute()
    arguments.work = (arguments.work or arguments.output / "work").absolute()
    if arguments.worker:
        return work(arguments)

    started = time.monotonic()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for old in ("reference.json", "device.json", "first_light.json"):
        (arguments.output / old).unlink(missing_ok=True)
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    workers = {name: start(name, arguments) for name in ("reference", "device")}
    payload = weigh(ROOT) if arguments.rehearse else None
    for name, worker in workers.items():
        try:
            worker.wait(timeout=max(1.0, 60 * (arguments.minutes + 1) - (time.monotonic() - started)))
        except subprocess.TimeoutExpired:
            worker.kill()
            print(f"The {name} process was ended, a minute after the last part could have started.")
    report = {
        "rehearsal": arguments.rehearse,
        "seconds": round(time.monotonic() - started, 1),
        "commit": commit(),
        "payload": payload,
        "tolerance": TOLERANCE | {"bank": BANK_TOLERANCE},
        "reference": read(arguments.output / "reference.json"),
        "device": read(arguments.output / "device.json"),
    }
    report["comparison"] = compare(report["reference"], report["device"])
    write(arguments.output / "first_light.json", report)
    shutil.rmtree(arguments.work, ignore_errors=True)
    wrong = tell(report)
    sys.exit(1 if wrong else 0)


def start(name: str, arguments: argparse.Namespace) -> subprocess.Popen:
    """Starts a worker; what it says goes to OUTPUT/NAME.txt."""
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if name == "reference" or arguments.rehearse:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", name, "--output", str(arguments.output)]
    command += ["--work", str(arguments.work), "--minutes", str(arguments.minutes)]
    command += ["--rehearse"] if arguments.rehearse else []
    with open(arguments.output / f"{name}.txt", "w") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)


def work(arguments: argparse.Namespace) -> None:
    """What one of the two processes does: its parts, one after the other."""
    began = time.monotonic()
    results: dict[str, Any] = {}

    def part(name: str, do: Callable[[], Any]) -> None:
        """Does a part and writes down what came out, be it a failure."""
        if time.monotonic() - began > 60 * arguments.minutes:
            results[name] = {"not_started": f"the {arguments.minutes:g} minutes were over"}
        else:
            at = time.monotonic()
            try:
                found = do()
            except BaseException as error:  # a script ends a mistake with SystemExit
                cause = error.__cause__ or error
                found = {"error": f"{type(cause).__name__}: {cause}", "traceback": traceback.format_exc()[-4000:]}
            results[name] = found | {"seconds": round(time.monotonic() - at, 1)}
        write(arguments.output / f"{arguments.worker}.json", results)

    part("environment", environment)
    room = arguments.work / arguments.worker
    reference = arguments.worker == "reference"
    shared = arguments.work / "reference"
    if reference:
        part("material", lambda: make_material(room))
    else:
        part("wait", lambda: wait_for(shared / "ready"))
    for kind in ("images", "classes"):
        part(f"bank/{kind}", functools.partial(build_bank, kind, room, shared))
    if reference:
        (room / "banks_ready").touch()
    else:
        part("wait", lambda: wait_for(shared / "banks_ready"))
    for precision in ("no",) if reference else PRECISIONS:
        for name in SCRIPTS:
            part(f"{name}/{precision}", functools.partial(train, name, precision, room, shared, resume=not reference))
    if not reference:
        steps, rows = (4, 16) if arguments.rehearse else (SPEED_STEPS, SPEED_ROWS)
        for precision in ("no", "bf16"):
            part(f"speed/{precision}", functools.partial(speed, precision, room, shared, steps, rows))
        part("imports", imports)


def environment() -> dict[str, Any]:
    """Machine and versions."""
    import torch

    names = (
        "diffusers",
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "datasets",
        "huggingface_hub",
        "numpy",
        "safetensors",
    )
    device: dict[str, Any] = {"type": "cpu", "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # on by default for convolutions
        found = torch.cuda.get_device_properties(0)
        device = {
            "type": "cuda",
            "name": found.name,
            "memory_gib": round(found.total_memory / 2**30, 1),
            "capability": f"{found.major}.{found.minor}",
            "cuda": torch.version.cuda,
            "driver_sees": torch.cuda.device_count(),
        }
    versions = {name: importlib.metadata.version(name) for name in names}
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "versions": versions,
    }


def make_material(room: Path) -> dict[str, Any]:
    """The images, with captions, labels and control images, and the class-conditional pipeline, for both processes."""
    from benchmarks.transfers.source import load_weights, new_transformer, save_pipeline
    from benchmarks.transfers.splits import SOURCE, class_names, read_split
    from tests.tiny import save_tiny_conditions

    save_tiny_conditions(room / "images", count=16, size=RESOLUTION)
    try:
        transformer, weights = load_weights(), "trained"
    except SystemExit:  # of a copy without the history, where they are; random ones compare devices as well
        transformer, weights = new_transformer(), "random"
    save_pipeline(room / "dit", class_names(read_split(SOURCE)), transformer)
    (room / "ready").touch()
    return {"class-conditional weights": weights}


def pipeline_of(name: str, shared: Path) -> Path:
    """The pipeline that a script or bank is tried on."""
    return shared / "dit" if name.startswith("class") else ROOT / "examples" / "icons" / "pipeline"


def build_bank(kind: str, room: Path, shared: Path) -> dict[str, Any]:
    """A bank of the embedded pipelines, and on the device how far it is from the reference's."""
    import torch

    from diffusers_difftune import KnowledgeBank
    from diffusers_difftune.cli import main as difftune

    folder = room / f"bank_{kind}"
    prompts = ["--bank_prompts", str(write_prompts(room))] if kind == "images" else []
    flags = [f"--{name}={value}" for name, value in BANK.items()]
    difftune(
        [
            "bank",
            "build",
            "--pretrained_model_name_or_path",
            str(pipeline_of(kind, shared)),
            "--output_dir",
            str(folder),
        ]
        + [f"--resolution={RESOLUTION}", "--seed=0", f"--cache_dir={room / 'cache'}", *prompts, *flags]
    )
    bank = KnowledgeBank.load(folder)
    latents = torch.stack([bank.latents(row) for row in range(len(bank))])
    found = {"samples": len(bank), "mean": float(latents.mean()), "std": float(latents.std())}
    if room != shared:
        wait_for(shared / "banks_ready")
        other = KnowledgeBank.load(shared / f"bank_{kind}")
        theirs = torch.stack([other.latents(row) for row in range(len(other))])
        found["largest_difference"] = float((latents - theirs).abs().max() / theirs.std())
        found["within_tolerance"] = found["largest_difference"] <= BANK_TOLERANCE
    return found


def write_prompts(room: Path) -> Path:
    room.mkdir(parents=True, exist_ok=True)
    file = room / "prompts.txt"
    file.write_text("grinning face\nred apple\nblue car\ngreen tree\n")
    return file


def train(name: str, precision: str, room: Path, shared: Path, resume: bool) -> dict[str, Any]:
    """Trains a script, resumes the same run from its middle, and compares both."""
    from finetune import command_line, load_script

    folder = room / f"{name}_{precision}"
    bank = shared / ("bank_classes" if name.startswith("class") else "bank_images")
    flags = FLAGS | {
        "pretrained_model_name_or_path": pipeline_of(name, shared),
        "train_data_dir": shared / "images",
        "knowledge_bank": bank,
        "mixed_precision": precision,
        "cache_dir": room / "cache",
        "output_dir": folder,
    }
    begin_memory()
    script = load_script(SCRIPTS[name])
    script.main(command_line(flags))
    found = {"losses": losses(folder), "peak_memory_mib": peak_memory()}
    if resume:
        again = folder.with_name(folder.name + "_resumed")
        checkpoint = f"checkpoint-{RESUMED_AFTER}"
        shutil.copytree(folder / checkpoint, again / checkpoint)
        script.main(command_line(flags | {"output_dir": again, "resume_from_checkpoint": "latest"}))
        found["resumed_losses"] = losses(again)
        found["resumed_weights_differ_by"] = largest_difference(folder, again)
    return found


def losses(folder: Path) -> list[float | None]:
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def largest_difference(folder: Path, other: Path) -> float:
    """Of all tensors of two results, the largest difference of two numbers."""
    from safetensors.torch import load_file

    files = [
        file
        for file in folder.rglob("*.safetensors")
        if not file.relative_to(folder).parts[0].startswith("checkpoint-")
    ]
    if not files:
        raise RuntimeError(f"{folder} has no result")
    differences = [0.0]
    for file in files:
        ours, theirs = load_file(file), load_file(other / file.relative_to(folder))
        differences += [
            float((ours[key].double() - theirs[key].double()).abs().max()) for key in ours if ours[key].numel()
        ]
    return max(differences)


def speed(precision: str, room: Path, shared: Path, steps: int, rows: int) -> dict[str, Any]:
    """Images per second of text-to-image training, the first ten steps left out where there are more."""
    from finetune import command_line, load_script

    folder = room / f"speed_{precision}"
    flags = FLAGS | {
        "pretrained_model_name_or_path": pipeline_of("text_to_image", shared),
        "train_data_dir": shared / "images",
        "knowledge_bank": shared / "bank_images",
        "mixed_precision": precision,
        "cache_dir": room / "cache",
        "output_dir": folder,
        "train_batch_size": rows,
        "max_train_steps": steps,
        "checkpointing_steps": 1_000_000,
    }
    begin_memory()
    load_script(SCRIPTS["text_to_image"]).main(command_line(flags))
    rates = [
        json.loads(line)["images_per_second"] for line in (folder / "training_log.jsonl").read_text().splitlines()
    ]
    return {"rows_a_step": rows, "images_per_second": rates[-1], "peak_memory_mib": peak_memory()}


def begin_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int | None:
    import torch

    return torch.cuda.max_memory_allocated() >> 20 if torch.cuda.is_available() else None


def imports() -> dict[str, Any]:
    """Which distributions were imported that the library needs, a machine for rent may lack and are not carried there."""
    owners = importlib.metadata.packages_distributions()
    used = {
        name.lower().replace("_", "-")
        for module in {m.split(".")[0] for m in sys.modules}
        for name in owners.get(module, [])
    }
    return {"neither_assumed_nor_carried": sorted(used & needed("diffusers-difftune") - ASSUMED - CARRIED)}


def needed(distribution: str) -> set[str]:
    """What a distribution requires, directly or not; what is imported only where it happens to be there is none of it."""
    found: set[tuple[str, frozenset[str]]] = set()
    ahead = [(distribution, frozenset[str]())]
    while ahead:
        name, extras = ahead.pop()
        for wanted in map(Requirement, importlib.metadata.requires(name) or []):
            applies = wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras | {""})
            key = (wanted.name.lower().replace("_", "-"), frozenset(wanted.extras))
            if applies and key not in found:
                found.add(key)
                ahead.append(key)
    return {name for name, _ in found}


def compare(reference: dict[str, Any], device: dict[str, Any]) -> dict[str, Any]:
    """Of each training run, how far its losses are from the reference's, and whether that is within the tolerance."""
    found = {}
    for name, result in device.items():
        kind, _, precision = name.partition("/")
        expected = reference.get(f"{kind}/no", {}).get("losses")
        if kind not in SCRIPTS or not expected or "losses" not in result:
            continue
        pairs = list(zip(result["losses"], expected))
        whole = len(result["losses"]) == len(expected) and all(a is not None for a, _ in pairs)
        difference = max(abs(a - b) / abs(b) for a, b in pairs) if whole else None
        found[name] = {
            "largest_relative_difference": difference,
            "within_tolerance": difference is not None and difference <= TOLERANCE[precision],
            "resumes_bit_for_bit": result.get("resumed_weights_differ_by") == 0
            and result["resumed_losses"] == result["losses"][RESUMED_AFTER:],
        }
    return found


def tell(report: dict[str, Any]) -> list[str]:
    """Prints a line a part; returns those that went wrong."""
    wrong = []
    for worker in ("reference", "device"):
        for name, result in report[worker].items():
            compared = report["comparison"].get(name, {}) if worker == "device" else {}
            unsupported = report["rehearsal"] and "fp16" in result.get("error", "")
            failed = (
                "error" in result
                or result.get("within_tolerance") is False
                or compared.get("within_tolerance") is False
            )
            if report["rehearsal"] and compared and not compared["resumes_bit_for_bit"]:
                failed = True
            if result.get("neither_assumed_nor_carried"):
                failed = True
            state = (
                "needs a GPU"
                if unsupported
                else "FAILED"
                if failed
                else "not started"
                if "not_started" in result
                else "ok"
            )
            if state in ("FAILED", "not started"):
                wrong.append(f"{worker} {name}")
            figures = [
                f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in compared.items()
            ]
            figures += [
                f"{key} {result[key]}" for key in ("error", "largest_difference", "images_per_second") if key in result
            ]
            print(f"{worker:9} {name:26} {state:11} {result.get('seconds', 0):6.1f} s  {', '.join(figures)}"[:240])
    if payload := report["payload"]:
        print(
            f"To be copied: {payload['total_mib']} MiB of at most {payload['limit_mib']} ({payload['tree_mib']} tracked files, {payload['wheels_mib']} wheels)"
        )
        if not payload["fits"]:
            wrong.append("payload")
    print(f"{report['seconds']} s in all; {f'wrong: {wrong}' if wrong else 'nothing went wrong'}")
    return wrong


def commit() -> str | None:
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, cwd=ROOT).stdout.strip() or None
    except OSError:  # a copy without git
        return None


def wait_for(file: Path, seconds: float = 120.0) -> dict[str, Any]:
    """Waits until the other process is so far."""
    until = time.monotonic() + seconds
    while not file.exists():
        if time.monotonic() > until:
            raise RuntimeError(f"the reference process did not come to {file.name} within {seconds:g} s")
        time.sleep(0.2)
    return {}


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}


def write(file: Path, content: dict[str, Any]) -> None:
    """Writes JSON; whoever looks meanwhile finds the whole file before or after."""
    aside = file.with_suffix(".tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n")
    aside.replace(file)


if __name__ == "__main__":
    main()
