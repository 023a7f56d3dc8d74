# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What is measured of a model that was fine-tuned on a target, at every blend with the source model."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from diffusers_difftune.backbones import load_backbone

from .classifiers import NAMES, Judge, class_offsets
from .measure import blend, copied, distances, drift, losses, recognition, sample, source_rows
from .read import class_names, read_glyphs
from .render import draw
from .scripts import SOURCE
from .settings import BLENDS, CLASSIFIERS, DATA, EACH, LOSS_ROWS, SOURCE_MODEL


TARGET_NOISE, SOURCE_NOISE = 1, 2  # seeds of the noise that samples start from


@dataclass(frozen=True)
class Blend:
    """A model on the frontier of a run.

    Attributes:
        alpha (`float`): source + α (fine-tuned − source).
        figures (`dict[str, Any]`): What was measured.
        images (`torch.Tensor`): Its samples of the target's classes, in [−1, 1], of shape `(N, 1, 24, 24)`.
        drawn (`torch.Tensor`): Its samples of source classes.
    """

    alpha: float
    figures: dict[str, Any]
    images: torch.Tensor
    drawn: torch.Tensor


class Bench:
    """The source model, the classifiers, and real letters.

    Args:
        each (`int`, *optional*, defaults to 4): Samples of every source class.
    """

    def __init__(self, each: int = EACH) -> None:
        offsets = class_offsets()
        self.judges = [Judge(name, CLASSIFIERS, offsets) for name in NAMES]
        self.backbone = load_backbone(SOURCE_MODEL)
        self.source = self.backbone.load_denoiser()
        self.classes = len(class_names(DATA / f"{SOURCE}_train.parquet"))
        self.asked = torch.arange(self.classes).repeat_interleave(each)
        self.own, self.own_labels = held_out_letters(SOURCE)

    @cached_property
    def before(self) -> torch.Tensor:
        """The source model's samples of its own classes."""
        return sample(self.backbone, self.source, source_rows(self.asked.tolist()), SOURCE_NOISE)

    def source_recognised(self, drawn: torch.Tensor) -> float:
        """The share of samples of source classes that are recognised."""
        return recognition(self.judges, drawn, self.asked, SOURCE)

    def losses(
        self, model: torch.nn.Module, held_out: torch.Tensor, labels: torch.Tensor, knows_classes: bool = True
    ) -> dict[str, Any]:
        """The denoising losses of held-out letters of the source and of a target, under their classes and the null class.

        Args:
            model (`torch.nn.Module`): The denoiser.
            held_out (`torch.Tensor`): Letters of the target, those of [`held_out_letters`].
            labels (`torch.Tensor`): Their classes.
            knows_classes (`bool`, *optional*, defaults to `True`): Whether it was trained on the target's classes.
        """

        def near_and_all(images: torch.Tensor, rows: list[Any]) -> dict[str, float]:
            return losses(self.backbone, model, images, rows)

        return {
            "loss of source letters": near_and_all(self.own, source_rows(self.own_labels.tolist())),
            "loss of source letters, null class": near_and_all(self.own, [""] * len(self.own)),
            "loss of target letters": near_and_all(held_out, labels.tolist()) if knows_classes else None,
            "loss of target letters, null class": near_and_all(held_out, [""] * len(held_out)),
        }

    def blends(self, finetuned: torch.nn.Module, target: str, count: int, seed: int) -> Iterator[Blend]:
        """The frontier of a run.

        Args:
            finetuned (`torch.nn.Module`): The moving average of its weights.
            target (`str`): Its target.
            count (`int`): Its training images.
            seed (`int`): Their seed.
        """
        styles, labels = read_glyphs(DATA / f"{target}_styles.parquet")
        train, _ = read_glyphs(DATA / f"{target}_train_{count}_{seed}.parquet")
        held_out = held_out_letters(target)
        for alpha in BLENDS:
            model = blend(self.source, finetuned, alpha)
            images = sample(self.backbone, model, labels.tolist(), TARGET_NOISE)
            drawn = sample(self.backbone, model, source_rows(self.asked.tolist()), SOURCE_NOISE)
            figures = {
                "target recognised": recognition(self.judges, images, labels, target),
                "distance to other styles": distances(self.judges, styles, images),
                "copied": copied(images, train, styles),
                "source recognised": self.source_recognised(drawn),
                "drift": drift(drawn, self.before),
            }
            yield Blend(alpha, figures | self.losses(model, *held_out), images, drawn)


def held_out_letters(target: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The letters of type families that nothing was trained on, with their classes, that a target's losses are of."""
    return some_glyphs(f"{target}_families", LOSS_ROWS)


def some_glyphs(stem: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """So many images of a file with their labels, every class in turn; always the same."""
    images, labels = read_glyphs(DATA / f"{stem}.parquet")
    chosen = draw(labels.tolist(), count, seed=0)
    order = torch.tensor(chosen)[labels[chosen].sort(stable=True).indices]
    return images[order], labels[order]
