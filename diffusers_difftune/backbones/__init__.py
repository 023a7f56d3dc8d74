# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""One file per model family; everything that differs between families lives there and nowhere else."""

import json
from pathlib import Path
from typing import Protocol

import torch

from ..errors import DiffTuneError, first_sentence, quoted
from .compatibility import Fit, check_fits
from .pipeline_files import PICKLES, check_tensors, tensors_in, weight_files
from .scheduler import check_scheduler_class


# Where the classes of a pipeline's components may be from; "stable_diffusion" is a part of diffusers.
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)


class Backbone(Protocol):
    """What the rest of the library asks of a model family; [`StableDiffusionBackbone`] documents each part."""

    folder: Path
    variant: str | None
    pipeline_class: type
    denoiser_name: str
    lora_target_modules: tuple[str, ...]
    weight_components: tuple[str, ...]
    part_classes: dict[str, tuple[str, ...]]
    always_trained: tuple[str, ...]
    conditioned_on: str
    learned_variance: bool
    resolution: int | None
    vae_scale_factor: int

    has_encoders: bool
    prediction_type: str | None
    tokenizer_key: str | None
    token_limit: int | None  # of a prompt; None where prompts are not text

    # ControlNet training; a family without it has none of these.
    controlnet_class: type

    def new_controlnet(self, denoiser: torch.nn.Module) -> torch.nn.Module: ...
    def predict_controlled(self, denoiser, controlnet, sample, timesteps, condition) -> torch.Tensor: ...

    def set_tokenizer(self, tokenizer) -> None: ...
    def set_prediction_type(self, prediction_type: str) -> None: ...
    def save_settings(self, folder: Path) -> None: ...
    def cut_prompts(self, prompts: list[str]) -> dict[str, int]: ...
    def source_prompts(self, prompts: list[str]) -> list[str]: ...
    def source_classes(self) -> list[str]: ...  # of a class-conditional family
    def renamed_prompts(self) -> frozenset[str]: ...
    def size(self, resolution: int) -> dict[str, int]: ...
    def latent_shape(self, resolution: int) -> tuple[int, int, int]: ...
    def load_denoiser(self, folder=None, dtype: torch.dtype = torch.float32, **kwargs) -> torch.nn.Module: ...
    def empty(self, component: str) -> torch.nn.Module: ...
    def fits(self, empty: dict[str, torch.nn.Module]) -> list[Fit]: ...
    def empty_denoiser(self) -> torch.nn.Module: ...
    def load_encoders(self, device: torch.device, dtype: torch.dtype) -> None: ...
    def release_encoders(self) -> None: ...
    def encode_images(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...
    def scale_latents(self, latents: torch.Tensor) -> torch.Tensor: ...
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor: ...
    def encode_prompts(self, prompts: list[str]) -> dict[str, torch.Tensor]: ...
    def predict(self, denoiser, sample, timesteps, condition: dict[str, torch.Tensor]) -> torch.Tensor: ...
    def pipeline(self, denoiser, device: torch.device, dtype: torch.dtype, controlnet=None, **kwargs): ...


def load_backbone(folder: str | Path, variant: str | None = None) -> Backbone:
    """The backbone of a pipeline folder, by the class its `model_index.json` names. Reads no weights.

    Args:
        folder (`str` or `Path`): A local pipeline folder.
        variant (`str`, *optional*): Variant of the weight files.

    Returns:
        [`Backbone`]: The backbone.

    Raises:
        DiffTuneError: The folder is not a pipeline, or one of an unsupported class, or its parts do not fit each other.
    """
    family = family_of(Path(folder) / "model_index.json")
    components = [Path(folder, component) for component in family.weight_components]
    tensors = {component.name: tensors_in(component, variant) for component in components}
    check_unused(Path(folder), variant, family.weight_components)
    if variant and all(weight_files(component, variant) == weight_files(component) for component in components):
        raise DiffTuneError(f"{folder} has no weights of the variant {variant}.")
    try:
        backbone = family(Path(folder), variant)
        empty = {name: backbone.empty(name) for name in family.weight_components}
        check_fits(Path(folder), backbone.fits(empty))
    except DiffTuneError:
        raise
    except (
        Exception
    ) as error:  # a config is missing, damaged, of another format, or has values that nothing works with
        raise DiffTuneError(f"{folder} is not a whole pipeline: {first_sentence(error)}.") from error
    for component in components:
        name = component.name
        check_tensors(component, tensors[name], empty[name], whole=name == backbone.denoiser_name)
    return backbone


def check_unused(folder: Path, variant: str | None, used: tuple[str, ...]) -> None:
    """Refuses pickles among the components that training leaves alone, and which are copied into its result."""
    for component in sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in used):
        if any(path.suffix in PICKLES for path in component.iterdir()):
            tensors_in(component, variant)


def family_of(index: Path) -> type:
    """The backbone class for the pipeline class that a `model_index.json` names; see [`load_backbone`]."""
    from .dit import DiTBackbone
    from .stable_diffusion import StableDiffusionBackbone

    families: dict[str, type] = {"StableDiffusionPipeline": StableDiffusionBackbone, "DiTPipeline": DiTBackbone}
    if not index.is_file():
        raise DiffTuneError(f"There is no model_index.json in {index.parent}.")
    try:
        content = dict(json.loads(index.read_text()))
        name = content["_class_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DiffTuneError(f"{index} is not the index of a pipeline.") from error
    if not isinstance(name, str) or name not in families:
        raise DiffTuneError(
            f"The pipeline is a {name if isinstance(name, str) else quoted(name)}; supported pipelines are {', '.join(families)}."
        )
    for component, source in content.items():
        own = isinstance(source, list) and not (source and source[0] in LIBRARIES)
        if own or (isinstance(source, list) and (index.parent / component / f"{source[0]}.py").exists()):
            raise DiffTuneError(
                f"The {component} of {index.parent} has code of its own, {quoted(source)},"
                " which is not run; give a pipeline whose parts are classes of diffusers and transformers."
            )
    family = families[name]
    check_part_classes(content, family.part_classes, index.parent)
    return family


def check_part_classes(content: dict, expected: dict[str, tuple[str, ...]], folder: Path) -> None:
    """Refuses parts that are of other classes than a family works with, by its `model_index.json`."""
    for part, classes in expected.items():
        found = content.get(part)
        name = found[1] if isinstance(found, list) and len(found) == 2 else None
        if name not in classes:
            raise DiffTuneError(f"The {part} of {folder} is {quoted(name)}; training supports {' or '.join(classes)}.")
    scheduler = content.get("scheduler")
    check_scheduler_class(scheduler[1] if isinstance(scheduler, list) and len(scheduler) == 2 else None, folder)
