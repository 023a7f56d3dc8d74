# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What the library asks of a model family. Nothing outside this room knows more of a family than what is here."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL

from ..errors import DiffTuneError
from .compatibility import Fit, equal
from .parts import PipelineParts
from .pipeline_files import copy_components, set_scheduler_prediction_type
from .sampled_pipeline import SampledPipeline
from .scheduler import DIFFUSION, load_scheduler
from .tokens import longer_than


if TYPE_CHECKING:
    from .classes import ClassLabels
    from .controlnet import ControlNetFamily


@dataclass(frozen=True)
class Settings:
    """What a run asks of a pretrained pipeline. A backbone is made with its settings; they do not change afterwards.

    Args:
        variant (`str`, *optional*): Variant of the weight files.
        resolution (`int`, *optional*): Side of the images in pixels; `None` is the family's own.
        prediction_type (`str`, *optional*): Trains, validates and saves with this prediction type, not the scheduler's.
        tokenizer (*optional*): Reads prompts in place of the pipeline's own tokenizer.
        vae (`Path`, *optional*): A folder with the VAE to use in place of the pipeline's.
    """

    variant: str | None = None
    resolution: int | None = None
    prediction_type: str | None = None
    tokenizer: Any = None
    vae: Path | None = None


class Backbone(PipelineParts, SampledPipeline):
    """A model family on the latents of a VAE, opened for a pipeline folder: how its parts are read, encoded, called and sampled.

    A family is a subclass in a file of its own, which says what is different there. Opening reads configs and no weights. Latents
    are *canonical* everywhere outside a family: of the shape (C, h, w) that [`latent_shape`] says, scaled as the denoiser expects
    them, before any packing into tokens. Likewise the answer of [`predict`] is canonical, and has the sign of the scheduler's
    target.

    Args:
        folder (`Path`): The local folder of the pipeline, with its `model_index.json`.
        settings ([`Settings`]): What the run asks of it.

    Attributes:
        pipeline_class (`type`): The pipeline of diffusers; its name in `model_index.json` is what the family is found by.
        part_classes (`dict[str, tuple[str, ...]]`): The classes that a `model_index.json` may name, beside the scheduler's.
        adapted_modules (`tuple[str, ...]`): The modules that upstream's LoRA script of the family adapts.
        always_trained (`tuple[str, ...]`): Patterns of parameters that train along with every adapter.
        conditioned_on (`str`): `"prompts"` or `"classes"`.
        default_resolution (`int`): Side of the images to train on, where nothing else is said.
        resolution (`int`): Side of the images of this run.
        size_multiple (`int`): Sides of images must be a multiple of this.
        learned_variance (`bool`): The denoiser answers with a variance, too.
        noise_scheduler (`SchedulerMixin`): The noise levels and the prediction type to train with.
        tokenizer_key (`str`, *optional*): Tells a tokenizer of the settings from another; `None` if it reads as the pipeline's own.
        classes ([`ClassLabels`], *optional*): The classes, of a class-conditional family.
        controlnet ([`ControlNetFamily`], *optional*): ControlNet training, for families that have it.

    Raises:
        DiffTuneError: A setting does not work with the pipeline.
    """

    part_classes: dict[str, tuple[str, ...]]
    adapted_modules: tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")
    always_trained: tuple[str, ...] = ()
    conditioned_on = "prompts"
    default_resolution = 512
    learned_variance = False
    tokenizer_key: str | None = None
    classes: "ClassLabels | None" = None
    controlnet: "ControlNetFamily | None" = None

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings.variant, {} if settings.vae is None else {"vae": settings.vae})
        self.tokenizers: dict[str, Any] = {}  # by component
        self.denoiser_config: dict[str, Any] = self.denoiser_class.load_config(self.component_path(self.denoiser_name))
        self.vae_config: dict[str, Any] = AutoencoderKL.load_config(self.component_path("vae"))
        self.latent_channels: int = self.vae_config["latent_channels"]
        self.vae_scale_factor: int = 2 ** (len(self.vae_config["block_out_channels"]) - 1)
        self.scaling_factor: float = self.vae_config.get("scaling_factor", 0.18215)
        self.size_multiple = self.vae_scale_factor
        self.noise_scheduler, self.sampler = load_scheduler(self.folder)
        self.pretrained_prediction_type: str = self.noise_scheduler.config.prediction_type
        self.prediction_type = settings.prediction_type
        if self.prediction_type is not None:
            check_sampled(self.prediction_type, self.sampler)
            self.noise_scheduler.register_to_config(prediction_type=self.prediction_type)
        self.resolution = self.image_side(settings.resolution)

    # The parts of the pipeline, by their configs.

    @property
    def token_limit(self) -> int | None:
        """The tokens of a prompt that are read, those of its beginning and end among them; `None` where prompts are not text."""
        return min((tokenizer.model_max_length for tokenizer in self.tokenizers.values()), default=None)

    def fingerprint(self, cache_dir: str | Path | None = None, verify: bool = False) -> str:
        """What a knowledge bank must have been sampled from: the weights, and what another tokenizer makes of prompts, if it reads
        them otherwise than the pipeline's own; see [`weights_fingerprint`]."""
        weights = self.fingerprint_of(self.weight_components, cache_dir, verify)
        if self.tokenizer_key is None:
            return weights
        return hashlib.sha256(f"{weights} {self.tokenizer_key}".encode()).hexdigest()

    def fits(self, empty: dict[str, torch.nn.Module]) -> list[Fit]:
        """What the configs of the parts must agree on.

        Args:
            empty (`dict[str, torch.nn.Module]`): Each of `weight_components`, without weights.
        """
        vae: Any = empty["vae"]
        images = "the colours of an image"
        return [equal("vae", name, vae.config, 3, images) for name in ("in_channels", "out_channels")]

    def lora_target_modules(self, denoiser: torch.nn.Module) -> tuple[str, ...]:
        """The modules that an adapter of PEFT goes into where nothing else is said: those of upstream's LoRA script.

        Args:
            denoiser (`torch.nn.Module`): The denoiser, which may be without weights; some names depend on its depth.
        """
        return self.adapted_modules

    # Images: their sizes, and their latents.

    def image_side(self, resolution: int | None) -> int:
        """The side of the images to train on or to sample, in pixels: what `--resolution` says if the model can do it.

        Args:
            resolution (`int`, *optional*): The flag; `None` is the model's own.

        Raises:
            DiffTuneError: The model cannot make images of this size.
        """
        only = self.only_resolution
        if only is not None and resolution not in (None, only):
            raise DiffTuneError(f"--resolution is {resolution}; this model makes images of {only} pixels only.")
        side = only or self.default_resolution if resolution is None else resolution
        if side < 1 or side % self.size_multiple:
            below = max(0, side - side % self.size_multiple)
            works = " or ".join(str(size) for size in (below, below + self.size_multiple) if size)
            raise DiffTuneError(
                f"--resolution is {side}; this model's VAE needs a multiple of {self.size_multiple}, such as {works}."
            )
        return side

    @property
    def only_resolution(self) -> int | None:
        """The side of the only images that the model makes; `None` is any."""
        return None

    @property
    def native_resolution(self) -> int:
        """The side of the images that the model was made for."""
        return self.only_resolution or self.denoiser_config["sample_size"] * self.vae_scale_factor

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """The shape (C, h, w) of the canonical latents of an image; by default square, and of the run's own size."""
        height = height or self.resolution
        width = width or height
        return (self.latent_channels, height // self.vae_scale_factor, width // self.vae_scale_factor)

    @torch.no_grad()
    def encode_images(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latent posterior, in the VAE's own space.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): Images in [−1, 1].

        Returns:
            Two `torch.Tensor` of shape `(B, C, h, w)`, float32; [`to_denoiser`] takes a sample of them.
        """
        posterior = self.vae.encode(pixel_values.to(self.vae.device, self.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()

    def to_denoiser(self, latents: torch.Tensor) -> torch.Tensor:
        """From the VAE's latents to canonical ones. Needs no encoder in memory, and is called in workers of data loaders."""
        return latents * self.scaling_factor

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """[`decode`] with the VAE that is in memory."""
        return self.decode(self.vae, latents)

    # Prompts, and whatever else the denoiser is conditioned on.

    def encode_prompts(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """What the denoiser is conditioned on of each prompt; the encoders must be in memory.

        Args:
            prompts (`list[str]`): N prompts. The empty one is no prompt: what classifier-free guidance drops a caption to, which
                is whatever the family's pipeline has in its unconditional branch.

        Returns:
            `dict[str, torch.Tensor]`: Tensors of N entries, whose other sizes depend on no prompt; masks are among them.
        """
        raise NotImplementedError

    @staticmethod
    def row_condition(
        original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """What the denoiser is conditioned on of an image, beside its prompt; joins what [`encode_prompts`] returns.

        Args:
            original (`tuple[int, int]`): Height and width of the image as it was found.
            crop (`tuple[int, int]`): Top and left of the crop, in the image as it was resized and, if it was, flipped.
            target (`tuple[int, int]`): Height and width of the crop. A sample of the model has this size as original, too, and
                is not cropped.

        Returns:
            `dict[str, torch.Tensor]`: A tensor for each name; empty for most families.
        """
        return {}

    def sample_condition(self, prompts: list[str], side: int) -> dict[str, torch.Tensor]:
        """[`encode_prompts`] and [`row_condition`] of square samples of the model, or of images that count as such."""
        encoded = self.encode_prompts(prompts)
        size = (side, side)
        of_each = self.row_condition(size, (0, 0), size)
        return encoded | {name: value.expand(len(prompts), *value.shape) for name, value in of_each.items()}

    def cut_prompts(self, prompts: list[str]) -> dict[str, int]:
        """The prompts that are cut, each with its number of tokens; see [`longer_than`]."""
        cut: dict[str, int] = {}
        for tokenizer in self.tokenizers.values():
            for prompt, count in longer_than(tokenizer.model_max_length, prompts, tokenizer).items():
                cut[prompt] = max(count, cut.get(prompt, 0))
        return cut

    def source_prompts(self, prompts: list[str]) -> list[str]:
        """The prompts to sample a knowledge bank with, for those that a user wrote."""
        return prompts

    def renamed_prompts(self) -> frozenset[str]:
        """Prompts that mean something else to the model that is trained than to the pretrained one."""
        return frozenset()

    # The denoiser.

    def predict(
        self,
        denoiser: Any,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        condition: dict[str, torch.Tensor],
        controlnet: Any = None,
    ) -> torch.Tensor:
        """The denoiser's answer for x_t.

        Args:
            denoiser (`torch.nn.Module`): The denoiser, in any precision.
            sample (`torch.Tensor` of shape `(B, C, h, w)`): x_t, canonical.
            timesteps (`torch.Tensor` of shape `(B,)`): t, as `noise_scheduler` counts.
            condition (`dict[str, torch.Tensor]`): What [`encode_prompts`] and [`row_condition`] return, and for a ControlNet
                `control`, the control images of shape `(B, 3, H, W)` in [0, 1].
            controlnet (`torch.nn.Module`, *optional*): A ControlNet beside it.

        Returns:
            `torch.Tensor` of the shape of `sample`, or twice its channels with a learned variance; of the sign of the
            scheduler's target.
        """
        raise NotImplementedError

    # The whole pipeline: to sample from, and saved.

    def pipeline(
        self,
        denoiser: torch.nn.Module | None,
        device: torch.device,
        dtype: torch.dtype,
        controlnet: torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """The whole pipeline to sample from: untouched, with `denoiser` in place of the saved one, or with a ControlNet.

        Encoders that are in memory are used, the others are loaded.
        """
        pipeline_class: Any = self.sampled_class()
        components = dict(self.encoders)
        for (
            name,
            model_class,
        ) in self.encoder_classes.items():  # the pipeline itself would load its own, and in its precision
            if name not in components and (name in self.replaced or self.encoder_dtype(name, dtype) != dtype):
                components[name] = self.load_encoder(name, model_class, dtype)
        if denoiser is not None:
            components[self.denoiser_name] = denoiser
        if controlnet is not None and self.controlnet is not None:
            pipeline_class, components["controlnet"] = self.controlnet.pipeline_class, controlnet
        pipeline = pipeline_class.from_pretrained(
            self.folder,
            variant=self.variant,
            dtype=dtype,
            use_safetensors=True,
            **self.pipeline_arguments,
            **components,
            **kwargs,
        )
        if self.tokenizers:
            pipeline.register_modules(**self.tokenizers)
        if denoiser is not None and self.prediction_type is not None:
            pipeline.scheduler.register_to_config(prediction_type=self.prediction_type)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)

    def save_pipeline(self, folder: Path) -> None:
        """Writes a pipeline that was trained from this one, all but its denoiser: the files of the pretrained one, byte for byte,
        and what the settings changed."""
        copy_components(self.folder, folder, self.variant, self.denoiser_name, self.replaced)
        if self.prediction_type is not None:
            set_scheduler_prediction_type(folder, self.prediction_type)


def check_sampled(prediction_type: str, sampler: str) -> None:
    """Refuses a prediction type if the pipeline's scheduler, which validates and is saved, does not sample from such models."""
    known = DIFFUSION[sampler]
    if prediction_type not in known:
        raise DiffTuneError(
            f"--prediction_type is {prediction_type}, and the pipeline's {sampler} samples from models of"
            f" {', '.join(known)} only; give one of these, or a pipeline with a DDIMScheduler."
        )
