# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The flags of ControlNet training."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from .base import fixed, flag
from .shared import Interpolation, TrainingConfig


condition = partial(flag, group="control conditions")


@dataclass(kw_only=True)
class ControlNetConfig(TrainingConfig):
    """The flags of ControlNet training; where a default is another than elsewhere, it is that of diffusers' script."""

    group: ClassVar[str] = "ControlNet"

    output_dir: str = flag(default="controlnet-model")
    train_batch_size: int = flag(default=4)
    num_train_epochs: int = flag(default=1)
    learning_rate: float = flag(default=5e-6)

    conditioning_image_column: str | None = flag(
        "The column that holds the control image.", "conditioning_image", group="target data"
    )
    # Images and control images are resized and cropped as in diffusers' script, which has no flags for it.
    center_crop: bool = fixed(True)
    random_flip: bool = fixed(False)
    image_interpolation_mode: Interpolation = fixed("bilinear")
    crops_per_image: int = fixed(1)

    controlnet_model_name_or_path: str | None = flag(
        "A ControlNet to train on: a folder or a model id on the Hub. Default: a copy of the denoiser's first half."
    )
    tokenizer_name: str | None = flag(
        "A tokenizer in place of the model's own: a folder or an id on the Hub. The run's bank is sampled with it."
    )
    lr_num_cycles: int = flag("Restarts of the cosine_with_restarts schedule.", 1, least=1)
    lr_power: float = flag("Power of the polynomial schedule.", 1.0, above=0)
    set_grads_to_none: bool = flag("Free gradients between steps instead of setting them to zero.", False)
    validation_prompt: list[str] | None = flag("Prompts to make validation images for.")
    validation_image: list[str] | None = flag("Files of control images to make validation images from.")
    num_validation_images: int = flag("How many images to make of each prompt and control image.", 4, least=0)
    validation_steps: int = flag("Make validation images every this many steps.", 100, least=1)
    tracker_project_name: str = flag("Name of the project in the tracker.", "train_controlnet")

    condition_kind: Literal["edge", "sketch", "depth", "normal", "segmentation"] | None = condition(
        "What the control images are, so that they can be extracted from other images, too."
    )
    condition_model: str | None = condition(
        "What extracts depth, normal or segmentation: a folder, a model id on the Hub, or drawing (no model; for"
        " drawings on white). Default: a model of each kind on the Hub."
    )
    condition_revision: str | None = condition(
        "Revision of the condition model on the Hub. Default: the newest; of a default model, a fixed commit."
    )
    retention_condition: Literal["extracted", "blank"] | None = condition(
        "The control images of source rows: blank (black), which holds the pair to the bare model, or extracted from the"
        " samples themselves as --condition_kind says. Default: blank."
    )
    control_evaluation_data: str | None = condition(
        "A folder of held-out data, like the target data. Images are made for its control images while training, and"
        " the conditions found in them compared with those. Needs --condition_kind."
    )
    control_evaluation_steps: int | None = condition(
        "Measure this every so many steps, and after the last. Default: --validation_steps.", least=1
    )
    control_evaluation_samples: int = condition("How many held-out rows are measured, the first ones.", 32, least=1)
    control_evaluation_guidance_scale: float = condition(
        "Classifier-free guidance of the images that are measured.", 7.5, least=1.0
    )
    control_evaluation_inference_steps: int = condition("Sampling steps of the images that are measured.", 20, least=1)

    @property
    def validation_images(self) -> int | None:
        prompts, images = self.validation_prompt or [], self.validation_image or []
        pairs = max(len(prompts), len(images))  # a single prompt, or image, goes with all of the other
        return pairs * self.num_validation_images if prompts else None
