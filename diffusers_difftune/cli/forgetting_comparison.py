# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What `difftune forgetting` does: two models, the data they are compared on (held-out target images, and source images or a
knowledge bank), and what is measured of both."""

import argparse
import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import errors
from ..bank.bank import KnowledgeBank
from ..data.images.decode import ImageTransform, control_image
from ..errors import DiffTuneError
from ..evaluation import FEWEST_IMAGES
from ..evaluation.compatibility import check_run
from ..evaluation.features import make_features
from ..evaluation.finetuned import open_finetuned
from ..evaluation.forgetting_report import Rows, distance_report, encode_rows, measure_losses
from ..evaluation.metrics import extract_features
from ..evaluation.real_images import RealImages, drawn_rows, read_images, row_prompts
from ..evaluation.swap_curve import SHOWN, SwapSampler, swap_curve
from ..io.hashing import file_sha256
from ..io.processes import frozen_dtype
from ..io.random import seeded_order
from ..objective import DiffTuningObjective
from ..version import __version__
from .common import find_resolution, fingerprint, open_pipeline
from .conditions import holds_bank
from .data import floor_images, num_compared, open_data
from .flags import MOST_IMAGES


if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

# Training runs have small seeds; a bank of this one has no sample in common with theirs.
BANK_SEED = 2**31


@dataclass
class Images:
    """Real images, uint8 of shape `(N, 3, R, R)`, and what to ask the models for to have the like."""

    images: torch.Tensor
    prompts: list[str]
    controls: torch.Tensor | None = None  # their control images
    others: torch.Tensor | None = None  # other images of the same kind, for the floor
    key: str = ""  # a hash of the data they are from


class Comparison:
    """A fine-tuned model beside the pipeline that it began as. Opens and checks everything; loads no weights of them."""

    source_rows: Rows  # once [`load`] was called
    source_images: Images

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        with errors.flag("PRETRAINED"):
            self.backbone = open_pipeline(arguments.pretrained, arguments.revision, arguments, arguments.resolution)
        self.fingerprint = fingerprint(self.backbone, arguments)
        with errors.flag("FINETUNED"):
            self.finetuned = open_finetuned(
                self.backbone, arguments.finetuned, arguments.cache_dir, arguments.hub_token
            )
            check_run(self.finetuned.folder, self.fingerprint)
        self.resolution = find_resolution(arguments.resolution, self.backbone)
        # Real images are resized by Lanczos whatever the model was trained with, so that all models are compared with the same
        # images; for a ControlNet bilinearly, as its training does.
        self.interpolation = "bilinear" if self.finetuned.kind == "controlnet" else "lanczos"
        self.target = self.open_target()
        self.source = self.open_source()
        with errors.flag("--features"):
            self.extractor = make_features(arguments.features, arguments.cache_dir, arguments.hub_token)
        self.percents = sorted({0.0, 100.0, *arguments.percents})

    def open_target(self) -> Images:
        """The held-out target images that are measured by; the rest of DATA is for the floor, if there is enough of it."""
        given, finetuned, size = self.arguments, self.finetuned, (self.resolution, self.interpolation)
        data = open_data(given, "DATA", given.data, self.backbone, finetuned)
        count = num_compared(given, data)
        if count < FEWEST_IMAGES:
            raise DiffTuneError(
                f"DATA {given.data} has {len(data)} rows; figures of fewer than {FEWEST_IMAGES} images say nothing, give more."
            )
        rows = drawn_rows(data, len(data))
        others = floor_images(given, self.backbone, data, rows, count, *size)
        rows = rows[:count]
        controls = None
        if data.conditions is not None:
            transform = ImageTransform(*size)
            read = [control_image(data.conditions[row], transform) for row in rows]
            controls = torch.stack([(image * 255).round().to(torch.uint8) for image in read])
        # of a checkpoint nobody wrote down the classes; training numbers those of its data as these are numbered
        ids = finetuned.class_ids or {label: number for number, label in enumerate(data.class_names or ())}
        with errors.flag("DATA"):
            prompts = row_prompts(data, rows, ids, "FINETUNED")
        return Images(read_images(data, rows, *size), prompts, controls, others, f"{data.content_key}-{count}")

    def open_source(self) -> KnowledgeBank | Images | None:
        """What `--source` names: a knowledge bank of the pretrained model, or source images; `None` if it is not given."""
        given = self.arguments
        if given.source is None:
            return None
        if holds_bank(Path(given.source)):
            bank = KnowledgeBank.load(given.source)
            problem = bank.problem(self.fingerprint, self.backbone.latent_shape(self.resolution, self.resolution))
            if problem is not None:
                raise DiffTuneError(f"--source: the bank in {given.source} {problem}.")
            return bank
        data = open_data(given, "--source", given.source, self.backbone)
        if len(data) < FEWEST_IMAGES:
            raise DiffTuneError(
                f"--source {given.source} has {len(data)} rows; figures of fewer than {FEWEST_IMAGES} images say nothing."
            )
        rows = drawn_rows(data, min(len(data), given.num_images or MOST_IMAGES))
        # where the two models have different classes, source rows are shown under the null class, and have no other
        prompts = [""] * len(rows)
        if self.finetuned.knows_classes:
            with errors.flag("--source"):
                prompts = row_prompts(data, rows, self.backbone.classes.ids if self.backbone.classes else {})
        return Images(read_images(data, rows, self.resolution, self.interpolation), prompts)

    def described(self) -> list[tuple[str, str]]:
        """What the command is about to do, as labels and texts."""
        given = self.arguments
        return [
            ("models", f"{given.pretrained} and {given.finetuned} ({self.finetuned.kind})"),
            ("losses", f"{given.rows:,} rows of source and of target data at most"),
            (
                "samples",
                f"{len(self.target.prompts):,} at each of {len(self.percents)} points, {given.steps} steps, guidance"
                f" {given.guidance_scale:g}; compared by {given.features}",
            ),
        ]

    def settings(self, accelerator: "Accelerator") -> dict[str, Any]:
        """What is compared, and how, for the file of figures."""
        given = self.arguments
        return {
            "pretrained": given.pretrained,
            "finetuned": given.finetuned,
            "kind": self.finetuned.kind,
            "same_classes": self.finetuned.knows_classes,
            "data": given.data,
            "floor_data": given.floor_data,
            "source": given.source or "new samples of the pretrained model",
            "source_kind": "images" if isinstance(self.source, Images) else "bank",
            "num_images": len(self.target.images),
            "resolution": self.resolution,
            "features": self.extractor.name,
            "sampler": "dpm++",
            "steps": given.steps,
            "guidance_scale": given.guidance_scale,
            "percents": self.percents,
            "precision": str(frozen_dtype(accelerator)).removeprefix("torch."),
            "batch_size": given.batch_size,
            "seed": given.seed,
            "difftune": __version__,
        }

    def load(self, accelerator: "Accelerator") -> None:
        """Loads both models, and the source data; these are sampled if nothing else was named."""
        source = self.source
        self.backbone.load_encoders(accelerator.device, torch.float32)
        with errors.flag("FINETUNED"):
            self.finetuned.load(accelerator.device)
        if isinstance(source, Images):
            self.source_rows, self.source_images = self.encoded(source), source
        else:
            self.read_bank(self.sample_source(accelerator) if source is None else source)

    def sample_source(self, accelerator: "Accelerator") -> KnowledgeBank:
        """Samples of the pretrained model that no training has seen: a small knowledge bank in the output folder."""
        from ..backbones.fingerprint import hub_commit
        from ..bank.build import build_bank
        from ..bank.settings import BankSettings

        given = self.arguments
        logger.info(f"Source data: {given.rows} samples of the pretrained model.")
        settings = BankSettings(
            num_samples=max(given.rows, FEWEST_IMAGES),
            resolution=self.resolution,
            seed=BANK_SEED + given.seed,
            batch_size=given.batch_size,
        )
        with errors.flag("--output_dir"):
            return build_bank(
                self.backbone.pipeline(self.finetuned.pretrained, accelerator.device, torch.float32),
                Path(given.output_dir, "knowledge_bank"),
                list(dict.fromkeys(self.target.prompts)) if self.finetuned.knows_classes else [""],
                settings,
                latent_shape=self.backbone.latent_shape(self.resolution, self.resolution),
                model=given.pretrained,
                weights_fingerprint=self.fingerprint,
                revision=hub_commit(self.backbone.folder),
                accelerator=accelerator,
            )

    def read_bank(self, bank: KnowledgeBank) -> None:
        """Source data from a knowledge bank: rows, and samples as images."""
        given = self.arguments
        order = seeded_order(0, "source rows", 0, len(bank)).tolist()
        rows, shown = order[: given.rows], order[: given.num_images or MOST_IMAGES]
        latents, prompts = [bank.latents(row) for row in rows], [bank.prompt(row) for row in rows]
        self.source_rows = Rows(torch.stack(latents), prompts, bank.manifest.resolution)
        decoded = []
        for start in range(0, len(shown), given.batch_size):
            latents = torch.stack([bank.latents(row) for row in shown[start : start + given.batch_size]])
            decoded.append((self.backbone.decode(self.backbone.vae, latents) * 255).round().to("cpu", torch.uint8))
        self.source_images = Images(torch.cat(decoded), [bank.prompt(row) for row in shown])

    def encoded(self, images: Images) -> Rows:
        """The first of these images, as the models see them."""
        count, controls = self.arguments.rows, images.controls
        controls = None if controls is None else controls[:count]
        return encode_rows(
            self.backbone, images.images[:count], images.prompts[:count], controls, self.arguments.batch_size
        )

    def losses(self) -> dict[str, Any]:
        """The denoising losses of both models by noise level, on source and on target data."""
        logger.info("Denoising losses by noise level.")
        return {
            name: measure_losses(
                self.backbone,
                self.finetuned,
                self.objective,
                rows,
                name == "source",
                batch_size=self.arguments.batch_size,
                seed=self.arguments.seed,
            )
            for name, rows in (("source", self.source_rows), ("target", self.encoded(self.target)))
        }

    def swap(
        self, settings: dict[str, Any], accelerator: "Accelerator"
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The swap curves, and the first samples of each point beside real images."""
        logger.info(f"Samples with steps swapped: {len(self.target.prompts)} at each x.")
        given, target, source, device = self.arguments, self.target, self.source_images, accelerator.device

        def features(images: torch.Tensor) -> torch.Tensor:
            return extract_features(self.extractor, images, given.batch_size, device)

        others = None if target.others is None else features(target.others)
        real = RealImages(features(target.images), others, given.seed)
        known = RealImages(features(source.images), seed=given.seed) if len(source.images) >= FEWEST_IMAGES else None
        key = features_key(settings, self.fingerprint, self.finetuned.files(), target, Path(given.features))
        sampling = {
            "prompts": target.prompts,
            "controls": target.controls,
            "steps": given.steps,
            "batch_size": given.batch_size,
            "guidance_scale": given.guidance_scale,
            "seed": given.seed,
            "height": self.resolution,
            "width": self.resolution,
        }
        kept = Path(given.output_dir, "features", key)
        sampler = SwapSampler(self.finetuned, self.extractor, kept, device, frozen_dtype(accelerator), sampling)
        curve, pictures = swap_curve(sampler, self.percents, real, known)
        return curve, {"real images": target.images[:SHOWN]} | pictures

    def distance(self) -> dict[str, Any]:
        """How far the weights went. The last thing to measure, because an adapter is merged."""
        logger.info("Distance of the weights.")
        count, source = self.arguments.fisher_rows, self.source_rows
        rows = replace(source, latents=source.latents[:count], prompts=source.prompts[:count], controls=None)
        return distance_report(self.backbone, self.finetuned, self.objective, rows, self.arguments.seed)

    @property
    def objective(self) -> DiffTuningObjective:
        """The objective of the pretrained scheduler."""
        return DiffTuningObjective(self.backbone.noise_scheduler)


def features_key(
    settings: dict[str, Any], pretrained: str, finetuned: list[Path], target: Images, network: Path
) -> str:
    """The name under which the features of samples are kept: a hash of whatever decides them, among it the pretrained
    pipeline's fingerprint, the fine-tuned model's files, and what `--features` names, which may be a file."""
    names = ("resolution", "features", "steps", "guidance_scale", "precision", "batch_size", "seed", "difftune")
    parts = [
        {name: settings[name] for name in names},
        pretrained,
        [file_sha256(file) for file in finetuned],
        target.key,
        target.prompts,
        file_sha256(network) if network.is_file() else None,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
