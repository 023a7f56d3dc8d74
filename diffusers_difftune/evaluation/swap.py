# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Swapping denoisers within one reverse process: the probe that the chain of forgetting was found with."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..backbones import family_of_pipeline
from ..errors import DiffTuneError


ENDS = ("data", "noise")


class SwappedDenoiser(torch.nn.Module):
    """A fine-tuned denoiser that gives way to the pretrained one for a part of the reverse process.

    This is the analysis of Zhong et al. (NeurIPS 2024, arXiv 2406.00773): if near the data the pretrained denoiser serves the
    target as well as the fine-tuned one, then what was learned there was not needed, and what was forgotten there was
    forgotten in vain.

    It takes a denoiser's place in a pipeline and decides at every call by the timestep, so whatever calls a denoiser with
    the timesteps of its scheduler can sample with it. What a pipeline asks of it besides (`config`, `dtype`, `device` …) is
    the fine-tuned denoiser's.

    Args:
        finetuned (`torch.nn.Module`): The fine-tuned denoiser.
        pretrained (`torch.nn.Module`): The pretrained one, called with the same arguments.
        percent (`float`): x, the part of the sampler's steps that are the pretrained denoiser's, in [0, 100]; rounded to
            whole steps. 0 is the fine-tuned model, 100 the pretrained one, bit for bit.
        end (`str`): `"data"`: the last x % of the steps; `"noise"`: the first x %, as a control.
        timesteps (`Callable`): Returns what the denoiser is given for each step of the sampler, in their order, at the time of a
            call: for most families `pipeline.scheduler.timesteps`. A timestep that samplers go through twice belongs to its first place.

    Raises:
        DiffTuneError: The percentage is out of range, or `end` is neither of the two.
    """

    def __init__(
        self,
        finetuned: torch.nn.Module,
        pretrained: torch.nn.Module,
        percent: float,
        end: str,
        timesteps: Callable[[], torch.Tensor],
    ) -> None:
        super().__init__()
        if not 0 <= percent <= 100:
            raise DiffTuneError(f"{percent} is no percentage of the reverse process; it must be from 0 to 100.")
        if end not in ENDS:
            raise DiffTuneError(f"'{end}' is no end of the reverse process; it must be {' or '.join(ENDS)}.")
        self.finetuned, self.pretrained = finetuned, pretrained
        self.percent, self.end, self.timesteps = percent, end, timesteps

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("finetuned"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        denoiser = self.pretrained if self.is_swapped(timestep) else self.finetuned
        return denoiser(*args, **kwargs)

    def is_swapped(self, timestep: torch.Tensor | float) -> bool:
        """Whether the pretrained denoiser answers at this timestep, one for all rows.

        Raises:
            DiffTuneError: It is none of the sampler's.
        """
        steps = self.timesteps().cpu().double()
        value = float(timestep.flatten()[0] if isinstance(timestep, torch.Tensor) else timestep)
        places = (steps == value).nonzero()
        if not len(places):
            raise DiffTuneError(
                f"The denoiser is called at timestep {value:g}, which is not among its sampler's {len(steps)} (from"
                f" {steps[0].item():g} to {steps[-1].item():g}); swapping needs those."
            )
        place, swapped = places[0].item(), swapped_steps(self.percent, len(steps))
        return place >= len(steps) - swapped if self.end == "data" else place < swapped


def swapped_steps(percent: float, steps: int) -> int:
    """x % of the sampler's steps as a whole number, halves rounded up."""
    return int(percent * steps / 100 + 0.5)


class Adjusted(torch.nn.Module):
    """A denoiser whose arguments, by name, are changed at every call."""

    def __init__(self, denoiser: torch.nn.Module, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__()
        self.denoiser, self.change = denoiser, change

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.denoiser(**self.change(inspect.signature(self.denoiser.forward).bind(*args, **kwargs).arguments))


def without_inputs(denoiser: torch.nn.Module, names: tuple[str, ...]) -> Adjusted:
    """A denoiser that does not hear the ControlNet beside it, whose answers go into these arguments: the bare model in a
    ControlNet pipeline."""
    return Adjusted(denoiser, lambda given: {name: value for name, value in given.items() if name not in names})


def without_class(denoiser: torch.nn.Module, null_class: int) -> Adjusted:
    """A class-conditional denoiser that takes every class for the null class, because it does not know those that the
    pipeline is asked for."""

    def change(given: dict[str, Any]) -> dict[str, Any]:
        return given | {"class_labels": torch.full_like(given["class_labels"], null_class)}

    return Adjusted(denoiser, change)


@contextmanager
def swapped(
    pipeline: Any, pretrained: torch.nn.Module, percent: float, end: str = "data"
) -> Iterator[SwappedDenoiser]:
    """A context in which a pipeline samples with its denoiser swapped for the pretrained one in part; see [`SwappedDenoiser`].

    Args:
        pipeline (`DiffusionPipeline`): Has the fine-tuned denoiser; gets it back on exit.
        pretrained (`torch.nn.Module`): The pretrained denoiser, on the same device and of the same type.
        percent (`float`): x, in [0, 100].
        end (`str`, *optional*, defaults to `"data"`): `"data"` for the last steps, `"noise"` for the first.

    Yields:
        [`SwappedDenoiser`]: What samples.

    Example:

    ```python
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    pipeline = StableDiffusionPipeline.from_pretrained("outputs/my-model")
    pretrained = UNet2DConditionModel.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5", subfolder="unet")
    with swapped(pipeline, pretrained, 30):
        image = pipeline("a watercolour of a lighthouse").images[0]
    ```
    """
    family = family_of_pipeline(pipeline)
    name = family.denoiser_name
    finetuned = getattr(pipeline, name)

    # the scheduler is asked for at the time of a call, because whoever samples may have set another
    def timesteps() -> torch.Tensor:
        return family.denoiser_timesteps(pipeline.scheduler.timesteps)

    module = SwappedDenoiser(finetuned, pretrained, percent, end, timesteps)
    setattr(pipeline, name, module)
    try:
        yield module
    finally:
        setattr(pipeline, name, finetuned)
