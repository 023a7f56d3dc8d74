# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that decides the transfer benchmark's figures, in one place."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from diffusers_difftune.io.hashing import file_sha256

from .methods import MAIN, METHODS
from .splits import SOURCE, SPLITS


HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
WORK = ROOT / "outputs" / "transfers"
DATA = WORK / "data"
FEATURES = HERE / "features.safetensors"  # the projection that FID and KID are of
EMBEDDED = ROOT / "examples" / "icons" / "pipeline"  # whose autoencoder and noise schedule the source model has
START, SOURCE_MODEL = WORK / "start", WORK / "source"  # the source model before and after pretraining
PRETRAINING, SOURCE_WEIGHTS = WORK / "pretraining", HERE / "source"  # where it is trained, and its weights are kept

TARGETS = (
    "twemoji", "openmoji", "fluent-emoji-flat", "streamline-ultimate-color", "streamline-freehand-color",
    "streamline-emojis", "vscode-icons", "token-branded",
)  # fmt: skip
TUNING_TARGET = "fxemoji"  # for the choice of learning rate, steps and moving average, and in no result
STAGE_2_TARGETS = ("openmoji", "streamline-freehand-color", "vscode-icons")  # named before any was run
STAGE_3_TARGET = "openmoji"

# The same for every run.
RECIPE: dict[str, Any] = {
    "resolution": 32,
    "label_column": "label",
    "class_embeddings": "keep",  # as the reference has it: new classes start from rows of source classes
    "class_dropout_prob": 0.1,
    "train_batch_size": 32,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "adam_weight_decay": 0.0,
    "foreach_ema": True,
    "mixed_precision": "bf16",
    "report_to": "none",
}
SAMPLER = "DPM-Solver++"
GUIDANCE = 3.0  # the best for the source model of 1, 1.5, 2, 2.5, 3 and 4, before any transfer was run

# Seconds on one thread of an Intel Xeon core that does nothing else, for an estimate before any run is there.
SECONDS = {"start": 15.0, "step": 0.09, "measurement": 35.0, "prepare": 400.0}


@dataclass(frozen=True)
class Recipe:
    """What is tuned, on standard fine-tuning, and then the same for every method.

    Attributes:
        learning_rate (`float`): Learning rate.
        steps (`int`): Optimiser steps.
        use_ema (`bool`): Whether the moving average of the weights is the result.
        snr_gamma (`float`, *optional*): γ of the min-SNR weighting of the loss, if it is weighted.
    """

    learning_rate: float
    steps: int
    use_ema: bool
    snr_gamma: float | None = None

    @property
    def flags(self) -> dict[str, Any]:
        """The flags of the training script that it decides, but for the moving average."""
        weighting = {} if self.snr_gamma is None else {"snr_gamma": self.snr_gamma}
        return {"learning_rate": self.learning_rate, "max_train_steps": self.steps} | weighting


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        targets (`tuple[str, ...]`): Target sets.
        methods (`tuple[str, ...]`): Methods of stage 1.
        seeds (`tuple[int, ...]`): Seeds of the result.
        tuning_seeds (`tuple[int, ...]`): Seeds of the choice of the recipe.
        rates (`tuple[float, ...]`): Learning rates to choose from.
        steps (`tuple[int, ...]`): Numbers of steps to choose from.
        gammas (`tuple[float | None, ...]`): Weightings of the loss to choose from: none, and that of the source's training.
        adapter_rates (`tuple[float, ...]`): Learning rates of adapters to choose from.
        bank_samples (`int`): Samples of the knowledge bank.
        bank_steps (`int`): Sampling steps of each.
        sampling_steps (`int`): Sampling steps of what is measured.
        most_samples (`int`, *optional*): Measure with fewer than there are held-out drawings.
    """

    targets: tuple[str, ...] = TARGETS
    methods: tuple[str, ...] = tuple(MAIN)
    seeds: tuple[int, ...] = (1, 2, 3)
    tuning_seeds: tuple[int, ...] = (11, 12)
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    steps: tuple[int, ...] = (250, 500, 1000, 2000)
    gammas: tuple[float | None, ...] = (None, 5.0)
    adapter_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    bank_samples: int = 2000
    bank_steps: int = 25
    sampling_steps: int = 20
    most_samples: int | None = None


FULL = Size()
# The smallest set; of rates and steps there is a choice only if that was made before.
QUICK = replace(
    FULL, targets=("streamline-emojis",), seeds=(1,), tuning_seeds=(11,), rates=(3e-4,), steps=(1000,),
    gammas=(5.0,),
)  # fmt: skip
# Too few steps to learn anything: tries that it all runs.
TRIAL = replace(
    FULL, targets=("streamline-emojis", "vscode-icons"), seeds=(1,), tuning_seeds=(11,), rates=(1e-4, 1e-3), steps=(2, 4),
    adapter_rates=(1e-3,), bank_samples=16, bank_steps=2, sampling_steps=2, most_samples=80,
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        target (`str`): Target set.
        method (`str`): One of `METHODS`.
        seed (`int`): Seed of training and of the samples.
        recipe ([`Recipe`]): The recipe; with several steps to measure after, its steps are the last of them.
        measured (`tuple[int, ...]`): Steps after which it is measured, the last one included; empty is that alone.
        both_weights (`bool`): Measure the weights themselves and their moving average.
    """

    target: str
    method: str
    seed: int
    recipe: Recipe
    measured: tuple[int, ...] = ()
    both_weights: bool = False

    @property
    def name(self) -> str:
        average = "-both" if self.both_weights else "-ema" if self.recipe.use_ema else ""
        curve = "-curve" if self.measured else ""
        rate = f"lr{self.recipe.learning_rate:g}-steps{self.recipe.steps}"
        if self.recipe.snr_gamma is not None:
            rate += f"-snr{self.recipe.snr_gamma:g}"
        return f"{self.target}-{self.method}-{rate}{average}{curve}-seed{self.seed}"

    @property
    def weights(self) -> tuple[str, ...]:
        """Which weights are measured."""
        return ("raw", "ema") if self.both_weights else ("ema",) if self.recipe.use_ema else ("raw",)

    def bank(self, size: Size) -> tuple[int, int] | None:
        """Samples and sampling steps of its knowledge bank."""
        method = METHODS[self.method]
        samples, steps = method.bank_samples or size.bank_samples, method.bank_steps or size.bank_steps
        return (samples, steps) if method.has_bank else None

    def settings(self, size: Size) -> dict[str, Any]:
        """What decides its figures, JSON-able; a run is made again when this is not what its file says."""
        return to_json(
            {
                "source": source_hash(),
                "data": data_hash(self.target),
                "flags": RECIPE
                | METHODS[self.method].flags
                | self.recipe.flags
                | {"use_ema": self.recipe.use_ema or self.both_weights, "seed": self.seed},
                "from_scratch": METHODS[self.method].from_scratch,
                "pull": METHODS[self.method].pull,
                "bank": self.bank(size),
                "measured": [*self.measured] or [self.recipe.steps],
                "weights": self.weights,
                "sampling": sampling(size),
            }
        )


@dataclass(frozen=True)
class Places:
    """Where things are.

    Attributes:
        work (`Path`): Banks, caches and run folders.
        data (`Path`, *optional*): The Parquet files of data.py.
        source (`Path`, *optional*): The source model.
        start (`Path`, *optional*): The source model before its training.
    """

    work: Path
    data: Path = DATA
    source: Path = SOURCE_MODEL
    start: Path = START

    def bank(self, bank: Sequence[int]) -> Path:
        """The knowledge bank of so many samples, of so many steps each, which all runs share."""
        return self.work / "banks" / f"{bank[0]}-{bank[1]}"

    def to_json(self) -> dict[str, str]:
        return {name: str(place) for name, place in vars(self).items()}


def sampling(size: Size) -> dict[str, Any]:
    """What decides the figures of a model's samples."""
    return {
        "sampler": SAMPLER,
        "steps": size.sampling_steps,
        "guidance_scale": GUIDANCE,
        "precision": "bf16",
        "most_samples": size.most_samples,
        "features": file_sha256(FEATURES)[:12],
    }


def pretrained_settings(size: Size, targets: Sequence[str]) -> dict[str, Any]:
    """What decides the figures of the source model itself."""
    hashes = {name: data_hash(name) for name in (SOURCE, *targets)}
    return to_json(
        {"source": source_hash(), "data": hashes, "sampling": sampling(size), "autoencoder": "encoded, decoded"}
    )


@cache
def source_hash() -> str:
    """What tells one source model from another."""
    return file_sha256(SOURCE_MODEL / "transformer" / "diffusion_pytorch_model.safetensors")[:12]


@cache
def data_hash(target: str) -> str:
    """What tells one split of a target set from another."""
    return file_sha256(SPLITS / f"{target}.csv")[:12]


def to_json(value: Any) -> Any:
    """A value as it is after a round trip through JSON."""
    return json.loads(json.dumps(asdict(value) if hasattr(value, "__dataclass_fields__") else value))
