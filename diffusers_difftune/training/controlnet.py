# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Training a ControlNet beside a frozen text-to-image model."""

from typing import TYPE_CHECKING, Any

import torch

from ..adapters import AdapterSettings
from ..backbones import Backbone
from ..config import ControlNetConfig
from ..data.images.decode import ImageTransform, control_crop
from ..trainables.control import ControlBranch
from .batches import PlannedBatches
from .control_evaluation import open_control_evaluation
from .control_flags import check_control_flags, open_control_image, retention_condition
from .control_images import find_extractor, make_bank_conditions
from .control_model import empty_controlnet, find_control_parts, find_tokenizer, load_controlnet
from .evaluation import Evaluation
from .folder import CONTROLNET_CONFIG
from .trainer import Trainer
from .validation import ValidationInputs


if TYPE_CHECKING:
    from ..controls import Extractor
    from ..controls.bank import BankConditions


class ControlNetTrainer(Trainer):
    """Trains a ControlNet, all of it or an adapter on it, beside a frozen text-to-image model; see [`Trainer`].

    Args:
        config ([`ControlNetConfig`], *optional*): The settings of the run.
        callbacks (`Iterable[Callback]`, *optional*): What else is to happen while it trains.
        settings: The fields of [`ControlNetConfig`] as keyword arguments, in place of `config`.
    """

    config_class = ControlNetConfig
    result_files = (CONTROLNET_CONFIG,)
    config: ControlNetConfig
    extractor: "Extractor | None"
    source_controls: "BankConditions | None"

    def check_flags(self) -> None:
        super().check_flags()
        check_control_flags(self.config)

    def find_backbone(self, **settings: Any) -> Backbone:
        """Finds the pretrained pipeline, which reads prompts with the tokenizer that a flag names."""
        return super().find_backbone(tokenizer=find_tokenizer(self.config), **settings)

    def find_adapter(self) -> AdapterSettings | None:
        """Finds the ControlNet and the adapter that the flags name."""
        return find_control_parts(self.config, self.backbone)

    def find_validation_inputs(self) -> ValidationInputs | None:
        """A prompt and a control image for each validation image; a single one of either goes with all of the other.

        Control images are resized and cropped as those of the target data are.
        """
        config = self.config
        if not (config.validation_prompt and config.validation_image):
            return None
        transform = ImageTransform(self.backbone.resolution, config.image_interpolation_mode)
        images = [control_crop(open_control_image(path), transform) for path in config.validation_image]
        count = max(len(config.validation_prompt), len(images))
        pairs = zip(repeated(config.validation_prompt, count), repeated(images, count), strict=True)
        shown = [pair for pair in pairs for _ in range(config.num_validation_images)]
        return ValidationInputs([prompt for prompt, _ in shown], controls=[image for _, image in shown])

    def open_evaluation(self) -> Evaluation | None:
        self.extractor = find_extractor(self.context)
        return open_control_evaluation(self.context, self.backbone, self.extractor)

    def run_settings(self) -> dict[str, Any]:
        settings = super().run_settings() | {
            "controlnet": True,
            "controlnet_model_name_or_path": self.config.controlnet_model_name_or_path,
            "retention_condition": retention_condition(self.config),
        }
        return settings if self.extractor is None else settings | {"extractor": self.extractor.settings}

    def sample_bank(self) -> None:
        """Samples the bank, and extracts the control images of its samples."""
        super().sample_bank()
        self.source_controls = make_bank_conditions(self.context, self.backbone, self.bank, self.extractor)
        if self.evaluation is None:
            self.extractor = None  # a model leaves memory

    def plan_batches(self, **settings: Any) -> PlannedBatches:
        return super().plan_batches(with_control=True, source_controls=self.source_controls, **settings)

    def load_trainable(self) -> ControlBranch:
        denoiser = self.load_denoiser(self.context.weight_dtype)
        controlnet = load_controlnet(self.config, self.backbone, self.context.seed)
        return ControlBranch(self.backbone, denoiser, controlnet, self.adapter)

    def empty_trainable(self, denoiser: torch.nn.Module) -> tuple[torch.nn.Module, str, dict[str, Any]]:
        name = self.config.controlnet_model_name_or_path
        return empty_controlnet(self.config, self.backbone, denoiser), "ControlNet", {"controlnet": name}


def repeated(values: list[Any], count: int) -> list[Any]:
    """As many values as are wanted of one, or those that there are."""
    return values * count if len(values) == 1 else values
