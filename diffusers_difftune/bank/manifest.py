# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The manifest of a knowledge bank: what was sampled, from which model, and how."""

import math
from dataclasses import dataclass, field
from typing import Any, Self

from ..config.shared import BANK_FLAGS
from ..errors import quoted
from ..io.manifest import LARGEST, ShardManifest, setting, shorten


MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
LARGEST_SHAPE = 2**31  # so many numbers at most has a cell of a Parquet file

# Settings that follow from others: where those differ, that these do says nothing more.
FOLLOWS_FROM = {
    "prompts_sha256": {"num_samples", "seed", "prompt_source"},
    "scheduler": {"solver"},
    "latent_shape": {"resolution"},
}


@dataclass(kw_only=True)
class BankManifest(ShardManifest):
    """Everything that decides the bytes of a knowledge bank. Without a time stamp: equal banks have equal manifests.

    Attributes:
        model (`str`): The folder or Hub id of the pipeline, as it was given.
        revision (`str`, *optional*): The commit of the Hub repository.
        weights_fingerprint (`str`): See [`weights_fingerprint`].
        pipeline_class (`str`): Name of the pipeline's class.
        solver (`str`): Which sampler was asked for.
        scheduler (`dict`): Class of the scheduler that sampled, and the settings it was made with.
        steps (`int`): Sampling steps.
        guidance_scale (`float`): Classifier-free guidance; of most families 1.0 is none.
        seed (`int`): Every sample's noise is a function of this and its index.
        prompt_source (`str`): Where the prompts are from.
        prompts_sha256 (`str`): Hash of the prompts of all samples, in order.
        num_samples (`int`): Samples of the whole bank.
        shard_size (`int`): Samples per shard, which is also the batch they were made in.
        resolution (`int`): Pixels of a side of the images the latents stand for.
        latent_shape (`list[int]`): Shape of a sample, such as (C, h, w).
        dtype (`str`): The precision the pipeline ran in. The latents are always stored as float32.
        libraries (`dict[str, str]`): Versions of the libraries that sampled.
        format_version (`int`): Version of this layout.
        shards (`dict[str, str]`): SHA-256 of each shard by its name. Empty until the bank is whole.
    """

    model: str  # may differ, as may the revision, between banks of the same samples: what counts are the weights
    revision: str | None
    weights_fingerprint: str = setting("the weights")
    pipeline_class: str = setting("the pipeline's class")
    solver: str = setting("--bank_solver")
    scheduler: dict[str, Any] = setting("the sampling scheduler's ")
    steps: int = setting("--bank_steps", least=1)
    guidance_scale: float = setting("--bank_guidance_scale", least=0)
    seed: int = setting("--seed", least=0)
    prompt_source: str = setting("--bank_prompts")
    prompts_sha256: str = setting("the prompts")
    num_samples: int = setting("--bank_samples", least=1)
    shard_size: int = setting("--bank_batch_size", least=1)
    resolution: int = setting("--resolution", least=1)
    latent_shape: list[int] = setting("the shape of the latents")
    dtype: str = setting("the precision")
    libraries: dict[str, str] = setting("the version of ")
    format_version: int = FORMAT_VERSION
    shards: dict[str, str] = field(default_factory=dict)

    file_name = MANIFEST_NAME
    readable_format = FORMAT_VERSION
    what = "a knowledge bank"
    unit = "samples"
    title = "Knowledge bank"

    def __len__(self) -> int:
        return self.num_samples

    def shard_name(self, number: int) -> str:
        return f"data/shard-{number:05d}.parquet"

    @classmethod
    def out_of_range(cls, values: dict[str, Any]) -> str | None:
        """What is wrong with values of the right types, or `None`."""
        shape = values["latent_shape"]
        if not shape or not all(1 <= size < LARGEST for size in shape) or math.prod(shape) >= LARGEST_SHAPE:
            return f"latent_shape is {quoted(shape)}"
        return super().out_of_range(values)

    def flags(self) -> dict[str, Any]:
        """The flags that make a bank like this one, by name."""
        return {flag: getattr(self, name) for flag, name in BANK_FLAGS.items()}

    def clauses(self, name: str, other: Self, differing: list[str]) -> list[str]:
        """What [`differences`] says of one field: never a hash, and nothing where it follows from another difference."""
        if FOLLOWS_FROM.get(name, set()).intersection(differing):
            return []
        if name == "prompts_sha256":
            return [f"the prompts of --bank_prompts {shorten(self.prompt_source)} are others than they were"]
        if name == "weights_fingerprint" and self.model == other.model:
            return [f"the weights or the tokenizer of {shorten(self.model)} are others than they were"]
        if name == "weights_fingerprint":
            return [f"the model is {shorten(other.model)}, not {shorten(self.model)}"]
        clauses = super().clauses(name, other, differing)
        if name == "num_samples":
            return [f"{clauses[0]} (by default a run samples as many as it draws)"]
        return clauses
