# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The flags of class-conditional fine-tuning."""

from dataclasses import dataclass

from .flags import (
    AdapterFlags,
    ClassConditionalFlags,
    ClassDataConfig,
    ClassDiffTuningConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    flag,
)


@dataclass
class ClassConditionalConfig(
    ModelConfig,
    ClassDataConfig,
    RunConfig,
    ClassConditionalFlags,
    AdapterFlags,
    EvaluationConfig,
    ClassDiffTuningConfig,
):
    """The flags of class-conditional fine-tuning.

    The four defaults below are those of the paper's reference implementation, and so are the learning rate and what is in
    the group of Diff-Tuning. Others are diffusers' own: gradient clipping, moving average, flip, crop and interpolation
    are not the reference's. docs/method.md lists the differences, and the flags that undo them.
    """

    output_dir: str = flag("Where the result, checkpoints and logs go.", "dit-finetuned")
    train_batch_size: int = flag("Rows per process and micro-step, target and source rows together.", 32)
    lr_warmup_steps: int = flag("Warm-up steps of the learning rate.", 0)
    adam_weight_decay: float = flag("Weight decay of AdamW.", 0.0)
