# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What the library asks of a model family. Nothing outside this room knows more of a family than what is here."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL

from ..errors import DiffTuneError, quoted
from .parts import PipelineParts, library_class
from .pipeline_files import copy_components, set_scheduler_prediction_type
from .sampled_pipeline import SampledPipeline
from .scheduler import DIFFUSION, load_scheduler
from .tokens import reading_key, token_counts, told_by_us


if TYPE_CHECKING:
    from .classes import ClassLabels
    from .controlnet import ControlNetFamily


class Backbone(PipelineParts, SampledPipeline):
    """A model family on the latents of a VAE, opened for a pipeline folder: how its parts are read, encoded, called and sampled.

    A family is a subclass in a file of its own, which says what is different there. Opening reads configs and no weights. Latents
    are *canonical* everywhere outside a family: of the shape (C, h, w) that [`latent_shape`] says, scaled as the denoiser expects
    them, before any packing into tokens. Likewise the answer of [`predict`] is canonical, and has the sign of the scheduler's
    target.

    Args:
        folder (`Path`): The local folder of the pipeline, with its `model_index.json`.
        variant (`str`, *optional*): Variant of the weight files.
        resolution (`int`, *optional*): Side of the images in pixels; `None` is the family's own.
        prediction_type (`str`, *optional*): Trains, validates and saves with this prediction type, not the scheduler's.
        tokenizer (*optional*): Reads prompts in place of the pipeline's own tokenizer.
        vae (`Path`, *optional*): A folder with the VAE to use in place of the pipeline's.

    Attributes:
        pipeline_class (`type`): The pipeline of diffusers; its name in `model_index.json` is what the family is found by.
        tokenizer_classes (`dict[str, type]`): The tokenizers by component; `tokenizer_2` writes for `text_encoder_2`.
        other_classes (`dict[str, tuple[str, ...]]`): What else a `model_index.json` may call the class of a component.
        adapted_modules (`tuple[str, ...]`): The modules that upstream's LoRA script of the family adapts.
        always_trained (`tuple[str, ...]`): Patterns of parameters that train along with every adapter.
        conditioned_on (`str`): `"prompts"` or `"classes"`.
        default_resolution (`int`): Side of the images to train on, where nothing else is said.
        resolution (`int`): Side of the images of this run.
        size_multiple (`int`): Sides of images must be a multiple of this.
        learned_variance (`bool`): The denoiser answers with a variance, too.
        noise_scheduler (`SchedulerMixin`): The noise levels and the prediction type to train with.
        tokenizers (`dict[str, PreTrainedTokenizerBase]`): The tokenizers by component.
        tokenizer_key (`str`, *optional*): Tells another tokenizer from the pipeline's own; `None` if it reads as that.
        classes ([`ClassLabels`], *optional*): The classes, of a class-conditional family.
        controlnet ([`ControlNetFamily`], *optional*): ControlNet training, for families that have it.

    Raises:
        DiffTuneError: An argument does not work with the pipeline. The error's `flag` is the argument's name.
    """

    tokenizer_classes: dict[str, Any] = {}
    other_classes: dict[str, tuple[str, ...]] = {}
    adapted_modules: tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")
    always_trained: tuple[str, ...] = ()
    conditioned_on = "prompts"
    default_resolution = 512
    learned_variance = False
    tokenizer_key: str | None = None
    classes: "ClassLabels | None" = None
    controlnet: "ControlNetFamily | None" = None

    def __init__(
        self,
        folder: Path,
        variant: str | None = None,
        resolution: int | None = None,
        prediction_type: str | None = None,
        tokenizer: Any = None,
        vae: Path | None = None,
    ) -> None:
        super().__init__(folder, variant, {} if vae is None else {"vae": vae})
        self.denoiser_config: dict[str, Any] = self.denoiser_class.load_config(self.component_path(self.denoiser_name))
        self.vae_config: dict[str, Any] = AutoencoderKL.load_config(self.component_path("vae"))
        self.latent_channels: int = self.vae_config["latent_channels"]
        self.vae_scale_factor: int = 2 ** (len(self.vae_config["block_out_channels"]) - 1)
        self.scaling_factor: float = self.vae_config.get("scaling_factor", 0.18215)
        self.size_multiple = self.vae_scale_factor
        self.noise_scheduler, self.sampler = load_scheduler(self.folder)
        self.pretrained_prediction_type: str = self.noise_scheduler.config.prediction_type
        self.prediction_type = prediction_type
        if prediction_type is not None:
            self._check_sampled(prediction_type)
            self.noise_scheduler.register_to_config(prediction_type=prediction_type)
        self.resolution = self.image_side(resolution)
        self.tokenizers: dict[str, Any] = {
            name: told_by_us(tokenizer_class.from_pretrained(self.folder, subfolder=name))
            for name, tokenizer_class in self.tokenizer_classes.items()
        }
        self.given_tokenizer = tokenizer
        if tokenizer is not None:
            self._replace_tokenizer(tokenizer)

    def _check_sampled(self, prediction_type: str) -> None:
        """Refuses a prediction type if the pipeline's scheduler, which validates and is saved, does not sample from such models."""
        known = DIFFUSION[self.sampler]
        if prediction_type not in known:
            raise DiffTuneError(
                f"prediction_type is {prediction_type}, and the pipeline's {self.sampler} samples from models of"
                f" {', '.join(known)} only; give one of these, or a pipeline with a DDIMScheduler.",
                "prediction_type",
            )

    def _replace_tokenizer(self, tokenizer: Any) -> None:
        if len(self.tokenizers) != 1:
            raise DiffTuneError(
                f"tokenizer replaces one tokenizer, and this pipeline has {len(self.tokenizers)}; leave it out.",
                "tokenizer",
            )
        ((name, own),) = self.tokenizers.items()
        key = reading_key(tokenizer)
        self.tokenizer_key = None if key == reading_key(own) else key
        self.tokenizers[name] = told_by_us(tokenizer)

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

    @classmethod
    def part_classes(cls) -> dict[str, tuple[str, ...]]:
        """The classes that a `model_index.json` may name of each component, beside the scheduler's."""
        models = {cls.denoiser_name: cls.denoiser_class, **cls.encoder_classes}
        found = {name: (library_class(model_class).__name__,) for name, model_class in models.items()}
        for name, tokenizer_class in cls.tokenizer_classes.items():
            found[name] = (tokenizer_class.__name__, f"{tokenizer_class.__name__}Fast")
        return {name: (*classes, *cls.other_classes.get(name, ())) for name, classes in found.items()}

    def check_fits(self, empty: dict[str, torch.nn.Module]) -> None:
        """Refuses a pipeline whose parts do not fit each other, by their configs. Families add what they need; see [`require`].

        Args:
            empty (`dict[str, torch.nn.Module]`): Each of `weight_components`, without weights.

        Raises:
            DiffTuneError: A part does not fit the others.
        """
        for name in ("in_channels", "out_channels"):
            self.require_equal(empty, "vae", name, 3, "the colours of an image")
        for name, tokenizer in self.tokenizers.items():
            encoder = text_encoder_of(name)
            text: Any = empty[encoder].config
            for what, count, limit in (
                ("model_max_length", tokenizer.model_max_length, "max_position_embeddings"),
                ("a vocabulary of", len(tokenizer), "vocab_size"),
            ):
                most = getattr(text, limit, count)  # an encoder of relative positions has none
                needed = f"at most {most}, the {encoder}'s {limit}"
                if count > most and tokenizer is self.given_tokenizer:
                    raise DiffTuneError(
                        f"tokenizer {tokenizer.name_or_path} has {what} {count} and needs {needed}; give one that was made for"
                        " this text encoder.",
                        "tokenizer",
                    )
                self.require(name, what, count, count <= most, needed)

    def require(self, part: str, name: str, found: Any, fits: bool, needed: str) -> None:
        """Refuses a setting of a part that does not fit; `needed` says what would, and why."""
        if not fits:
            raise DiffTuneError(
                f"The {part} of {self.folder} has {name} {quoted(found)} and needs {needed}; give a pipeline whose parts were"
                " made for each other."
            )

    def require_equal(self, empty: dict[str, Any], part: str, name: str, value: Any, why: str, *also: Any) -> None:
        """Refuses a part whose config has another value of a setting than this one, or one that works, too."""
        found = empty[part].config.get(name)
        self.require(part, name, found, found == value or found in also, f"{value}, {why}")

    def lora_target_modules(self, denoiser: torch.nn.Module) -> tuple[str, ...]:
        """The modules that an adapter of PEFT goes into where nothing else is said: those of upstream's LoRA script.

        Args:
            denoiser (`torch.nn.Module`): The denoiser, which may be without weights; some names depend on its depth.
        """
        return self.adapted_modules

    # Images: their sizes, and their latents.

    def image_side(self, resolution: int | None) -> int:
        """The side of the images to train on or to sample, in pixels: the one that is asked for, if the model can do it."""
        only = self.only_resolution
        if only is not None and resolution not in (None, only):
            raise DiffTuneError(
                f"resolution is {resolution}; this model makes images of {only} pixels only.", "resolution"
            )
        side = only or self.default_resolution if resolution is None else resolution
        if side < 1 or side % self.size_multiple:
            below = max(0, side - side % self.size_multiple)
            works = " or ".join(str(size) for size in (below, below + self.size_multiple) if size)
            raise DiffTuneError(
                f"resolution is {side}; this model's VAE needs a multiple of {self.size_multiple}, such as {works}.",
                "resolution",
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
        """The prompts that are longer than a tokenizer reads, each with its number of tokens."""
        cut: dict[str, int] = {}
        for tokenizer in self.tokenizers.values():
            for prompt, count in zip(prompts, token_counts(prompts, tokenizer), strict=True):
                if count > tokenizer.model_max_length:
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
        """The whole pipeline to sample from: untouched, with `denoiser` in place of the saved one, or with a ControlNet. Encoders
        that are in memory are used, the others are loaded."""
        pipeline_class: Any = self.sampled_class()
        components = dict(self.encoders)
        for name, model_class in self.encoder_classes.items():
            # The pipeline itself would load its own, and in its precision.
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


def text_encoder_of(tokenizer: str) -> str:
    """The component that reads what a tokenizer writes."""
    return tokenizer.replace("tokenizer", "text_encoder")
