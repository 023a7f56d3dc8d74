# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Samples to measure: image i from noise i."""

import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.bank.solver import solver_settings
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.samples import first_noise, sample_images


PROMPTS = ["a red square", "a blue bar", "a green cross"]
CLASSES = ["2", "0", ""]


@pytest.fixture(scope="module")
def pipelines(tiny_pipeline, tiny_dit) -> dict:
    cpu = torch.device("cpu")
    return {
        "text": load_backbone(tiny_pipeline).pipeline(None, cpu, torch.float32),
        "class": load_backbone(tiny_dit).pipeline(None, cpu, torch.float32),
    }


@pytest.mark.parametrize(("family", "prompts"), [("text", PROMPTS), ("class", CLASSES)])
def test_an_image_depends_on_its_place_alone(pipelines, family, prompts):
    pipeline = pipelines[family]
    own = pipeline.scheduler
    given = {"steps": 2, "guidance_scale": 2.0}
    images = sample_images(pipeline, prompts, **given)
    assert images.shape == (3, 3, 16, 16) and images.dtype == torch.uint8
    assert torch.equal(sample_images(pipeline, prompts, **given), images)
    assert pipeline.scheduler is own
    in_parts = sample_images(pipeline, prompts, **given, batch_size=2)
    assert (in_parts.int() - images.int()).abs().max() <= 1
    assert torch.equal(sample_images(pipeline, prompts[:1], **given)[0], images[0]) or family == "text"
    twice = sample_images(pipeline, prompts[:1] * 2, **given)
    assert not torch.equal(twice[0], twice[1]), "another place, another noise"
    for change in ({"seed": 1}, {"steps": 3}, {"guidance_scale": 4.0}):
        assert not torch.equal(sample_images(pipeline, prompts, **given | change), images), change


def test_samples_are_those_of_the_pipeline_with_the_solver(tiny_pipeline):
    pipeline = DiffusionPipeline.from_pretrained(tiny_pipeline)
    images = sample_images(pipeline, PROMPTS[:2], seed=5, steps=3, guidance_scale=2.0, height=24, width=16)
    assert images.shape == (2, 3, 24, 16)
    scheduler_class, settings = solver_settings(pipeline.scheduler, "dpm++", 3)
    assert scheduler_class is DPMSolverMultistepScheduler
    pipeline.scheduler = scheduler_class.from_config(settings)
    noise = torch.stack([torch.from_numpy(first_noise(5, place, (4, 12, 8))) for place in (0, 1)])
    expected = pipeline(
        PROMPTS[:2],
        height=24,
        width=16,
        num_inference_steps=3,
        guidance_scale=2.0,
        latents=noise,
        output_type="np",
    ).images
    assert (torch.from_numpy(expected * 255).round().permute(0, 3, 1, 2) - images.float()).abs().max() == 0


def test_half_precision(pipelines, tiny_pipeline):
    half = load_backbone(tiny_pipeline).pipeline(None, torch.device("cpu"), torch.bfloat16)
    images = sample_images(half, PROMPTS[:1], steps=2)
    whole = sample_images(pipelines["text"], PROMPTS[:1], steps=2)
    assert (images.int() - whole.int()).abs().float().mean() < 20


@pytest.mark.parametrize(
    ("family", "given", "said"),
    [
        ("text", {"prompts": []}, "There is nothing to sample"),
        ("text", {"steps": 0}, "in 1 to 1000 steps, its number of noise levels, not in 0"),
        ("text", {"steps": 1001}, "in 1 to 1000 steps, its number of noise levels, not in 1001"),
        ("text", {"height": 12, "width": 16}, "The pipeline does not sample at 16 × 12: .*divisible by 8"),
        ("class", {"height": 32, "width": 32, "prompts": ["1"]}, "does not sample at 32 × 32: this model makes .*"),
    ],
)
def test_what_cannot_be_sampled(pipelines, family, given, said):
    with pytest.raises(DiffTuneError, match=said):
        sample_images(pipelines[family], **{"prompts": PROMPTS, "steps": 2} | given)


def test_images_that_are_not_finite_are_told(tiny_pipeline):
    pipeline = load_backbone(tiny_pipeline).pipeline(None, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        next(pipeline.unet.parameters()).fill_(float("nan"))
    with pytest.raises(DiffTuneError, match="not finite in torch.float32"):
        sample_images(pipeline, PROMPTS[:1], steps=2)
