# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""L2-SP (Li et al., ICML 2018), a baseline: weights are pulled back to where they started, against forgetting.

The penalty is taken as AdamW takes weight decay: apart from the gradient, θ ← θ − η λ (θ − θ*) after every step.
"""

from collections.abc import Callable
from typing import Any

import torch

from diffusers_difftune.trainables import FullDenoiser


def with_pull(load_trained: Callable[..., Any], rate: float) -> Callable[..., Any]:
    """What trains, with the pull.

    Args:
        load_trained (`Callable`): Loads the pretrained denoiser as one that trains whole.
        rate (`float`): η λ, the part of the way back that every step goes.

    Returns:
        `Callable`: Likewise. The class tables are left alone: new classes have nothing to return to.
    """

    def load(*arguments: Any) -> FullDenoiser:
        trained = load_trained(*arguments)
        pulled = [parameter for name, parameter in trained.model.named_parameters() if "class_embedder" not in name]
        start = [parameter.detach().clone() for parameter in pulled]
        update_average = trained.after_step

        def after_step() -> None:
            with torch.no_grad():
                torch._foreach_lerp_(pulled, start, rate)
            update_average()

        trained.after_step = after_step
        return trained

    return load
