# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Swapped denoisers in real pipelines: nothing and everything swapped, bit for bit, and what is in between."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)

from diffusers_difftune.backbones.stable_diffusion import StableDiffusionControlNet
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.samples import sample_images
from diffusers_difftune.evaluation.swap import (
    ENDS,
    SwappedDenoiser,
    swapped,
    swapped_steps,
    without_class,
    without_inputs,
)
from tests.tiny import tiny_pipeline


SCHEDULERS = (DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, HeunDiscreteScheduler)
PROMPTS = ["a red square", "a blue bar"]


def sample(pipeline, steps: int = 5, **inputs) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)  # some samplers add noise
    return pipeline(
        PROMPTS,
        num_inference_steps=steps,
        guidance_scale=3.0,
        latents=noise,
        generator=generator,
        output_type="pt",
        **inputs,
    ).images


@pytest.fixture(scope="module")
def finetuned() -> StableDiffusionPipeline:
    return tiny_pipeline(seed=1)


@pytest.fixture(scope="module")
def pretrained(finetuned: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """Differs in its denoiser alone, as a pipeline before fine-tuning does."""
    return StableDiffusionPipeline(
        **finetuned.components | {"unet": tiny_pipeline(seed=2).unet}, requires_safety_checker=False
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("end", ENDS)
def test_none_is_the_finetuned_and_all_the_pretrained_model_bit_for_bit(scheduler, end, finetuned, pretrained) -> None:
    for pipeline in (finetuned, pretrained):
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    before, after = sample(pretrained), sample(finetuned)
    with swapped(finetuned, pretrained.unet, 0, end):
        assert torch.equal(sample(finetuned), after)
    with swapped(finetuned, pretrained.unet, 100, end):
        assert torch.equal(sample(finetuned), before)
    with swapped(finetuned, pretrained.unet, 40, end):
        between = sample(finetuned)
    assert not torch.equal(between, before) and not torch.equal(between, after)
    assert torch.equal(sample(finetuned), after)  # the context gives the denoiser back


class Named(torch.nn.Module):
    """Says at which timesteps it was called."""

    def __init__(self, calls: list, name: str):
        super().__init__()
        self.calls, self.name = calls, name

    def forward(self, sample, timestep, **kwargs):
        self.calls.append((self.name, float(timestep.flatten()[0])))
        return (torch.zeros_like(sample),)


@pytest.mark.parametrize("end, percent, expected", [
    ("data", 30, "ffffffffffffffpppppp"),
    ("noise", 30, "ppppppffffffffffffff"),
    ("data", 2.5, "fffffffffffffffffffp"),  # half a step counts as one
    ("noise", 2.4, "ffffffffffffffffffff"),
    ("data", 97.4, "fppppppppppppppppppp"),
])  # fmt: skip
@pytest.mark.parametrize("as_keyword", [True, False])
def test_the_part_is_counted_in_the_samplers_own_steps(end, percent, expected, as_keyword) -> None:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(20)
    calls: list = []
    module = SwappedDenoiser(Named(calls, "f"), Named(calls, "p"), percent, end, lambda: scheduler.timesteps)
    for t in scheduler.timesteps:  # as the pipelines call: a number, or one for each row
        module(torch.zeros(2, 1), timestep=t) if as_keyword else module(torch.zeros(2, 1), t.expand(2))
    assert "".join(name for name, _ in calls) == expected
    assert [t for _, t in calls] == scheduler.timesteps.tolist()


def test_both_ends_share_the_process_between_them() -> None:
    """What is not the last x % is the first 100 − x %, also where a sampler goes through timesteps twice."""
    for scheduler in (PNDMScheduler(), HeunDiscreteScheduler(), DPMSolverMultistepScheduler(use_karras_sigmas=True)):
        scheduler.set_timesteps(7)
        steps = scheduler.timesteps
        count = len(steps)
        if not isinstance(scheduler, DPMSolverMultistepScheduler):
            assert len(steps.unique()) < count
        for swap in range(count + 1):
            halves = [
                SwappedDenoiser(torch.nn.Identity(), torch.nn.Identity(), 100 * part / count, end, lambda s=steps: s)
                for end, part in (("data", swap), ("noise", count - swap))
            ]
            assert all(halves[0].is_swapped(t) != halves[1].is_swapped(t) for t in steps)


def test_everything_else_asked_of_it_is_the_finetuned_denoisers(finetuned, pretrained) -> None:
    with swapped(finetuned, pretrained.unet, 50) as module:
        assert finetuned.unet is module and module.config is module.finetuned.config
        assert module.dtype == torch.float32 and module.device.type == "cpu"
        assert module.down_blocks is module.finetuned.down_blocks
        assert not hasattr(module, "nothing")
        assert finetuned.dtype == torch.float32


def test_a_sampler_that_replaces_the_scheduler_is_followed(finetuned, pretrained) -> None:
    sampling = {"steps": 6, "guidance_scale": 2.0, "height": 16, "width": 16}
    ends = [sample_images(pipeline, PROMPTS, **sampling) for pipeline in (finetuned, pretrained)]
    for percent, expected in zip((0, 100), ends, strict=True):
        with swapped(finetuned, pretrained.unet, percent):
            assert torch.equal(sample_images(finetuned, PROMPTS, **sampling), expected)


def test_a_pair_gives_way_to_the_bare_denoiser(pretrained) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        controlnet = ControlNetModel.from_unet(pretrained.unet, conditioning_embedding_out_channels=(4, 8))
        for parameter in controlnet.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    pair = StableDiffusionControlNetPipeline(
        **pretrained.components, controlnet=controlnet, requires_safety_checker=False
    )
    control = {"image": torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))}
    bare, both = sample(pretrained), sample(pair, **control)
    assert not torch.equal(bare, both)
    for percent, expected in ((0, both), (100, bare)):
        with swapped(pair, without_inputs(pair.unet, StableDiffusionControlNet.inputs), percent):
            assert torch.equal(sample(pair, **control), expected)


def test_a_class_that_the_pretrained_model_does_not_know_is_its_null_class() -> None:
    class Labelled(torch.nn.Module):
        def forward(self, hidden_states, timestep=None, class_labels=None, return_dict=True):
            return class_labels

    denoiser = without_class(Labelled(), 1000)
    labels = torch.tensor([3, 1000])
    assert denoiser(torch.zeros(2), torch.tensor(5), labels, return_dict=False).tolist() == [1000, 1000]
    assert denoiser(torch.zeros(2), timestep=torch.tensor(5), class_labels=labels).tolist() == [1000, 1000]


def test_a_timestep_that_is_not_the_samplers_is_refused() -> None:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(4)
    module = SwappedDenoiser(torch.nn.Identity(), torch.nn.Identity(), 50, "data", lambda: scheduler.timesteps)
    with pytest.raises(DiffTuneError, match="called at timestep 0.5, which is not among its sampler's 4"):
        module(torch.zeros(1), torch.tensor(0.5, dtype=torch.float64))


@pytest.mark.parametrize("percent, end", [(-1, "data"), (101, "data"), (float("nan"), "noise"), (50, "middle")])
def test_what_is_no_part_of_the_process_is_refused(percent: float, end: str) -> None:
    with pytest.raises(DiffTuneError, match="reverse process; it must be"):
        SwappedDenoiser(torch.nn.Identity(), torch.nn.Identity(), percent, end, lambda: torch.arange(3))


def test_the_documents_example(finetuned, pretrained) -> None:
    document = Path(__file__).parents[2] / "docs" / "forgetting.md"
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)[0], names)
    finetuned.scheduler = DDPMScheduler.from_config(finetuned.scheduler.config)
    images = names["with_pretrained_end"](finetuned, pretrained.unet, PROMPTS, 40)
    assert images.shape == (2, 3, 16, 16)


def test_whole_steps() -> None:
    assert [swapped_steps(percent, 25) for percent in (0, 1.9, 2, 10, 50, 98, 100)] == [0, 0, 1, 3, 13, 25, 25]
