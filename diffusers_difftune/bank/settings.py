# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How a knowledge bank is sampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from .. import errors
from ..errors import DiffTuneError
from ..io.manifest import LARGEST
from .prompts import prompts_sha256
from .solver import SOLVERS


# The flags that settings are from.
FLAGS = {
    "num_samples": "--bank_samples",
    "seed": "--seed",
    "batch_size": "--bank_batch_size",
    "steps": "--bank_steps",
    "guidance_scale": "--bank_guidance_scale",
    "solver": "--bank_solver",
}


@dataclass(frozen=True)
class BankSettings:
    """How a knowledge bank is sampled. The bank's manifest records all of it.

    Args:
        num_samples (`int`): The number of samples, at least 1.
        resolution (`int`): Side of the images in pixels.
        seed (`int`, *optional*, defaults to 0): The seed of noise and prompts.
        prompt_source (`str`, *optional*, defaults to `"captions"`): Where the prompts are from.
        batch_size (`int`, *optional*, defaults to 16): Samples made at once, and kept in one shard.
        steps (`int`, *optional*, defaults to 25): Sampling steps.
        guidance_scale (`float`, *optional*, defaults to 1.0): Classifier-free guidance; 1.0 is none.
        solver (`str`, *optional*, defaults to `"dpm++"`): See [`solver_settings`].

    Raises:
        DiffTuneError: A setting is out of range.
    """

    num_samples: int
    resolution: int
    seed: int = 0
    prompt_source: str = "captions"
    batch_size: int = 16
    steps: int = 25
    guidance_scale: float = 1.0
    solver: str = "dpm++"

    def __post_init__(self) -> None:
        leasts = {"num_samples": 1, "batch_size": 1, "steps": 1, "guidance_scale": 1.0, "seed": 0}
        for name, least in leasts.items():
            if not least <= (value := getattr(self, name)) < LARGEST:
                raise DiffTuneError(f"{name} is {value}; it must be at least {least} and below 2**32.", name)
        if self.solver not in SOLVERS:
            raise DiffTuneError(f"solver is '{self.solver}'; it must be one of {', '.join(SOLVERS)}.", "solver")

    @classmethod
    def from_flags(cls, flags: Any, num_samples: int, resolution: int, seed: int = 0) -> Self:
        """The settings that the `--bank_…` flags, which are attributes of `flags`, ask for; a run may have its own number of samples
        and its own seed."""
        with errors.flag(**FLAGS):
            return cls(
                num_samples=num_samples,
                resolution=resolution,
                seed=seed,
                prompt_source=flags.bank_prompts,
                batch_size=flags.bank_batch_size,
                steps=flags.bank_steps,
                guidance_scale=flags.bank_guidance_scale,
                solver=flags.bank_solver,
            )

    def facts(self, prompts: list[str] | None, latent_shape: Sequence[int]) -> dict[str, Any]:
        """What they decide of a bank's manifest, with the prompt of each sample, if it is known yet, and the shape of a sample."""
        known = {} if prompts is None else {"prompts_sha256": prompts_sha256(prompts)}
        same = ("solver", "steps", "seed", "prompt_source", "num_samples", "resolution")
        return {
            **{name: getattr(self, name) for name in same},
            "guidance_scale": float(self.guidance_scale),
            "shard_size": self.batch_size,
            "latent_shape": list(latent_shape),
            **known,
        }
