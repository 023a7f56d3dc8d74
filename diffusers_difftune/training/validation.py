# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Validation images: the same prompts (and control images) from the same noise, every time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..backbones import Backbone
from ..console import counted
from ..io.atomic import atomic_folder
from ..io.processes import from_main
from ..trainables import Trainable
from .run import Run


logger = logging.getLogger(__name__)
SAMPLING_STEPS = 20


def validation_steps(config: Any, steps_per_epoch: int, total_steps: int) -> range:
    """After which steps validation images are made, beside the last one: every `--validation_steps` steps if that is set,
    else at the end of the first of every `--validation_epochs` epochs, as diffusers' scripts have it. A stream has no
    epochs."""
    if config.validation_steps is not None:
        return range(config.validation_steps, total_steps + 1, config.validation_steps)
    if config.streaming:
        return range(0)
    return range(steps_per_epoch, total_steps + 1, steps_per_epoch * config.validation_epochs)


class Validation:
    """Validation images, one for each prompt, and making them with the weights that would be saved now. Image i starts from
    noise that depends on the seed and on i alone.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        prompts (`list[str]`): What is drawn.
        controls (`list[PIL.Image.Image]`, *optional*): The control image of each, for ControlNet training.
        titles (`list[str]`, *optional*): What to call each image where people see it, by default its prompt.

    Attributes:
        images (`list[Path]`): The files of the newest images.
    """

    def __init__(
        self,
        run: Run,
        backbone: Backbone,
        prompts: list[str],
        controls: list[Image.Image] | None = None,
        titles: list[str] | None = None,
    ) -> None:
        self.run, self.backbone = run, backbone
        self.prompts, self.controls, self.titles = prompts, controls, titles or prompts
        self.images: list[Path] = []
        self.last_step: int | None = None

    def make(self, step: int, trained: Trainable) -> None:
        """Makes `validation/step-{step}/{i}.png`, and `{i}-condition.png` beside it where there is a control image, and
        hands them to the trackers; call it on every process."""
        if self.prompts and self.last_step != step:
            with self.run.whole_weights():
                making = self.run.stop.giving_way(lambda: self.write(step, trained))
                self.images = from_main(self.run.accelerator, making)
        self.last_step = step

    def folder(self, step: int) -> Path:
        """Where the images of a step are, once they are made."""
        return self.run.output_dir / "validation" / f"step-{step}"

    def write(self, step: int, trained: Trainable) -> list[Path]:
        """Makes them on this process alone; returns the files of the images."""
        folder = self.folder(step)
        logger.info("Making %s in %s", counted(len(self.prompts), "validation image"), folder)
        images = self.sample(trained)
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

    def sample(self, trained: Trainable) -> list[Image.Image]:
        side = self.backbone.resolution
        with sampling(self.run, self.backbone, trained) as pipeline:
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
