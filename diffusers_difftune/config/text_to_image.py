# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The flags of text-to-image fine-tuning, of the whole denoiser and of an adapter on it."""

from dataclasses import dataclass
from typing import ClassVar

from .base import flag
from .shared import AdapterKind, EmaConfig, EvaluationConfig, TrainingConfig


@dataclass(kw_only=True)
class TextToImageConfig(TrainingConfig, EmaConfig, EvaluationConfig):
    """The flags of text-to-image fine-tuning."""

    group: ClassVar[str] = "full fine-tuning"

    input_perturbation: float = flag(
        "Scale of the input perturbation, on target rows; 0.1 is recommended.", 0.0, least=0
    )
    dream_training: bool = flag("DREAM training, on target rows: one more forward pass per step.", False)
    dream_detail_preservation: float = flag("p of DREAM, above 0.", 1.0, above=0)
    non_ema_revision: str | None = flag("Revision of the weights to start from when revision holds moving averages.")
    validation_prompts: list[str] | None = flag("Prompts to make validation images for.")
    validation_epochs: int = flag("Make validation images every this many epochs.", 5, least=1)
    validation_steps: int | None = flag("Make validation images every this many steps instead.", least=1)
    tracker_project_name: str = flag("Name of the project in the tracker.", "text2image-fine-tune")

    @property
    def validation_images(self) -> int | None:
        return len(self.validation_prompts) if self.validation_prompts else None


@dataclass(kw_only=True)
class TextToImageLoraConfig(TrainingConfig, EvaluationConfig):
    """The flags of text-to-image fine-tuning through LoRA or another adapter."""

    group: ClassVar[str] = "validation"

    output_dir: str = flag(default="sd-model-finetuned-lora")
    adapter: AdapterKind | None = flag(default="lora")
    rank: int | None = flag(default=4)
    validation_prompt: str | None = flag("Prompt to make validation images for.")
    num_validation_images: int = flag("How many validation images to make.", 4, least=0)
    validation_epochs: int = flag("Make validation images every this many epochs.", 1, least=1)
    validation_steps: int | None = flag("Make validation images every this many steps instead.", least=1)

    @property
    def validation_images(self) -> int | None:
        return self.num_validation_images if self.validation_prompt else None
