# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How a knowledge bank is sampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..errors import DiffTuneError
from ..io.manifest import LARGEST
from .prompts import prompts_sha256
from .solver import SOLVERS


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
        guidance_scale (`float`, *optional*, defaults to 1.0):
            Classifier-free guidance, at least `no_guidance`.
        solver (`str`, *optional*, defaults to `"dpm++"`): See [`solver_settings`].
        no_guidance (`float`, *optional*, defaults to 1.0):
            The guidance scale at which the model's family computes no empty branch. Most do so at 1.0; those that add a multiple
            of the difference to the guided prediction do so at 0.0.

    Raises:
        DiffTuneError: A setting is out of range. It is named by its flag.
    """

    num_samples: int
    resolution: int
    seed: int = 0
    prompt_source: str = "captions"
    batch_size: int = 16
    steps: int = 25
    guidance_scale: float = 1.0
    solver: str = "dpm++"
    no_guidance: float = 1.0

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("bank_samples", self.num_samples, 1),
            ("bank_batch_size", self.batch_size, 1),
            ("bank_steps", self.steps, 1),
            ("bank_guidance_scale", self.guidance_scale, self.no_guidance),
        ):
            if not value >= least:
                raise DiffTuneError(f"--{flag} is {value}; it must be at least {least}.")
            if value >= LARGEST:
                raise DiffTuneError(f"--{flag} is {value}; it must be below 2**32.")
        if not 0 <= self.seed < LARGEST:
            raise DiffTuneError(f"--seed is {self.seed}; it must be at least 0 and below 2**32.")
        if self.solver not in SOLVERS:
            raise DiffTuneError(f"--bank_solver is '{self.solver}'; it must be one of {', '.join(SOLVERS)}.")

    @classmethod
    def from_flags(cls, flags: Any, num_samples: int, resolution: int, seed: int = 0) -> Self:
        """The settings that the `--bank_…` flags ask for.

        Args:
            flags: Whatever has the flags as attributes.
            num_samples (`int`): The number of samples; `--bank_samples` may leave it open.
            resolution (`int`): Side of the images in pixels.
            seed (`int`, *optional*, defaults to 0): The seed; a run may have drawn its own.

        Returns:
            [`BankSettings`]: The settings.

        Raises:
            DiffTuneError: A setting is out of range.
        """
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
        """What they decide of a bank's manifest.

        Args:
            prompts (`list[str]`, *optional*): The prompt of each sample; `None` if they are not known yet.
            latent_shape (`Sequence[int]`): Shape of a sample at this resolution.
        """
        known = {} if prompts is None else {"prompts_sha256": prompts_sha256(prompts)}
        same = ("solver", "steps", "seed", "prompt_source", "num_samples", "resolution")
        return {
            **{name: getattr(self, name) for name in same},
            "guidance_scale": float(self.guidance_scale),
            "shard_size": self.batch_size,
            "latent_shape": list(latent_shape),
            **known,
        }
