# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What `difftune forgetting` does: two models, the data they are compared on, and what is measured of both."""

import argparse
import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import errors
from ..evaluation import FEWEST_IMAGES
from ..evaluation.compatibility import check_run
from ..evaluation.features import make_features
from ..evaluation.finetuned import open_finetuned
from ..evaluation.forgetting_report import Rows, distance_report, measure_losses
from ..evaluation.metrics import extract_features
from ..evaluation.real_images import RealImages
from ..evaluation.swap_curve import SHOWN, SwapSampler, swap_curve
from ..io.hashing import file_sha256
from ..io.processes import frozen_dtype
from ..objective import DiffTuningObjective
from ..version import __version__
from .common import find_resolution, fingerprint, open_pipeline
from .flags import MOST_IMAGES
from .forgetting_data import Images, of_bank, open_source, open_target, sample_source


if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


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
        self.target = open_target(arguments, self.backbone, self.finetuned, self.resolution)
        self.source = open_source(arguments, self.backbone, self.finetuned, self.resolution)
        with errors.flag("--features"):
            self.extractor = make_features(arguments.features, arguments.cache_dir, arguments.hub_token)
        self.percents = sorted({0.0, 100.0, *arguments.percents})

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
        given, source = self.arguments, self.source
        self.backbone.load_encoders(accelerator.device, torch.float32)
        with errors.flag("FINETUNED"):
            self.finetuned.load(accelerator.device)
        if isinstance(source, Images):
            self.source_rows = source.rows(self.backbone, given.rows, given.batch_size)
            self.source_images = source
            return
        if source is None:
            prompts = self.target.prompts if self.finetuned.knows_classes else [""]
            logger.info(f"Source data: {given.rows} samples of the pretrained model.")
            source = sample_source(
                given, self.backbone, self.finetuned.pretrained, prompts, self.resolution, accelerator
            )
        most = given.num_images or MOST_IMAGES
        self.source_rows, self.source_images = of_bank(source, self.backbone, given.rows, most, given.batch_size)

    def losses(self) -> dict[str, Any]:
        """The denoising losses of both models by noise level, on source and on target data."""
        logger.info("Denoising losses by noise level.")
        target_rows = self.target.rows(self.backbone, self.arguments.rows, self.arguments.batch_size)
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
            for name, rows in (("source", self.source_rows), ("target", target_rows))
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
