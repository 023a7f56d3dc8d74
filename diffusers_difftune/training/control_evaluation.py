# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Convergence of a ControlNet, measured while it trains: images are made for held-out control images, the conditions
found in them are compared with those that were asked for."""

import statistics
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from .. import errors
from ..backbones import Backbone
from ..data.dataset import TargetData
from ..data.images.decode import ImageTransform, control_image
from ..evaluation.convergence import condition_error
from ..io.random import counter_generator
from ..trainables import Trainable
from .evaluation import Evaluation, open_held_out
from .run import Run
from .validation import sampling


if TYPE_CHECKING:
    from ..controls import Extractor


class ControlEvaluation:
    """Measures, always on the same held-out (control image, prompt, noise).

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        trained ([`Trainable`]): What trains; builds the pipeline.
        extractor ([`Extractor`]): Finds conditions in images.
        held_out ([`TargetData`]): The held-out rows.
    """

    def __init__(
        self, run: Run, backbone: Backbone, trained: Trainable, extractor: "Extractor", held_out: TargetData
    ) -> None:
        self.run, self.backbone, self.trained, self.extractor = run, backbone, trained, extractor
        config = run.config
        transform = ImageTransform(backbone.resolution, config.image_interpolation_mode)
        rows = range(config.control_evaluation_samples)
        self.prompts = [held_out.captions(row)[0] for row in rows]
        self.controls = torch.stack([control_image(held_out.conditions[row], transform) for row in rows])
        self.given = (self.controls * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def mean_errors(self) -> dict[str, float]:
        """The mean over the held-out rows of each measure of dissimilarity; see [`condition_error`]."""
        found = self.extractor(self.sample())
        self.extractor.release()  # a model that measures must not take memory from the training
        per_image = condition_error(self.run.config.condition_kind, self.given, found)
        return {name: statistics.fmean(values) for name, values in per_image.items()}

    def sample(self) -> list:
        """An image for each held-out control image, from noise that depends on the seed 0 and its row alone."""
        config, device = self.run.config, self.run.accelerator.device
        shape = self.backbone.latent_shape()
        images = []
        with sampling(self.run, self.backbone, self.trained) as pipeline:
            batches = torch.arange(len(self.prompts)).split(config.train_batch_size)
            for rows in tqdm(batches, "Measuring", leave=False, delay=5):
                noise = [
                    counter_generator(0, "control evaluation", 0, row).standard_normal(shape, "float32")
                    for row in rows.tolist()
                ]
                images += pipeline(
                    [self.prompts[row] for row in rows],
                    image=self.controls[rows],
                    latents=torch.from_numpy(np.stack(noise)).to(device, self.run.weight_dtype),
                    num_inference_steps=config.control_evaluation_inference_steps,
                    guidance_scale=config.control_evaluation_guidance_scale,
                    height=self.backbone.resolution,
                    width=self.backbone.resolution,
                ).images
        return images


def open_control_evaluation(run: Run) -> TargetData | None:
    """Opens and checks `--control_evaluation_data`, if it is given; loads no weights.

    Args:
        run ([`Run`]): The run.

    Returns:
        [`TargetData`] or `None`: The held-out rows.

    Raises:
        DiffTuneError: The data cannot be opened, or have too few rows.
    """
    config = run.config
    if config.control_evaluation_data is None:
        return None
    blank = np.zeros((1, config.resolution, config.resolution, 3), np.uint8)
    with errors.flag("--control_evaluation_data"):
        condition_error(config.condition_kind, blank, blank)  # can this kind be measured here?
    return open_held_out(run, "control_evaluation")


def control_evaluation(
    run: Run, backbone: Backbone, trained: Trainable, extractor: "Extractor | None", held_out: TargetData | None
) -> Evaluation | None:
    """What measures the condition error while the run trains, if it is asked for; see [`ControlEvaluation`]."""
    if extractor is None or held_out is None:
        return None
    measured = ControlEvaluation(run, backbone, trained, extractor, held_out)
    every = run.config.control_evaluation_steps or run.config.validation_steps
    return Evaluation(run, "condition_error", every, measured.mean_errors)
