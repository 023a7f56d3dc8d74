# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How good a fine-tuned icon pipeline is on its target set, and what it forgot; for the demo and the benchmarks."""

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from diffusers import DiffusionPipeline
from features import NAME, IconFeatures
from finetune import DATA, PIPELINE, RESOLUTION, target_file
from PIL import Image

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation import samples
from diffusers_difftune.evaluation.forgetting import LossByLevel, denoising_loss_by_level, forgetting
from diffusers_difftune.evaluation.metrics import extract_features
from diffusers_difftune.evaluation.real_images import RealImages
from diffusers_difftune.io.random import seeded_order
from diffusers_difftune.objective import DiffTuningObjective


def read_drawings(path: Path, count: int | None = None, seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    """Drawings, uint8 of shape `(N, 3, 32, 32)`, and their captions: all, or a seeded draw of `count`."""
    table = pq.read_table(path, columns=["image", "text"])
    table = table.take(seeded_order(seed, "drawings", 0, len(table))[:count])
    pictures = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in table["image"].to_pylist()]
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), table["text"].to_pylist()


def load_pipeline(folder: str | Path) -> DiffusionPipeline:
    """A pipeline in full precision, on the accelerator if there is one."""
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def sample_images(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    steps: int,
    guidance_scale: float,
    seed: int = 0,
    batch_size: int = 32,
    title: str = "samples",
    controls: torch.Tensor | None = None,
) -> torch.Tensor:
    """The library's [`sample_images`] at the size of icons, uint8 of shape `(N, 3, 32, 32)`."""
    return samples.sample_images(
        pipeline,
        prompts,
        seed=seed,
        steps=steps,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        height=RESOLUTION,
        width=RESOLUTION,
        title=title,
        controls=controls,
    )


class Measurement:
    """Measures pipelines that were fine-tuned from `pretrained` on one target set.

    Args:
        pretrained (`Path`): The pretrained pipeline.
        target (`str`): One of `TARGETS`.
        num_images (`int`): Held-out target drawings for FID and KID, at most as many as there are; samples of their
            captions are compared with them.
        num_rows (`int`): Held-out drawings, of the target and of the source sets each, for the loss by noise level.
        steps (`int`): Sampling steps.
        guidance_scale (`float`): Classifier-free guidance of the samples.
        seed (`int`, *optional*, defaults to 0): Seed of drawings, noise and samples; another than the training's.
        samples_per_caption (`int`, *optional*, defaults to 1):
            More than one makes the KID less a matter of the noise. The FID is then of more samples than its floor.
    """

    def __init__(
        self,
        pretrained: Path,
        target: str,
        num_images: int,
        num_rows: int,
        steps: int,
        guidance_scale: float,
        seed: int = 0,
        samples_per_caption: int = 1,
    ) -> None:
        self.samples_per_caption = samples_per_caption
        self.steps, self.guidance_scale, self.seed = steps, guidance_scale, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.backbone = load_backbone(pretrained)
        self.objective = DiffTuningObjective(self.backbone.noise_scheduler)
        self.extractor = IconFeatures()

        images, self.prompts = read_drawings(target_file(target, "held_out"), num_images, seed)
        others, _ = read_drawings(target_file(target, "train"), len(images), seed)
        self.real = RealImages(self.features(images), self.features(others), seed)
        if self.real.floor["fid"] is None:
            raise DiffTuneError(f"FID needs more drawings than features, but there are {len(images)} of {target}.")
        self.data = {
            "target": (images[:num_rows], self.prompts[:num_rows]),
            "source": read_drawings(DATA / "source_held_out.parquet", num_rows, seed),
        }
        self.encoded = self.encode()
        self.pretrained = self.losses(self.backbone.load_denoiser().to(self.device))

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Adds the arguments that [`from_arguments`] reads."""
        parser.add_argument("--pipeline", type=Path, default=PIPELINE, help="The pipeline to fine-tune.")
        parser.add_argument(
            "--images", type=int, default=200, help="Captions sampled for FID and KID, if there are as many."
        )
        parser.add_argument("--samples_per_caption", type=int, default=1, help="More make the KID surer.")
        parser.add_argument("--rows", type=int, default=128, help="Drawings for the loss by noise level.")
        parser.add_argument("--sampling_steps", type=int, default=15)
        parser.add_argument("--guidance_scale", type=float, default=3.0, help="Guidance of the samples.")

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace, target: str, seed: int = 0) -> "Measurement":
        """Measures as the command line says."""
        return cls(
            arguments.pipeline,
            target,
            arguments.images,
            arguments.rows,
            arguments.sampling_steps,
            arguments.guidance_scale,
            seed,
            arguments.samples_per_caption,
        )

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return extract_features(self.extractor, images, batch_size=16, device=self.device)

    def encode(self) -> dict[str, tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """Latents (posterior means) and prompt encodings of the held-out drawings."""
        self.backbone.load_encoders(self.device, torch.float32)
        encoded = {}
        for name, (images, prompts) in self.data.items():
            means = [self.backbone.encode_images(batch.float() / 127.5 - 1)[0] for batch in images.split(64)]
            condition = self.backbone.encode_prompts(prompts)
            encoded[name] = (self.backbone.to_denoiser(torch.cat(means)), condition)
        self.backbone.release_encoders()
        return encoded

    def losses(self, denoiser: torch.nn.Module) -> dict[str, LossByLevel]:
        """The loss by noise level on held-out target and held-out source drawings."""
        return {
            name: denoising_loss_by_level(denoiser, self.backbone, self.objective, latents, condition, seed=self.seed)
            for name, (latents, condition) in self.encoded.items()
        }

    def measure(self, folder: Path, title: str = "samples") -> tuple[dict, dict[str, LossByLevel]]:
        """The figures of a pipeline or a checkpoint as they go into a JSON file, and its losses by noise level."""
        denoiser = self.backbone.load_denoiser(folder).to(self.device)
        losses = self.pretrained if folder == self.backbone.folder else self.losses(denoiser)
        pipeline = self.backbone.pipeline(denoiser, self.device, torch.float32)
        prompts = self.prompts * self.samples_per_caption
        images = sample_images(pipeline, prompts, self.steps, self.guidance_scale, self.seed, title=title)
        quality = self.real.compare(self.features(images))
        forgotten, forgotten_error = forgetting(losses["source"], self.pretrained["source"])
        change, change_error = forgetting(losses["target"], self.pretrained["target"])
        return {
            "fid_target": quality["fid"],
            "kid_target": quality["kid"],
            "kid_target_std": quality["kid_std"],
            "feature_set": NAME,
            "num_generated": quality["num_generated"],
            "num_real": quality["num_real"],
            "sampling_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "fid_floor": quality["fid_floor"],
            "kid_floor": quality["kid_floor"],
            "num_floor": [quality["num_floor"]] * 2,
            "forgetting_source": forgotten,
            "forgetting_source_standard_error": forgotten_error,
            "num_source": len(self.data["source"][1]),
            "num_target": len(self.data["target"][1]),
            "loss_change_target": change,
            "loss_change_target_standard_error": change_error,
        }, losses
