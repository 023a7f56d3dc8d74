# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Validation images: the same prompts (and control images) from the same noise, every time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..backbones import Backbone
from ..io.atomic import atomic_folder
from ..io.processes import from_main
from ..trainables import Trainable
from .run import Run


logger = logging.getLogger(__name__)
SAMPLING_STEPS = 20


def validation_steps(config: Any, steps_per_epoch: int, total_steps: int) -> range:
    """After which steps validation images are made, beside the last one: every `--validation_steps` steps if that is set,
    else at the end of the first of every `--validation_epochs` epochs, as diffusers' scripts have it.

    Args:
        config: The config of a script.
        steps_per_epoch (`int`): Optimiser steps of an epoch.
        total_steps (`int`): There are no steps after this one.

    Returns:
        `range`: The steps; none of a stream, which has no epochs, without `--validation_steps`.
    """
    if config.validation_steps is not None:
        return range(config.validation_steps, total_steps + 1, config.validation_steps)
    if config.streaming:
        return range(0)
    return range(steps_per_epoch, total_steps + 1, steps_per_epoch * config.validation_epochs)


@dataclass
class ValidationInputs:
    """What validation images are made of.

    Attributes:
        prompts (`list[str]`): One image each; image i starts from noise that depends on the seed and on i alone.
        controls (`list[PIL.Image.Image]`, *optional*): The control image of each, for ControlNet training.
        titles (`list[str]`, *optional*): What to call each image where people see it; `None` is its prompt.
    """

    prompts: list[str]
    controls: list[Image.Image] | None = None
    titles: list[str] | None = None


class Validation:
    """When to make validation images, and making them with the weights that would be saved now.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        trained ([`Trainable`]): What trains; builds the pipeline.
        inputs ([`ValidationInputs`], *optional*): What to make images of; `None` is nothing.
        steps_per_epoch (`int`): Optimiser steps of an epoch.

    Attributes:
        images (`list[Path]`): The newest images.
    """

    def __init__(
        self,
        run: Run,
        backbone: Backbone,
        trained: Trainable,
        inputs: ValidationInputs | None,
        steps_per_epoch: int,
    ) -> None:
        self.run, self.backbone, self.trained, self.steps_per_epoch = run, backbone, trained, steps_per_epoch
        inputs = inputs or ValidationInputs([])
        self.prompts, self.controls = inputs.prompts, inputs.controls
        self.titles = inputs.prompts if inputs.titles is None else inputs.titles
        self.images: list[Path] = []
        self.last_step: int | None = None

    def due(self, step: int) -> bool:
        """Whether images are due after this many steps; see [`validation_steps`]."""
        return bool(self.prompts) and step in validation_steps(self.run.config, self.steps_per_epoch, step)

    def make(self, step: int) -> None:
        """Makes `validation/step-{step}/{i}.png`, and `{i}-condition.png` beside it where there is a control image, and
        hands them to the trackers; call it on every process."""
        if self.prompts and self.last_step != step:
            with self.run.whole_weights():
                self.images = from_main(self.run.accelerator, self.run.stop.giving_way(lambda: self.write(step)))
        self.last_step = step

    def is_made(self, step: int) -> bool:
        """Whether an earlier start of the run made the images of a step; call it on the main process."""
        return self.folder(step).is_dir()

    def folder(self, step: int) -> Path:
        """Where the images of a step are."""
        return self.run.output_dir / "validation" / f"step-{step}"

    def write(self, step: int) -> list[Path]:
        """Makes them on this process alone; returns the files of the images."""
        folder, number = self.folder(step), len(self.prompts)
        logger.info("Making %d validation image%s in %s", number, "" if number == 1 else "s", folder)
        images = self.sample()
        paths = [folder / f"{i}.png" for i in range(len(images))]
        with atomic_folder(folder) as aside:
            for image, path in zip(images, paths, strict=True):
                image.save(aside / path.name)
            for path, control in zip(paths, self.controls or [], strict=False):
                control.save(aside / condition_file(path).name)
        shown = list(zip(images, self.titles, strict=True))
        if self.controls is not None:  # each before the image that was made from it
            controls = [(control, f"control image: {prompt}") for control, prompt in zip(self.controls, self.prompts)]
            shown = [each for pair in zip(controls, shown, strict=True) for each in pair]
        log_images(self.run, [image for image, _ in shown], [text for _, text in shown], step)
        return paths

    def images_by_prompt(self) -> dict[str, list[Path]]:
        """The newest images by the title of their prompt; each control image before the images that were made from it."""
        found: dict[str, list[Path]] = {}
        seen: list[tuple[str, Image.Image]] = []
        for i, (prompt, path) in enumerate(zip(self.titles, self.images, strict=False)):
            paths = found.setdefault(prompt, [])
            if self.controls is not None and (prompt, self.controls[i]) not in seen:
                seen.append((prompt, self.controls[i]))
                paths.append(condition_file(path))
            paths.append(path)
        return found

    def sample(self) -> list[Image.Image]:
        side = self.backbone.resolution
        with sampling(self.run, self.backbone, self.trained) as pipeline:
            return [
                pipeline(
                    **self.backbone.sample_arguments(pipeline, [prompt], side, side),
                    num_inference_steps=SAMPLING_STEPS,
                    generator=torch.Generator().manual_seed(self.run.seed + i),
                    **({} if self.controls is None else {"image": self.controls[i]}),
                ).images[0]
                for i, prompt in enumerate(self.prompts)
            ]


def condition_file(image: Path) -> Path:
    """Where the control image of a validation image is."""
    return image.with_name(f"{image.stem}-condition.png")


@contextmanager
def sampling(run: Run, backbone: Backbone, trained: Trainable) -> Iterator[Any]:
    """The pipeline with the weights that would be saved now, for as long as the context lasts."""
    device = run.accelerator.device
    had_encoders, was_training = bool(backbone.encoders), trained.model.training
    backbone.load_encoders(device, run.weight_dtype)
    trained.model.eval()
    with trained.use_final_weights(), torch.no_grad(), run.accelerator.autocast():
        yield trained.pipeline(device, run.weight_dtype)
    trained.model.train(was_training)
    if not had_encoders:
        backbone.release_encoders()


def log_images(run: Run, images: list[Image.Image], captions: list[str], step: int) -> None:
    """Hands the images to the trackers that show images."""
    for tracker in run.accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images(
                {"validation": np.stack([np.asarray(i) for i in images])}, step=step, dataformats="NHWC"
            )
        elif tracker.name == "wandb":
            import wandb

            captioned = [wandb.Image(image, caption=text) for image, text in zip(images, captions, strict=True)]
            tracker.log_images({"validation": captioned}, step=step)
        else:
            logger.info("Validation images are not sent to %s; they are in the run folder.", tracker.name)
