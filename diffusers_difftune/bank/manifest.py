# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The manifest of a knowledge bank: what was sampled, from which model, and how."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import DiffTuneError, quoted
from ..io.json_values import wrong_value


MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
LARGEST = 2**32  # no number of a manifest is larger

# What may differ between banks of the same samples: the name a model goes by (its weights have a fingerprint).
NAMES_ONLY = ("model", "revision", "shards")

# Settings that follow from a flag without being its value, in words.
FACTS = {
    "pipeline_class": "the pipeline's class",
    "latent_shape": "the shape of the latents",
    "dtype": "the precision",
    "format_version": "the format",
}
# Settings that follow from others: where those differ, that these do says nothing more.
FOLLOWS_FROM = {
    "prompts_sha256": ("num_samples", "seed", "prompt_source"),
    "scheduler": ("solver",),
    "latent_shape": ("resolution",),
}
# The flags of a bank's sampling and the fields that hold them.
BANK_FLAGS = {
    "bank_samples": "num_samples",
    "bank_prompts": "prompt_source",
    "bank_steps": "steps",
    "bank_solver": "solver",
    "bank_guidance_scale": "guidance_scale",
    "bank_batch_size": "shard_size",
}


def setting(flag: str) -> Any:
    """A field of the manifest, with the flag a user sets it by."""
    return field(metadata={"flag": flag})


@dataclass(kw_only=True)
class BankManifest:
    """Everything that decides the bytes of a knowledge bank. Without a time stamp: equal banks have equal manifests.

    Attributes:
        model (`str`): The folder or Hub id of the pipeline, as it was given.
        revision (`str`, *optional*): The commit of the Hub repository.
        weights_fingerprint (`str`): See [`weights_fingerprint`].
        pipeline_class (`str`): Name of the pipeline's class.
        solver (`str`): Which sampler was asked for.
        scheduler (`dict`): Class of the scheduler that sampled, and the settings it was made with.
        steps (`int`): Sampling steps.
        guidance_scale (`float`): Classifier-free guidance; 1.0 is none.
        seed (`int`): Every sample's noise is a function of this and its index.
        prompt_source (`str`): Where the prompts are from.
        prompts_sha256 (`str`): Hash of the prompts of all samples, in order.
        num_samples (`int`): Samples of the whole bank.
        shard_size (`int`): Samples per shard, which is also the batch they were made in.
        resolution (`int`): Pixels of a side of the images the latents stand for.
        latent_shape (`list[int]`): (C, h, w) of a sample.
        dtype (`str`): The precision the pipeline ran in. The latents are always stored as float32.
        libraries (`dict[str, str]`): Versions of the libraries that sampled.
        format_version (`int`): Version of this layout.
        shards (`dict[str, str]`): SHA-256 of each shard by its name. Empty until the bank is whole.
    """

    model: str = setting("pretrained_model_name_or_path")
    revision: str | None = setting("revision")
    weights_fingerprint: str = setting("pretrained_model_name_or_path")
    pipeline_class: str = setting("pretrained_model_name_or_path")
    solver: str = setting("bank_solver")
    scheduler: dict[str, Any] = setting("bank_solver")
    steps: int = setting("bank_steps")
    guidance_scale: float = setting("bank_guidance_scale")
    seed: int = setting("seed")
    prompt_source: str = setting("bank_prompts")
    prompts_sha256: str = setting("bank_prompts")
    num_samples: int = setting("bank_samples")
    shard_size: int = setting("bank_batch_size")
    resolution: int = setting("resolution")
    latent_shape: list[int] = setting("resolution")
    dtype: str = setting("mixed_precision")
    libraries: dict[str, str]
    format_version: int = FORMAT_VERSION
    shards: dict[str, str] = field(default_factory=dict)

    @property
    def num_shards(self) -> int:
        """The number of shards of the whole bank."""
        return -(-self.num_samples // self.shard_size)

    @property
    def shard_names(self) -> list[str]:
        """The names of all shards, in the order of their samples."""
        return [shard_name(k) for k in range(self.num_shards)]

    @property
    def is_complete(self) -> bool:
        """Whether the bank is whole."""
        return len(self.shards) == self.num_shards and list(self.shards) == self.shard_names

    def shard_range(self, shard: int) -> range:
        """The indices of the samples in a shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_samples))

    def to_bytes(self) -> bytes:
        """The manifest as it is written to `manifest.json`."""
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def read(cls, folder: Path) -> "BankManifest":
        """Reads the manifest of a bank.

        Args:
            folder (`Path`): The bank's folder.

        Returns:
            [`BankManifest`]: The manifest.

        Raises:
            DiffTuneError: It is not there, or not one that this version can read.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise DiffTuneError(f"{folder} is not a knowledge bank: it has no {MANIFEST_NAME}.")
        try:
            values = json.loads(path.read_bytes())
            version = values["format_version"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise DiffTuneError(f"{path} is damaged: it is not a manifest in JSON; build the bank again.") from None
        if version != FORMAT_VERSION:
            raise DiffTuneError(
                f"{path} has format {quoted(version)}, and this version reads format {FORMAT_VERSION}; build the bank again."
            )
        if problem := wrong_value(cls, values) or cls.out_of_range(values):
            raise DiffTuneError(f"{path} is damaged ({problem}); build the bank again.")
        return cls(**values)

    @staticmethod
    def out_of_range(values: dict[str, Any]) -> str | None:
        """What is wrong with values of the right types, or `None`."""
        for name, least in (("steps", 1), ("guidance_scale", 1), ("seed", 0), ("resolution", 1), ("shard_size", 1)):
            if not least <= values[name] < LARGEST:
                return f"{name} is {values[name]}"
        if not 1 <= values["num_samples"] < LARGEST:
            return f"num_samples is {values['num_samples']}"
        shape = values["latent_shape"]
        if len(shape) != 3 or not all(1 <= size < LARGEST for size in shape):
            return f"latent_shape is {quoted(shape)}"
        return None

    def flags(self) -> dict[str, Any]:
        """The flags that make a bank like this one, by name."""
        return {flag: getattr(self, name) for flag, name in BANK_FLAGS.items()}

    def differences(
        self, other: "BankManifest", ignore: tuple[str, ...] = NAMES_ONLY, remarks: Mapping[str, str] | None = None
    ) -> list[str]:
        """In what `other` differs, as clauses such as `--bank_steps is 50, not 20` (the 20 being this one's), with remarks
        after values of `other`, by field."""
        differing = [entry for entry in fields(self) if getattr(self, entry.name) != getattr(other, entry.name)]
        names = {entry.name for entry in differing}
        clauses = []
        for entry in differing:
            if entry.name in ignore or names.intersection(FOLLOWS_FROM.get(entry.name, ())):
                continue
            here, there = getattr(self, entry.name), getattr(other, entry.name)
            if entry.name == "weights_fingerprint":
                clauses.append(other_weights(self.model, other.model))
            elif entry.name == "prompts_sha256":
                clauses.append(
                    f"the prompts of --bank_prompts {shorten(self.prompt_source)} are others than they were"
                )
            elif isinstance(here, dict):
                kind = "the sampling scheduler's " if entry.name == "scheduler" else "the version of "
                parts = [part for part in {**here, **there} if here.get(part) != there.get(part)]
                clauses += [
                    f"{kind}{part} is {shorten(there.get(part))}, not {shorten(here.get(part))}" for part in parts
                ]
            else:
                name = FACTS.get(entry.name) or f"--{entry.metadata['flag']}"
                clauses.append(f"{name} is {shorten(there)}{(remarks or {}).get(entry.name, '')}, not {shorten(here)}")
        return clauses


def other_weights(here: str, there: str) -> str:
    """The clause about banks of different weights, by the names that the models were given by."""
    if here != there:
        return f"the model is {shorten(there)}, not {shorten(here)}"
    return f"the weights or the tokenizer of {shorten(here)} are others than they were"


def shard_name(number: int) -> str:
    return f"data/shard-{number:05d}.parquet"


def shorten(value: Any) -> str:
    text = str(value)
    if re.fullmatch("[0-9a-f]{64}", text):  # in what is neither a flag nor a name, such as an extractor's settings
        return text[:12]
    return text if len(text) <= 200 else text[:199] + "…"
