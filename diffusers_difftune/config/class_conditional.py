# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The flags of class-conditional fine-tuning."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from .base import fixed, flag
from .shared import EmaConfig, EvaluationConfig, TrainingConfig


@dataclass(kw_only=True)
class ClassConditionalConfig(TrainingConfig, EmaConfig, EvaluationConfig):
    """The flags of class-conditional fine-tuning.

    The four defaults below are those of the paper's reference implementation, and so are the learning rate and what is in
    the group of Diff-Tuning. Others are diffusers' own: gradient clipping, moving average, flip, crop and interpolation
    are not the reference's. docs/method.md lists the differences, and the flags that undo them.
    """

    group: ClassVar[str] = "class-conditional fine-tuning"

    output_dir: str = flag(default="dit-finetuned")
    train_batch_size: int = flag(default=32)
    lr_warmup_steps: int = flag(default=0)
    adam_weight_decay: float = flag(default=0.0)

    # Labels in place of captions.
    train_data_dir: str | None = flag(
        "A folder with a folder of images for each class, or one with a metadata.jsonl or metadata.csv that has the"
        " labels, or a folder of Parquet files."
    )
    label_column: str | None = flag(
        "The column that holds the label: a name or a number. Class folders need none.", "label", group="target data"
    )
    caption_column: str | None = fixed(None)
    class_dropout_prob: float = flag(
        "Fraction of target rows that get the null class, for classifier-free guidance.",
        0.1,
        group="target data",
        least=0,
        most=1,
    )
    proportion_empty_prompts: float = fixed(0.0)
    resolution: int | None = flag(
        "Side of the images in pixels; a model makes images of one size only. Default: that.", least=1, most=2**14
    )
    no_cache: bool = flag("Encode images in every step instead of once.", False)
    streaming: bool = fixed(False)  # the classes are not known before the end of a stream
    retention_prompts: Literal["sampled", "empty"] = flag(
        "empty: source rows carry the null class; sampled: the class they were made with, unless a new class has its row.",
        "empty",
    )
    bank_prompts: str = flag(
        "classes (all of the pretrained model's), empty (the null class), or a text file with an id or a name a line.",
        "classes",
    )
    evaluation_clip_model: str | None = fixed(None)

    class_embeddings: Literal["keep", "reset"] = flag(
        "What the new classes start from, in the rows of the class tables from 0: keep, what those rows held; reset,"
        " small random numbers.",
        "keep",
    )
    variance_loss: Literal["both", "target", "unskewed"] = flag(
        "What a learned variance is trained on: both, target and source rows, each under its own law of noise levels;"
        " target, target rows; unskewed, both, weighted to undo the laws.",
        "both",
    )
    validation_classes: list[str] | None = flag("Names of classes to make validation images for.")
    validation_epochs: int = flag("Make validation images every this many epochs.", 5, least=1)
    validation_steps: int | None = flag("Make validation images every this many steps instead.", least=1)
    tracker_project_name: str = flag("Name of the project in the tracker.", "class-conditional-fine-tune")

    @property
    def unconditional_share(self) -> float:
        return self.class_dropout_prob

    @property
    def validation_images(self) -> int | None:
        return len(self.validation_classes) if self.validation_classes else None
