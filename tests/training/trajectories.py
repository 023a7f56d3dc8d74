# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Short runs of every training script whose losses and weights are on record, and the program that records them.

`test_trajectories.py` compares today's runs with `trajectories.json`. Record them anew only where results are *meant* to
change, for example with another default, another order of random draws, or the tested version of a library:

    python -m tests.training.trajectories

It prints what moved. Commit the new file with the change that caused it, and say in the commit message why the results
are different now. A file that is recorded anew to make a test pass, without a reason that one can name, hides a defect.
"""

import hashlib
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from tests import conftest  # noqa: F401  (it sets one thread and CPU only, also where the program records)
from tests.tiny import save_tiny_classes, save_tiny_conditions, save_tiny_dit_pipeline, save_tiny_pipeline

from .runs import CLASS, FULL, LORA, load_script


CONTROL = "train_controlnet_difftune"
RECORD = Path(__file__).with_suffix(".json")
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "pillow")
SERIES = ("loss", "loss_reconsolidation", "loss_retention", "lr")  # what is compared at every step
TOLERANCE = 1e-5  # relative; other thread counts and instruction sets round in another order, which made up to 2.2e-7
NOT_TRAINED = {"vae", "text_encoder", "knowledge_bank"}  # folders of a run whose weights are other files' copies

SAME = (
    "--resolution 16 --train_batch_size 4 --max_train_steps 5 --seed 0 --learning_rate 1e-3 --lr_scheduler cosine"
    " --lr_warmup_steps 2 --report_to none"
)
BANK = "--bank_samples 8 --bank_steps 2 --bank_batch_size 4"


class Run(NamedTuple):
    """A run on record: the script, its flags beyond those that all of them have, and how far its losses may drift on
    another instruction set, relatively: sums that are rounded to bfloat16 differ there by up to 1.5e-4."""

    script: str
    flags: str
    elsewhere: float = TOLERANCE


RUNS = {
    "full-standard": Run(FULL, "--objective standard"),
    "full-difftune": Run(FULL, f"{BANK} --use_ema --random_flip --checkpointing_steps 4"),
    "full-difftune-no-cache": Run(
        FULL, f"{BANK} --no_cache --snr_gamma 5 --noise_offset 0.1 --gradient_accumulation_steps 2"
    ),
    "lora-standard": Run(LORA, "--objective standard --lora_dropout 0.1"),
    "lora-difftune": Run(LORA, f"{BANK} --retention_target pretrained --coefficients weighted --learning_rate 5e-2"),
    "controlnet-standard": Run(CONTROL, "--objective standard"),
    "controlnet-difftune": Run(CONTROL, f"{BANK} --retention_condition extracted --condition_kind sketch"),
    "class-standard": Run(CLASS, "--objective standard --adapter difffit"),
    "class-difftune": Run(CLASS, f"{BANK} --use_ema"),
    "class-difftune-bf16": Run(CLASS, f"{BANK} --mixed_precision bf16", elsewhere=1e-3),
}


class Material(NamedTuple):
    """What the runs are given: tiny pipelines and data."""

    pipeline: Path
    dit: Path
    pairs: Path
    classes: Path

    @classmethod
    def make(cls, folder: Path) -> "Material":
        """Makes it in a folder, with the seeds that the record has."""
        return cls(
            save_tiny_pipeline(folder / "pipeline"),
            save_tiny_dit_pipeline(folder / "dit"),
            save_tiny_conditions(folder / "pairs"),
            save_tiny_classes(folder / "classes"),
        )

    def start(self) -> dict[str, float]:
        """The sum of squares of each pipeline's weights: whether the runs start where those on record did."""
        return {name: _sum_of_squares(folder) for name, folder in (("pipeline", self.pipeline), ("dit", self.dit))}


def trajectory(name: str, material: Material, output: Path) -> dict[str, Any]:
    """Does a run of `RUNS` in this process.

    Returns:
        `dict`: The `series` of its loss log, as lists of one number a step, and the `weights`, a checksum of what it saved.
    """
    script, flags, _ = RUNS[name]
    pipeline, data = (material.dit, material.classes) if script == CLASS else (material.pipeline, material.pairs)
    given = f"--pretrained_model_name_or_path {pipeline} --train_data_dir {data} --output_dir {output}"
    load_script(script).main(f"{given} --cache_dir {output}-cache {SAME} {flags}".split())
    lines = [json.loads(line) for line in (output / "training_log.jsonl").read_text().splitlines()]
    return {"series": {key: [line[key] for line in lines] for key in SERIES}, "weights": weights_checksum(output)}


def weights_checksum(run: Path) -> str:
    """SHA-256 of all trained weights in a run folder, its checkpoints included, in the order of their files and names."""
    digest = hashlib.sha256()
    files = [path.relative_to(run) for path in run.rglob("*.safetensors") if path.name != "optimizer.safetensors"]
    for file in sorted(file for file in files if not NOT_TRAINED & set(file.parts)):
        for name, tensor in sorted(load_file(run / file).items()):
            digest.update(f"{file}:{name}".encode() + tensor.float().numpy().tobytes())
    return digest.hexdigest()


def machine() -> dict[str, Any]:
    """What last bits depend on: threads, the instruction set, who makes the processor, and the libraries' versions."""
    processors = Path("/proc/cpuinfo")
    lines = processors.read_text().splitlines() if processors.is_file() else []
    return {
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "processor": next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), None),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def moved(found: dict[str, list[float]], expected: dict[str, list[float]], tolerance: float) -> list[str]:
    """How a run's series depart from those on record: one sentence a series, with the first step and the largest drift."""
    said = []
    for key, recorded in expected.items():
        series = found[key]
        if len(series) != len(recorded):
            said.append(f"{key} has {len(series)} steps, and {len(recorded)} on record")
            continue
        pairs = list(zip(series, recorded, strict=True))
        drifts = [abs(a - b) / abs(b) if b else abs(a) for a, b in pairs]
        if not max(drifts) <= tolerance:  # NaN moved, too
            step = next(i for i, drift in enumerate(drifts) if not drift <= tolerance)
            said.append(
                f"{key} departs at step {step + 1}: {series[step]!r}, and {recorded[step]!r} on record"
                f" (relative drift {drifts[step]:.1e}, at most {max(drifts):.1e} in {len(series)} steps)"
            )
    return said


def _sum_of_squares(pipeline: Path) -> float:
    files = sorted(pipeline.rglob("*.safetensors"))
    return sum(float(tensor.double().square().sum()) for file in files for tensor in load_file(file).values())


def main() -> None:
    """Records all runs anew and says what moved."""
    old = json.loads(RECORD.read_text())["runs"] if RECORD.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        material = Material.make(Path(folder))
        start = material.start()
        runs = {name: trajectory(name, material, Path(folder, name)) for name in RUNS}
    RECORD.write_text(json.dumps({"machine": machine(), "start": start, "runs": runs}, indent=1) + "\n")
    for name, run in runs.items():
        if name not in old:
            print(f"{name}: new")
            continue
        weights = "the same weights" if run["weights"] == old[name]["weights"] else "other weights"
        print(f"{name}: {'; '.join([*moved(run['series'], old[name]['series'], 0.0), weights])}")


if __name__ == "__main__":
    main()
