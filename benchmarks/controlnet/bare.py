# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Does a pretrained model with a ControlNet and a blank condition still do what it did alone?"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from settings import DATA, GUIDANCE, PIPELINE, ROOT, Size, bare_settings
from transformers import CLIPTokenizer


sys.path[:0] = [str(ROOT / "examples" / "icons"), str(ROOT / "examples" / "icons" / "make")]
from contrastive_model import load_contrastive  # noqa: E402
from features import NAME, IconFeatures  # noqa: E402
from finetune import RESOLUTION  # noqa: E402
from measure import read_drawings, sample_images  # noqa: E402
from train_text_encoder import top5_of_100  # noqa: E402

from diffusers_difftune.backbones import Backbone, load_backbone  # noqa: E402
from diffusers_difftune.evaluation.forgetting import LossByLevel, denoising_loss_by_level, forgetting  # noqa: E402
from diffusers_difftune.evaluation.metrics import distances, extract_features  # noqa: E402
from diffusers_difftune.evaluation.real_images import RealImages  # noqa: E402
from diffusers_difftune.objective import DiffTuningObjective  # noqa: E402


class BlankControl:
    """A denoiser under a ControlNet with a blank condition, in a backbone's place where only predictions are asked for.

    Args:
        backbone ([`Backbone`]): The family.
        denoiser (`torch.nn.Module`): The pretrained denoiser.
        resolution (`int`): Side of a control image in pixels.
    """

    def __init__(self, backbone: Backbone, denoiser: torch.nn.Module, resolution: int) -> None:
        self.backbone, self.denoiser, self.resolution = backbone, denoiser, resolution

    def predict(self, controlnet, sample, timesteps, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        """The pair's output for x_t."""
        blank = torch.zeros(len(sample), 3, self.resolution, self.resolution, device=sample.device)
        return self.backbone.predict(self.denoiser, sample, timesteps, condition | {"control": blank}, controlnet)


class BareModel:
    """Measures the behaviour without a condition, on prompts of source drawings.

    The prompts are those of 64 drawings that the pipeline was pretrained on and of held-out ones. The reference, samples
    and losses of the pretrained pipeline alone and features of real drawings, is kept in a file.

    Args:
        size ([`Size`]): How much to measure.
        reference (`Path`): The file; made if it is not there.
    """

    def __init__(self, size: Size, reference: Path) -> None:
        self.size = size
        self.backbone = load_backbone(PIPELINE)
        self.objective = DiffTuningObjective(self.backbone.noise_scheduler)
        self.denoiser = self.backbone.load_denoiser()
        known, held_out = DATA / "source_examples.parquet", DATA / "source_held_out.parquet"
        names = read_drawings(known)[1]
        names += [name for name in read_drawings(held_out)[1] if name not in set(names)]
        self.prompts = names[: size.images]
        self.drawings, captions = read_drawings(held_out)
        self.rows = self.drawings[: size.rows], captions[: size.rows]
        self.backbone.load_encoders(torch.device("cpu"), torch.float32)
        self.encoded = self.encode()
        self.reference = self.load_reference(reference)

    def encode(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Latents (posterior means) and prompt encodings of the rows."""
        images, captions = self.rows
        means = [self.backbone.encode_images(batch.float() / 127.5 - 1)[0] for batch in images.split(64)]
        return self.backbone.to_denoiser(torch.cat(means)), self.backbone.encode_prompts(captions)

    def load_reference(self, file: Path) -> dict[str, np.ndarray]:
        """Samples and losses of the pretrained pipeline alone."""
        if not file.is_file():
            losses = denoising_loss_by_level(self.denoiser, self.backbone, self.objective, *self.encoded)
            found = {
                "images": self.sample(None).numpy(),
                "timesteps": losses.timesteps.numpy(),
                "heights": losses.heights.numpy(),
                "losses": losses.rows.numpy(),
                "real_features": extract_features(IconFeatures(), self.drawings).numpy(),
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            aside = file.with_name(f".{file.name}")
            with open(aside, "wb") as stream:
                np.savez(stream, **found)
            aside.rename(file)
        with np.load(file) as found:
            return dict(found)

    def sample(self, controlnet: torch.nn.Module | None) -> torch.Tensor:
        """An image for each prompt, uint8 of shape `(N, 3, 32, 32)`, from noise that depends on its place alone."""
        pipeline = self.backbone.pipeline(self.denoiser, torch.device("cpu"), torch.float32, controlnet=controlnet)
        blank = None if controlnet is None else torch.zeros(1, 3, RESOLUTION, RESOLUTION, dtype=torch.uint8)
        with torch.autocast("cpu", torch.bfloat16):
            return sample_images(pipeline, self.prompts, self.size.sampling_steps, GUIDANCE, controls=blank)

    def pretrained(self) -> dict[str, Any]:
        """The figures of the pretrained pipeline alone, with the real-vs-real floor."""
        images = torch.from_numpy(self.reference["images"])
        floor = RealImages(torch.from_numpy(self.reference["real_features"])).floor
        return self.quality(images) | {
            "fid_floor": floor["fid"],
            "kid_floor": floor["kid"],
            "num_floor": [floor["num_real"], floor["num_generated"]],
            "feature_set": NAME,
            "num_real": len(self.drawings),
            **bare_settings(self.size),
        }

    def measure(self, controlnet: torch.nn.Module) -> dict[str, float]:
        """The figures of the pair with a blank condition."""
        images = self.sample(controlnet.eval())
        pair = BlankControl(self.backbone, self.denoiser, RESOLUTION)
        losses = denoising_loss_by_level(controlnet, pair, self.objective, *self.encoded)
        kept = {name: torch.from_numpy(values) for name, values in self.reference.items()}
        forgotten, error = forgetting(losses, LossByLevel(kept["timesteps"], kept["heights"], kept["losses"]))
        return self.quality(images) | {
            "drift": (images.double() - kept["images"].double()).div(255).square().mean().item(),
            "forgetting": forgotten,
            "forgetting_standard_error": error,
        }

    def quality(self, images: torch.Tensor) -> dict[str, float]:
        """Prompt adherence, and the distance to held-out source drawings."""
        contrastive = load_contrastive()
        tokenizer = CLIPTokenizer.from_pretrained(PIPELINE, subfolder="tokenizer")
        found = distances(torch.from_numpy(self.reference["real_features"]), extract_features(IconFeatures(), images))
        top5 = top5_of_100(contrastive, images, self.prompts, tokenizer)
        return {"top5_of_100": top5, "fid": found["fid"], "kid": found["kid"]}
