# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The batches of a run: target and source rows with every random number they need."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from ..backbones import Backbone
from ..data.images.decode import ImageTransform, control_image, load_rgb
from ..data.plan import BatchPlan, RowRandom, Slot
from ..objective import NoiseDraws


if TYPE_CHECKING:
    from ..bank.bank import KnowledgeBank
    from ..controls.bank import BankConditions
    from ..data.cache.encodings import ImageCache, PromptCache
    from ..data.dataset import TargetData
    from ..data.stream import StreamedTarget


@dataclass
class Batch:
    """What one process trains on in one micro-step: B rows, n of them target rows. All tensors are on the CPU; numbers are
    float32, those that pick the noise levels float64."""

    latents: torch.Tensor  # (B, C, h, w), clean, as the denoiser expects them; without caches the target rows are zero
    is_source: torch.Tensor  # (B,), bool: which rows are from the knowledge bank
    draws: NoiseDraws
    prompts: list[str]
    condition: dict[str, torch.Tensor] | None = None  # the encoded prompts; `None` without caches
    pixel_values: torch.Tensor | None = None  # without caches: (n, 3, R, R) in [−1, 1], the images of the target rows
    posterior_noise: torch.Tensor | None = None  # and (n, C, h, w), what samples their latent posteriors
    control: torch.Tensor | None = None  # (B, 3, R, R) in [0, 1], the control images
    row_condition: dict[str, torch.Tensor] = field(default_factory=dict)  # what the denoiser gets of each image beside

    def pin_memory(self) -> "Batch":
        """The same in memory that a GPU copies from while nobody waits; a data loader calls this."""
        return pinned(self)


def pinned(value: Any) -> Any:
    """The value with every tensor in it in pinned memory."""
    if isinstance(value, torch.Tensor):
        return value.pin_memory()
    if isinstance(value, dict):
        return {name: pinned(item) for name, item in value.items()}
    if is_dataclass(value):
        return replace(value, **{entry.name: pinned(getattr(value, entry.name)) for entry in fields(value)})
    return value


@dataclass
class Row:
    """One row of a batch."""

    prompt: str
    uniform: float
    noise: torch.Tensor
    offset: torch.Tensor | None
    perturbation: torch.Tensor | None
    condition: dict[str, torch.Tensor] = field(default_factory=dict)
    latents: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None
    posterior_noise: torch.Tensor | None = None
    control: torch.Tensor | None = None


@dataclass(kw_only=True)
class PlannedBatches(Dataset):
    """Item k is this process's whole batch of micro-step k of the run, a function of k and nothing that came before.

    Use it with `DataLoader(batches, batch_size=None, sampler=range(start, end), num_workers=...)`; resuming is another
    `start`.
    """

    plan: BatchPlan  # the order of the rows
    target: "TargetData | StreamedTarget"
    latent_shape: tuple[int, int, int]  # (C, h, w)
    transform: ImageTransform  # of what is not cached
    train_batch_size: int  # rows of one process in one micro-step
    accumulation: int = 1  # micro-steps of an optimiser step
    rank: int = 0  # this process
    world_size: int = 1
    # The cached images and prompts (of target, bank and, if used, the empty one), and the backbone's `to_denoiser` for cached
    # posteriors: all or none of them.
    images: "ImageCache | None" = None
    prompts: "PromptCache | None" = None
    to_denoiser: Callable[[torch.Tensor], torch.Tensor] | None = field(default=None, repr=False)
    row_condition: Callable[..., dict[str, torch.Tensor]] = field(default=Backbone.row_condition, repr=False)
    bank: "KnowledgeBank | None" = None  # the source rows, if the plan has any
    empty_source_prompts: bool = False  # source rows get the empty prompt instead of the one they were made with
    renamed_prompts: frozenset[str] = frozenset()  # so do those whose prompt means something else by now
    empty_prompts: float = 0.0  # the fraction of target rows that get the empty prompt
    random_flip: bool = False
    center_crop: bool = False  # of what is not cached
    with_offset: bool = False  # draw numbers for the noise offset
    with_perturbation: bool = False  # and for the input perturbation
    with_control: bool = False  # add the control image of each row
    source_controls: "BankConditions | None" = None  # those of the source rows; without it these are blank (black)

    def __post_init__(self) -> None:
        rows = self.train_batch_size * self.accumulation * self.world_size
        if self.plan.batch_size != rows:
            raise ValueError(f"The plan is for {self.plan.batch_size} rows a step, these batches are {rows}.")

    def __getitem__(self, index: int) -> Batch:
        step, micro = divmod(index, self.accumulation)
        first = (micro * self.world_size + self.rank) * self.train_batch_size
        positions = range(first, first + self.train_batch_size)
        slots = [self.plan.slot(step, position) for position in positions]
        rows = [self.row(slot, RowRandom(self.plan.seed, step, p)) for slot, p in zip(slots, positions)]

        empty = torch.zeros(self.latent_shape)
        batch = Batch(
            latents=torch.stack([empty if row.latents is None else row.latents for row in rows]),
            is_source=torch.tensor([slot.is_source for slot in slots]),
            draws=NoiseDraws(
                uniform=torch.tensor([row.uniform for row in rows], dtype=torch.float64),
                noise=torch.stack([row.noise for row in rows]),
                offset=torch.stack([row.offset for row in rows]) if self.with_offset else None,
                perturbation=torch.stack([row.perturbation for row in rows]) if self.with_perturbation else None,
            ),
            prompts=[row.prompt for row in rows],
            row_condition={name: torch.stack([row.condition[name] for row in rows]) for name in rows[0].condition},
            control=torch.stack([row.control for row in rows]) if self.with_control else None,
        )
        if self.images is not None:
            encoded = [self.prompts[row.prompt] for row in rows]
            batch.condition = {name: torch.stack([each[name] for each in encoded]) for name in encoded[0]}
        else:
            size = self.transform.resolution
            targets = [row for row in rows if row.pixel_values is not None]
            batch.pixel_values = stack([row.pixel_values for row in targets], (3, size, size))
            batch.posterior_noise = stack([row.posterior_noise for row in targets], self.latent_shape)
        return batch

    def row(self, slot: Slot, random: RowRandom) -> Row:
        """The row that goes into a slot."""
        row = Row(
            prompt="",
            uniform=random.uniform("level"),
            noise=random.normal("noise", self.latent_shape),
            offset=random.normal("offset", (self.latent_shape[0], 1, 1)) if self.with_offset else None,
            perturbation=random.normal("perturbation", self.latent_shape) if self.with_perturbation else None,
        )
        size = (self.transform.resolution, self.transform.resolution)
        if slot.is_source:
            row.latents = self.bank.latents(slot.row)
            row.condition = self.row_condition(size, (0, 0), size)
            sampled = self.bank.prompt(slot.row)
            row.prompt = "" if self.empty_source_prompts or sampled in self.renamed_prompts else sampled
            row.control = self.source_control(slot.row) if self.with_control else None
            return row

        image, captions, condition = self.target.example(slot)
        row.prompt = captions[random.integer("caption", len(captions)) if len(captions) > 1 else 0]
        if self.empty_prompts and random.uniform("empty prompt") < self.empty_prompts:
            row.prompt = ""
        flip = self.random_flip and random.uniform("flip") < 0.5
        row.posterior_noise = random.normal("posterior", self.latent_shape)
        if self.images is not None:
            crops = self.images.crops(slot.row)
            crop = random.integer("crop", crops) if crops > 1 else 0
            mean, std = self.images.posterior(slot.row, crop, flip)
            row.latents = self.to_denoiser(mean + std * row.posterior_noise)
            original, box = self.images.original_size(slot.row), self.images.coordinates(slot.row, crop)
        else:
            loaded = load_rgb(image())
            resized, original = self.transform.resize(loaded), (loaded.height, loaded.width)
            at = None if self.center_crop else (random.uniform("crop_top"), random.uniform("crop_left"))
            box = self.transform.crop_box(resized.size, at)
            row.pixel_values = self.transform.to_tensor(resized, *box, flip)
        row.condition = self.row_condition(original, self.transform.seen_crop(original, box, flip), size)
        if self.with_control:
            row.control = control_image(condition(), self.transform)
        return row

    def source_control(self, row: int) -> torch.Tensor:
        """The control image of a knowledge bank row."""
        if self.source_controls is None:
            return torch.zeros(3, self.transform.resolution, self.transform.resolution)
        return self.transform.to_unit_tensor(Image.fromarray(self.source_controls[row]), 0, 0)


def stack(tensors: list[torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """`torch.stack` that also takes no tensors at all."""
    return torch.stack(tensors) if tensors else torch.empty(0, *shape)
