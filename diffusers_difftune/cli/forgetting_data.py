# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The data of `difftune forgetting`: held-out target images, and source images or a knowledge bank."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .. import errors
from ..backbones import Backbone
from ..bank.bank import KnowledgeBank
from ..data.images.decode import ImageTransform, control_image
from ..errors import DiffTuneError
from ..evaluation import FEWEST_IMAGES
from ..evaluation.finetuned import Finetuned
from ..evaluation.forgetting_report import Rows, encode_rows
from ..evaluation.real_images import drawn_rows, read_images, row_prompts
from ..io.random import seeded_order
from .common import fingerprint
from .conditions import holds_bank
from .data import floor_images, num_compared, open_data
from .flags import MOST_IMAGES


if TYPE_CHECKING:
    from accelerate import Accelerator

# Training runs have small seeds; a bank of this one has no sample in common with theirs.
BANK_SEED = 2**31


@dataclass
class Images:
    """Real images, and what to ask the models for to have the like.

    Attributes:
        images (`torch.Tensor` of shape `(N, 3, R, R)`): uint8.
        prompts (`list[str]`): One for each.
        controls (`torch.Tensor` of shape `(N, 3, R, R)`, *optional*): Their control images, uint8.
        others (`torch.Tensor` of shape `(M, 3, R, R)`, *optional*): Other images of the same kind, for the floor.
        key (`str`): A hash of the data they are from.
    """

    images: torch.Tensor
    prompts: list[str]
    controls: torch.Tensor | None = None
    others: torch.Tensor | None = None
    key: str = ""

    def rows(self, backbone: Backbone, count: int, batch_size: int) -> Rows:
        """The first of them, encoded."""
        controls = None if self.controls is None else self.controls[:count]
        return encode_rows(backbone, self.images[:count], self.prompts[:count], controls, batch_size)


def open_target(arguments: argparse.Namespace, backbone: Backbone, finetuned: Finetuned, resolution: int) -> Images:
    """The held-out target images that are measured by; the rest of DATA is for the floor, if there is enough of it."""
    data = open_data(arguments, "DATA", arguments.data, backbone, finetuned)
    count = num_compared(arguments, data)
    if count < FEWEST_IMAGES:
        raise DiffTuneError(
            f"DATA {arguments.data} has {len(data)} rows; figures of fewer than {FEWEST_IMAGES} images say nothing, give more."
        )
    rows, interpolation = drawn_rows(data, len(data)), interpolation_of(finetuned)
    others = floor_images(arguments, backbone, data, rows, count, resolution, interpolation)
    rows = rows[:count]
    controls = None
    if data.conditions is not None:
        transform = ImageTransform(resolution, interpolation)
        read = [control_image(data.conditions[row], transform) for row in rows]
        controls = torch.stack([(image * 255).round().to(torch.uint8) for image in read])
    # of a checkpoint nobody wrote down the classes; training numbers those of its data as these are numbered
    ids = finetuned.class_ids or {label: number for number, label in enumerate(data.class_names or ())}
    with errors.flag("DATA"):
        prompts = row_prompts(data, rows, ids, "FINETUNED")
    return Images(
        read_images(data, rows, resolution, interpolation), prompts, controls, others, f"{data.content_key}-{count}"
    )


def interpolation_of(finetuned: Finetuned) -> str:
    """How real images are resized: by Lanczos whatever the model was trained with, so that all models are compared with the
    same images; for a ControlNet bilinearly, as its training does."""
    return "bilinear" if finetuned.kind == "controlnet" else "lanczos"


def open_source(
    arguments: argparse.Namespace, backbone: Backbone, finetuned: Finetuned, resolution: int
) -> KnowledgeBank | Images | None:
    """What `--source` names: a knowledge bank of the pretrained model, or source images; `None` if it is not given."""
    if arguments.source is None:
        return None
    if holds_bank(Path(arguments.source)):
        bank = KnowledgeBank.load(arguments.source)
        problem = bank.problem(fingerprint(backbone, arguments), backbone.latent_shape(resolution, resolution))
        if problem is not None:
            raise DiffTuneError(f"--source: the bank in {arguments.source} {problem}.")
        return bank
    data = open_data(arguments, "--source", arguments.source, backbone)
    if len(data) < FEWEST_IMAGES:
        raise DiffTuneError(
            f"--source {arguments.source} has {len(data)} rows; figures of fewer than {FEWEST_IMAGES} images say nothing."
        )
    rows = drawn_rows(data, min(len(data), arguments.num_images or MOST_IMAGES))
    # where the two models have different classes, source rows are shown under the null class, and have no other
    prompts = [""] * len(rows)
    if finetuned.knows_classes:
        with errors.flag("--source"):
            prompts = row_prompts(data, rows, backbone.classes.ids if backbone.classes else {})
    return Images(read_images(data, rows, resolution, interpolation_of(finetuned)), prompts)


def sample_source(
    arguments: argparse.Namespace,
    backbone: Backbone,
    pretrained: torch.nn.Module,
    prompts: list[str],
    resolution: int,
    accelerator: "Accelerator",
) -> KnowledgeBank:
    """Samples of the pretrained model that no training has seen: a small knowledge bank in the output folder."""
    from ..backbones.fingerprint import hub_commit
    from ..bank.build import build_bank
    from ..bank.settings import BankSettings

    settings = BankSettings(
        num_samples=max(arguments.rows, FEWEST_IMAGES),
        resolution=resolution,
        seed=BANK_SEED + arguments.seed,
        batch_size=arguments.batch_size,
    )
    folder = Path(arguments.output_dir, "knowledge_bank")
    with errors.flag("--output_dir"):
        return build_bank(
            backbone.pipeline(pretrained, accelerator.device, torch.float32),
            folder,
            list(dict.fromkeys(prompts)),
            settings,
            latent_shape=backbone.latent_shape(resolution, resolution),
            model=arguments.pretrained,
            weights_fingerprint=fingerprint(backbone, arguments),
            revision=hub_commit(backbone.folder),
            accelerator=accelerator,
        )


def of_bank(
    bank: KnowledgeBank, backbone: Backbone, count: int, most_images: int, batch_size: int
) -> tuple[Rows, Images]:
    """At most `count` rows of a knowledge bank, and at most so many of its samples as images; the encoders must be in
    memory."""
    order = seeded_order(0, "source rows", 0, len(bank)).tolist()
    chosen, shown = order[:count], order[:most_images]
    latents, prompts = [bank.latents(row) for row in chosen], [bank.prompt(row) for row in chosen]
    rows = Rows(torch.stack(latents), prompts, bank.manifest.resolution)
    decoded = []
    for start in range(0, len(shown), batch_size):
        latents = torch.stack([bank.latents(row) for row in shown[start : start + batch_size]])
        decoded.append((backbone.decode(backbone.vae, latents) * 255).round().to("cpu", torch.uint8))
    return rows, Images(torch.cat(decoded), [bank.prompt(row) for row in shown])
