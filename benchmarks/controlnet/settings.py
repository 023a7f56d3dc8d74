# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that decides the ControlNet benchmark's figures, in one place."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[2]
PIPELINE = ROOT / "examples" / "icons" / "pipeline"
DATA = ROOT / "examples" / "icons" / "data"
RESULTS = Path(__file__).resolve().parent / "results"
WORK = ROOT / "outputs" / "controlnet"
TARGET = "fluent_emoji"
MODEL_KINDS = ("depth", "normal", "segmentation")  # of drawings, computed without a model

# What each method is to the training script.
METHODS: dict[str, dict[str, Any]] = {
    "standard": {"objective": "standard"},
    "blank": {"objective": "difftune", "retention_condition": "blank"},
    "extracted": {"objective": "difftune", "retention_condition": "extracted"},
    "reconsolidation": {"objective": "difftune", "source_share": 0.0},
    "power-2": {"objective": "difftune", "retention_condition": "blank", "reconsolidation_power": 2.0},
    "share-0.1": {"objective": "difftune", "retention_condition": "blank", "source_share": 0.1},
}
# The comparison: standard training and Diff-Tuning as the script does it by default. The other methods are ablations.
DIFFTUNE = "blank"
TITLES = {
    "standard": "standard",
    "blank": "Diff-Tuning (blank condition for source rows)",
    "extracted": "Diff-Tuning, extracted condition for source rows",
    "reconsolidation": "reconsolidation only (no retention)",
    "power-2": "Diff-Tuning with p = 2, further towards noise",
    "share-0.1": "Diff-Tuning with a tenth of source rows",
}
ABLATIONS = ("extracted", "reconsolidation")
# What was tried to save more steps, on the tuning seeds.
VARIANTS = ("power-2", "share-0.1")

# The same for every method.
RECIPE = {
    "resolution": 32,
    "train_batch_size": 16,  # small, so that learning to obey takes many steps and is seen well
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "adam_weight_decay": 0.0,
    "control_evaluation_guidance_scale": 1.0,  # what the pair itself does, at half the cost
    "control_evaluation_inference_steps": 10,
    "mixed_precision": "bf16",
    "checkpointing_steps": 100,
    "checkpoints_total_limit": 1,
    "report_to": "none",
}
GUIDANCE = 3.0  # of the samples that the bare model's behaviour is measured on

# Seconds on one thread of an Intel Xeon core that does nothing else, for an estimate before any run is there.
SECONDS = {"start": 12.0, "step": 0.16, "evaluation": 1.2, "measurement": 35.0, "bank": 60.0, "condition": 30.0}


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        conditions (`tuple[str, ...]`): Kinds of condition.
        seeds (`tuple[int, ...]`): Seeds of the result.
        tuning_seeds (`tuple[int, ...]`): Seeds of the standard runs that the learning rate and the thresholds come from.
        rates (`tuple[float, ...]`): Learning rates to choose from, by standard training.
        search_conditions (`tuple[str, ...]`): Kinds of condition to choose it on.
        ablation_conditions (`tuple[str, ...]`): Kinds of condition that the condition of source rows was chosen on, and on
            which there is no retention for comparison.
        variant_conditions (`tuple[str, ...]`): Kinds of condition that variants were tried on.
        steps (`int`): Optimiser steps of a run.
        every (`int`): Steps between two measurements of the condition error.
        held_out (`int`): Held-out conditions it is measured on.
        bank_samples (`int`): Samples of the knowledge bank.
        bank_steps (`int`): Sampling steps of each.
        images (`int`): Samples that the bare model's behaviour is measured on; more than 64.
        rows (`int`): Held-out source drawings for the loss by noise level.
        sampling_steps (`int`): Sampling steps of the samples.
    """

    conditions: tuple[str, ...] = ("edge", "sketch", "depth", "normal", "segmentation")
    seeds: tuple[int, ...] = (1, 2, 3)
    tuning_seeds: tuple[int, ...] = (11, 12)
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    search_conditions: tuple[str, ...] = ("edge", "depth")
    ablation_conditions: tuple[str, ...] = ("edge", "depth")
    variant_conditions: tuple[str, ...] = ("edge", "normal")
    steps: int = 240
    every: int = 2  # thirty measurements before a crossing at step 60
    held_out: int = 32
    bank_samples: int = 512
    bank_steps: int = 25
    images: int = 200
    rows: int = 128
    sampling_steps: int = 15


FULL = Size()
# One row of the table, from one seed; the rate is the one that was chosen.
QUICK = replace(
    FULL,
    conditions=("edge",),
    seeds=(1,),
    tuning_seeds=(11,),
    rates=(3e-3,),
    ablation_conditions=(),
    variant_conditions=(),
)
# Too few steps to learn anything: tries that it all runs.
TRIAL = replace(
    FULL, conditions=("edge", "depth"), seeds=(1,), tuning_seeds=(11,), rates=(1e-3, 3e-3), search_conditions=("edge",),
    ablation_conditions=("depth",), variant_conditions=(), steps=4, every=2, held_out=8, bank_samples=8, bank_steps=2, images=66, rows=4,
    sampling_steps=2,
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        condition (`str`): Kind of condition.
        method (`str`): One of `METHODS`.
        seed (`int`): Seed.
        rate (`float`): Learning rate.
    """

    condition: str
    method: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        return f"{self.condition}-{self.method}-lr{self.rate:g}-seed{self.seed}"

    @property
    def has_bank(self) -> bool:
        """Whether it trains on source rows."""
        method = METHODS[self.method]
        return method["objective"] == "difftune" and method.get("source_share") != 0

    def settings(self, size: Size) -> dict[str, Any]:
        """What decides its figures, JSON-able; a run is made again when this is not what its file says."""
        return {
            "pipeline": pipeline_hash(),
            "target": TARGET,
            "flags": RECIPE
            | {
                "condition_kind": self.condition,
                "condition_model": condition_model(self.condition),
                "learning_rate": self.rate,
                "seed": self.seed,
                "max_train_steps": size.steps,
                "control_evaluation_steps": size.every,
                "control_evaluation_samples": size.held_out,
            }
            | METHODS[self.method],
            "bank": {"samples": size.bank_samples, "steps": size.bank_steps} if self.has_bank else None,
            "bare_model": bare_settings(size) if self.seed in size.seeds else None,  # tuning runs need no figures
        }

    def paths(self, size: Size, work: Path) -> dict[str, Any]:
        """The flags that say where things are."""
        return {
            "pretrained_model_name_or_path": PIPELINE,
            "train_data_dir": condition_data(work, self.condition, "train"),
            "control_evaluation_data": condition_data(work, self.condition, "held_out"),
            "knowledge_bank": bank_folder(work, size) if self.has_bank else None,
            "cache_dir": work / "cache",
            "output_dir": work / "runs" / self.name,
        }


def bare_settings(size: Size) -> dict[str, Any]:
    """What decides the figures of the bare model's behaviour."""
    return {
        "images": size.images,
        "rows": size.rows,
        "sampling_steps": size.sampling_steps,
        "guidance_scale": GUIDANCE,
        "precision": "bf16",  # of the samples; losses are in full precision
    }


def condition_model(condition: str) -> str | None:
    """What extracts this kind of condition."""
    return "drawing" if condition in MODEL_KINDS else None


def condition_data(work: Path, condition: str, part: str) -> Path:
    """The target data with their conditions; `part` is `"train"` or `"held_out"`."""
    return work / "data" / f"{condition}-{part}"


def bank_folder(work: Path, size: Size) -> Path:
    """The knowledge bank, which all runs share."""
    return work / f"bank-{size.bank_samples}-{size.bank_steps}"


@cache
def pipeline_hash() -> str:
    """What tells one embedded pipeline from another."""
    digest = hashlib.sha256()
    for file in sorted(PIPELINE.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def search_runs(size: Size) -> list[Run]:
    """Standard training at every learning rate, on tuning seeds; none if there is nothing to choose."""
    if len(size.rates) == 1:
        return []
    return [
        Run(condition, "standard", seed, rate)
        for condition in size.search_conditions
        for rate in size.rates
        for seed in size.tuning_seeds
    ]


def tuning_runs(size: Size, rate: float) -> list[Run]:
    """Standard training on tuning seeds, which the thresholds are reckoned from."""
    return [Run(condition, "standard", seed, rate) for condition in size.conditions for seed in size.tuning_seeds]


def result_runs(size: Size, rate: float) -> list[Run]:
    """The comparison, a seed at a time so that a stopped benchmark has whole seeds; then the ablations."""
    compared = [
        Run(condition, method, seed, rate)
        for seed in size.seeds
        for condition in size.conditions
        for method in ("standard", DIFFTUNE)
    ]
    extracted = [Run(condition, "extracted", seed, rate) for seed in size.seeds for condition in size.conditions]
    without = [
        Run(condition, "reconsolidation", seed, rate) for seed in size.seeds for condition in size.ablation_conditions
    ]
    return compared + extracted + without


def variant_runs(size: Size, rate: float) -> list[Run]:
    """Diff-Tuning and its variants on the tuning seeds, where standard training is compared with them."""
    return [
        Run(condition, method, seed, rate)
        for seed in size.tuning_seeds
        for condition in size.variant_conditions
        for method in (DIFFTUNE, *VARIANTS)
    ]


def to_json(size: Size) -> dict[str, Any]:
    """A size as it is after a round trip through JSON."""
    return json.loads(json.dumps(asdict(size)))
