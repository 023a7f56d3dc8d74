# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Convergence of a ControlNet, measured while it trains: images are made for held-out control images, the conditions
found in them are compared with those that were asked for."""

import statistics
from typing import TYPE_CHECKING, Any

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


class ControlEvaluation(Evaluation):
    """How far the conditions in images are from those that were asked for, always for the same held-out (control image,
    prompt, noise).

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        extractor ([`Extractor`]): Finds conditions in images.
        held_out ([`TargetData`]): The held-out rows.
    """

    name, flags = "condition_error", "control_evaluation"

    def __init__(self, run: Run, backbone: Backbone, extractor: "Extractor", held_out: TargetData) -> None:
        super().__init__(run, held_out)
        config = run.config
        self.data, self.samples = config.control_evaluation_data, config.control_evaluation_samples
        self.every = config.control_evaluation_steps or config.validation_steps
        self.backbone, self.extractor = backbone, extractor
        transform = ImageTransform(backbone.resolution, config.image_interpolation_mode)
        rows = range(self.samples)
        self.prompts = [held_out.captions(row)[0] for row in rows]
        self.controls = torch.stack([control_image(held_out.conditions[row], transform) for row in rows])
        self.given = (self.controls * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the figures beside the weights and the extractor: those of one log must be of one kind."""
        config = self.run.config
        return {
            "data": self.held_out.content_key,
            "samples": self.samples,
            "guidance_scale": config.control_evaluation_guidance_scale,
            "inference_steps": config.control_evaluation_inference_steps,
        }

    def figures(self, trainable: Trainable) -> dict[str, float]:
        """The mean over the held-out rows of each measure of dissimilarity; see [`condition_error`]."""
        found = self.extractor(self.sample(trainable))
        self.extractor.release()  # a model that measures must not take memory from the training
        per_image = condition_error(self.run.config.condition_kind, self.given, found)
        return {name: statistics.fmean(values) for name, values in per_image.items()}

    def sample(self, trainable: Trainable) -> list:
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


def open_control_evaluation(run: Run, backbone: Backbone, extractor: "Extractor | None") -> ControlEvaluation | None:
    """Opens and checks `--control_evaluation_data`, if it is given; loads no weights.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        extractor ([`Extractor`], *optional*): Finds conditions in images; needed if the flag is given.

    Returns:
        [`ControlEvaluation`] or `None`: What measures; `None` without the flag.

    Raises:
        DiffTuneError: The data cannot be opened, or have too few rows, or nothing can measure this kind of condition.
    """
    config = run.config
    if config.control_evaluation_data is None or extractor is None:
        return None
    blank = np.zeros((1, backbone.resolution, backbone.resolution, 3), np.uint8)
    with errors.flag("--control_evaluation_data"):
        condition_error(config.condition_kind, blank, blank)  # can this kind be measured here?
    held_out = open_held_out(
        run, "control_evaluation", config.control_evaluation_data, config.control_evaluation_samples
    )
    return ControlEvaluation(run, backbone, extractor, held_out)
