# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Convergence of a ControlNet, measured while it trains: images are made for held-out control images, the conditions
found in them are compared with those that were asked for."""

import statistics
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .. import errors
from ..backbones import Backbone
from ..data.images.decode import ImageTransform, control_image
from ..evaluation.convergence import condition_error
from ..io.random import counter_generator
from ..trainables import Trainable
from .evaluation import Evaluation, open_held_out
from .run import Run
from .validation import sampling


if TYPE_CHECKING:
    from ..controls import Extractor


class ControlEvaluation(Evaluation):
    """How far the conditions in images are from those that were asked for, always for the same held-out (control image,
    prompt, noise).

    Raises:
        DiffTuneError: The data cannot be opened, or have too few rows, or nothing can measure this kind of condition.
    """

    name, flags, measures = "condition_error", "control_evaluation", "condition errors"

    def __init__(self, run: Run, backbone: Backbone, extractor: "Extractor") -> None:
        config, side = run.config, backbone.resolution
        blank = np.zeros((1, side, side, 3), np.uint8)
        with errors.flag("--control_evaluation_data"):
            condition_error(config.condition_kind, blank, blank)  # can this kind be measured here?
        held_out = open_held_out(run, self.flags)
        super().__init__(run, held_out, config.control_evaluation_steps or config.validation_steps)
        self.backbone, self.extractor = backbone, extractor
        transform = ImageTransform(side, config.image_interpolation_mode)
        rows = range(self.samples)
        self.prompts = [held_out.captions(row)[0] for row in rows]
        self.controls = torch.stack([control_image(held_out.conditions[row], transform) for row in rows])
        self.given = (self.controls * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def figures(self, trainable: Trainable) -> dict[str, float]:
        """The mean over the held-out rows of each measure of dissimilarity; see [`condition_error`]."""
        found = self.extractor(self.sample(trainable))
        self.extractor.release()  # a model that measures must not take memory from the training
        per_image = condition_error(self.run.config.condition_kind, self.given, found)
        return {name: statistics.fmean(values) for name, values in per_image.items()}

    def sample(self, trainable: Trainable) -> list[Image.Image]:
        """An image for each held-out control image, from noise that depends on the seed 0 and its row alone."""
        config, device = self.run.config, self.run.accelerator.device
        shape, side = self.backbone.latent_shape(), self.backbone.resolution
        images = []
        with sampling(self.run, self.backbone, trainable) as pipeline:
            batches = torch.arange(len(self.prompts)).split(config.train_batch_size)
            for rows in tqdm(batches, "Measuring", leave=False, delay=5):
                noise = [
                    counter_generator(0, "control evaluation", 0, row).standard_normal(shape, "float32")
                    for row in rows.tolist()
                ]
                arguments = self.backbone.sample_arguments(
                    pipeline,
                    [self.prompts[row] for row in rows],
                    side,
                    side,
                    config.control_evaluation_guidance_scale,
                    torch.from_numpy(np.stack(noise)).to(device, self.run.weight_dtype),
                )
                steps = config.control_evaluation_inference_steps
                images += pipeline(**arguments, image=self.controls[rows], num_inference_steps=steps).images
        return images
