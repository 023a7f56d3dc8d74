# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a text-to-image model: every weight of the denoiser, or an adapter on it."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers.training_utils import compute_dream_and_update_latents

from ..config import TextToImageConfig
from ..errors import DiffTuneError
from ..objective import DiffTuningObjective, NoisyBatch
from .batches import Batch
from .trainer import Trainer
from .validation import Validation


class TextToImageTrainer(Trainer):
    """Fine-tunes a text-to-image model, every weight of the denoiser or an adapter on it; see [`Trainer`].

    Args:
        config ([`TextToImageConfig`], *optional*): The settings of the run.
        callbacks (`Iterable[Callback]`, *optional*): What else is to happen while it trains.
        settings: The fields of [`TextToImageConfig`] as keyword arguments, in place of `config`.
    """

    config_class = TextToImageConfig
    config: TextToImageConfig

    def make_objective(self, **settings: Any) -> DiffTuningObjective:
        objective = super().make_objective(input_perturbation=self.config.input_perturbation, **settings)
        if self.config.dream_training and objective.prediction_type != "epsilon":
            raise DiffTuneError(
                f"--dream_training works for models that predict epsilon; this one predicts {objective.prediction_type}."
            )
        return objective

    def find_validation(self) -> Validation:
        return Validation(self.context, self.backbone, self.config.validation_prompts or [])

    def load_denoiser(self, dtype: torch.dtype = torch.float32, revision: str | None = None) -> torch.nn.Module:
        return super().load_denoiser(dtype, revision or self.config.non_ema_revision)

    def add_noise(self, latents: torch.Tensor, condition: dict[str, torch.Tensor], batch: Batch) -> NoisyBatch:
        noisy = super().add_noise(latents, condition, batch)
        return self.dream(noisy, condition) if self.config.dream_training else noisy

    def dream(self, noisy: NoisyBatch, condition: dict[str, torch.Tensor]) -> NoisyBatch:
        """DREAM (Zhou et al., 2023) on the target rows: moves x_t and the target towards the model's own answer."""
        model = self.state.distributed.model

        def answer(sample: torch.Tensor, timesteps: torch.Tensor, _: None) -> SimpleNamespace:
            return SimpleNamespace(sample=self.trainable.predict(model, sample, timesteps, condition))

        sample, target = compute_dream_and_update_latents(
            answer,
            self.backbone.noise_scheduler,
            noisy.timesteps,
            noisy.noise,
            noisy.sample,
            noisy.target,
            None,  # what the model is conditioned on, it is given above
            self.config.dream_detail_preservation,
        )
        per_row = noisy.is_source.view(-1, *[1] * (sample.ndim - 1))
        noisy.sample = torch.where(per_row, noisy.sample, sample)
        noisy.target = torch.where(per_row, noisy.target, target)
        return noisy
