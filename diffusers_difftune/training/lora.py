# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a text-to-image model by LoRA, or by another adapter."""

from ..config import TextToImageLoraConfig
from .trainer import Trainer
from .validation import Validation


class TextToImageLoraTrainer(Trainer):
    """Fine-tunes a text-to-image model by LoRA, or by another adapter, on the denoiser; see [`Trainer`].

    Args:
        config ([`TextToImageLoraConfig`], *optional*): The settings of the run.
        callbacks (`Iterable[Callback]`, *optional*): What else is to happen while it trains.
        settings: The fields of [`TextToImageLoraConfig`] as keyword arguments, in place of `config`.
    """

    config_class = TextToImageLoraConfig
    config: TextToImageLoraConfig

    def find_validation(self) -> Validation:
        prompts = [self.config.validation_prompt] * self.config.num_validation_images
        return Validation(self.context, self.backbone, prompts if self.config.validation_prompt else [])
