# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""DiT: a transformer on VAE latents, conditioned on a class (Peebles and Xie, ICCV 2023)."""

import copy
import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DiTPipeline, DiTTransformer2DModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

from ..errors import DiffTuneError
from ..io.atomic import write_bytes_atomic
from ..io.random import counter_generator
from .base import Backbone
from .classes import ClassLabels


NULL_CLASS = 1000  # DiTPipeline knows no other
NEW_ROW_DEVIATION = 0.02  # of the class embeddings of a freshly made DiT


class DiTBackbone(Backbone):
    """Everything that is particular to [`DiTPipeline`]."""

    pipeline_class = DiTPipeline
    denoiser_class = DiTTransformer2DModel
    denoiser_name = "transformer"
    conditioned_on = "classes"
    other_classes = {"transformer": ("Transformer2DModel",)}  # what it was called before
    always_trained = ("*.class_embedder.embedding_table.weight",)  # no adapter could learn a new class without
    classes: ClassLabels

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        config = self.denoiser_config
        if config.get("num_embeds_ada_norm") != NULL_CLASS:
            raise DiffTuneError(
                f"The transformer of {folder} has num_embeds_ada_norm {config.get('num_embeds_ada_norm')}; DiTPipeline works"
                f" with {NULL_CLASS} only."
            )
        self.learned_variance = config.get("out_channels") == 2 * config["in_channels"]
        index = json.loads((self.folder / "model_index.json").read_text())
        named = {int(key): name for key, name in (index.get("id2label") or {}).items()}
        self.classes = ClassLabels(named, NULL_CLASS)

    @property
    def only_resolution(self) -> int:
        """Its images have the side that it was made for."""
        return self.denoiser_config["sample_size"] * self.vae_scale_factor

    def check_fits(self, empty: dict[str, Any]) -> None:
        """As [`Backbone.check_fits`], with a variance that may be learned, and classes that there are."""
        super().check_fits(empty)
        count, latents = self.latent_channels, "as many as the latents of its vae"
        self.require_equal(empty, "transformer", "in_channels", count, latents)
        learned = f"{latents}, or {2 * count} with a learned variance"
        self.require_equal(empty, "transformer", "out_channels", count, learned, None, 2 * count)
        others = sorted(key for key in self.classes.id2label if not 0 <= key < NULL_CLASS)
        self.require(
            "model_index.json", "id2label of class", others[:1], not others, f"ids from 0 to {NULL_CLASS - 1}"
        )

    def with_classes(self, names: list[str], reset_seed: int | None = None) -> Self:
        """The backbone for a new label space of these at most 1000 names, which takes the rows of the class tables from 0; their
        rows are drawn anew with the seed, or keep what they held."""
        other = copy.copy(self)
        other.classes = replace(self.classes, new=tuple(names), reset_seed=reset_seed)
        return other

    def source_prompts(self, prompts: list[str]) -> list[str]:
        """The ids, in decimal, of the pretrained model's classes by their ids or names; see [`ClassLabels.prompts`]."""
        return self.classes.prompts(prompts, str(self.folder))

    def renamed_prompts(self) -> frozenset[str]:
        """The classes of the pretrained model whose rows are new classes' by now."""
        return frozenset(map(str, range(len(self.classes.new or ()))))

    def load_denoiser(
        self, folder: str | Path | None = None, dtype: torch.dtype = torch.float32, **kwargs: Any
    ) -> DiTTransformer2DModel:
        """Loads the transformer. It drops no labels by itself, and new classes have their rows."""
        transformer: Any = super().load_denoiser(folder, dtype, **kwargs)
        if transformer.config.out_channels is None:  # DiTPipeline does not take that for an answer
            transformer.register_to_config(out_channels=transformer.config.in_channels)
        for table in class_tables(transformer):
            # Each block would drop labels on its own, so that blocks would disagree; the batch plan drops whole rows.
            table.dropout_prob = 0.0
        if self.classes.new is not None and self.classes.reset_seed is not None:
            self.reset_rows(transformer, len(self.classes.new), self.classes.reset_seed)
        return transformer

    @staticmethod
    @torch.no_grad()
    def reset_rows(transformer: DiTTransformer2DModel, count: int, seed: int) -> None:
        """Draws the first rows of every class table anew, as a freshly made DiT has them."""
        for block, table in enumerate(class_tables(transformer)):
            rows = table.embedding_table.weight[:count]
            drawn = counter_generator(seed, "class rows", block).standard_normal(rows.shape, "float32")
            rows.copy_(torch.from_numpy(NEW_ROW_DEVIATION * drawn))

    def encode_prompts(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """`class_labels` of shape `(N,)`, int64. Prompts are class ids in decimal, an empty one is the null class."""
        return {"class_labels": torch.tensor([int(prompt) if prompt else NULL_CLASS for prompt in prompts])}

    def predict(
        self,
        denoiser: Any,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        condition: dict[str, torch.Tensor],
        controlnet: Any = None,
    ) -> torch.Tensor:
        """The denoiser's output for x_t: of the shape of `sample`, or twice its channels with a learned variance."""
        return denoiser(sample, timesteps, condition["class_labels"], return_dict=False)[0]

    @classmethod
    def sampled_class(cls) -> type:
        """A pipeline that takes classes as prompts."""
        return ClassPromptPipeline

    def save_pipeline(self, folder: Path) -> None:
        """As [`Backbone.save_pipeline`], with the new label space in the pipeline's index."""
        super().save_pipeline(folder)
        file = folder / "model_index.json"
        index: dict[str, Any] = json.loads(file.read_text())
        index["transformer"] = ["diffusers", DiTTransformer2DModel.__name__]  # old indices name its predecessor
        if self.classes.new is not None:
            index["id2label"] = {str(key): name for key, name in enumerate(self.classes.new)}
        write_bytes_atomic(file, (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode())


def class_tables(transformer: torch.nn.Module) -> list[torch.nn.Module]:
    """The class tables of a DiT: every block has one of its own."""
    return [block.norm1.emb.class_embedder for block in transformer.transformer_blocks]


class ClassPromptPipeline(DiTPipeline):
    """A [`DiTPipeline`] that is called as text-to-image pipelines are, with class ids for prompts."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Samples images: of the same noise the same as [`DiTPipeline`]. Prompts are class ids in decimal, an empty one is the null
        class; a size must be the model's own; `output_type` may be `"latent"`, too."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        config, device = self.transformer.config, self._execution_device
        side = config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        if {height, width} - {None, side}:
            raise ValueError(f"this model makes images of {side} × {side} pixels, not {height} × {width}")
        shape = (len(prompts), config.in_channels, config.sample_size, config.sample_size)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=self.transformer.dtype)
        latents = latents.to(device, self.transformer.dtype)
        labels = torch.tensor([int(prompt) if prompt else NULL_CLASS for prompt in prompts], device=device)
        guided = guidance_scale > 1
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, NULL_CLASS)])

        # Some samplers draw noise in every step; it is then a function of the generator, too.
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        drawn_with = {"generator": generator} if takes_generator else {}
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = latents * self.scheduler.init_noise_sigma
        for t in self.progress_bar(self.scheduler.timesteps):
            given = self.scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, t)
            output = self.transformer(given, t.to(device).expand(len(given)), labels, return_dict=False)[0]
            output = output[:, : config.in_channels]  # without the learned variance, as DiTPipeline has it
            if guided:
                with_class, without = output.chunk(2)
                output = without + guidance_scale * (with_class - without)
            latents = self.scheduler.step(output, t, latents, **drawn_with, return_dict=False)[0]

        images: Any = latents
        if output_type != "latent":
            images = self.vae.decode(1 / self.vae.config.scaling_factor * latents, return_dict=False)[0]
            images = VaeImageProcessor().postprocess(images, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
