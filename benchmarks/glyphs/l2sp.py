# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""L2-SP (Li et al., ICML 2018): weights are pulled back to those of the source model, against forgetting.

The penalty is taken as AdamW takes weight decay, apart from the gradient, and follows the schedule of the rate:
θ ← θ − λ (η_k / η) (θ − θ*) after step k, for the highest rate η. So λ is the part of the way back that a step at η goes.
"""

from typing import Any

import torch

from diffusers_difftune import ClassConditionalTrainer
from diffusers_difftune.trainables import Trainable


class L2SPTrainer(ClassConditionalTrainer):
    """Fine-tunes with L2-SP; the class tables are left alone, since the rows of new classes have nothing to return to.

    Args:
        config ([`ClassConditionalConfig`]): The settings of the run.
        strength (`float`): λ, in [0, 1].
    """

    def __init__(self, config: Any, strength: float) -> None:
        super().__init__(config)
        self.strength = strength

    def load_trainable(self) -> Trainable:
        trainable = super().load_trainable()
        self.pulled = [
            parameter for name, parameter in trainable.model.named_parameters() if "class_embedder" not in name
        ]
        self.start = [parameter.detach().clone() for parameter in self.pulled]  # before a checkpoint is read
        update_average = trainable.after_step

        def after_step() -> None:
            with torch.no_grad():
                torch._foreach_lerp_(self.pulled, self.start, self.strength * self.rate / self.config.learning_rate)
            update_average()  # of the weights that were pulled back

        trainable.after_step = after_step
        return trainable

    def optimizer_step(self) -> None:
        self.rate = self.state.lr_scheduler.get_last_lr()[0]  # of this step; the schedule goes on before `after_step`
        super().optimizer_step()
