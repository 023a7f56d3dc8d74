# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""From a pipeline to its family: by the class that its `model_index.json` names. A new family is one line here."""

import importlib
import json
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from .. import errors
from ..errors import DiffTuneError, first_sentence, quoted
from ..io.hub import pinned
from .base import Backbone
from .pipeline_files import PICKLES, check_tensors, pickled, tensors_in, weight_files
from .scheduler import check_scheduler_class


# The module of this room and the class in it, by the name of the pipeline's class. Modules are imported when they are needed.
FAMILIES: dict[str, tuple[str, str]] = {
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusionBackbone"),
    "StableDiffusionXLPipeline": ("stable_diffusion_xl", "StableDiffusionXLBackbone"),
    "DiTPipeline": ("dit", "DiTBackbone"),
}
# Where the classes of a pipeline's components may be from; "stable_diffusion" is a part of diffusers.
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)


def load_backbone(
    folder: str | Path, variant: str | None = None, vae: Path | None = None, **settings: Any
) -> Backbone:
    """The backbone of a pipeline folder, by the class its `model_index.json` names. Reads no weights.

    Args:
        folder (`str` or `Path`): A local pipeline folder.
        variant (`str`, *optional*): Variant of the weight files.
        vae (`Path`, *optional*): A folder with the VAE to use in place of the pipeline's.
        settings: The other arguments of [`Backbone`]: `resolution`, `prediction_type`, `tokenizer`.

    Returns:
        [`Backbone`]: The backbone.

    Raises:
        DiffTuneError: The folder is not a pipeline, or one of an unsupported class, or its parts do not fit each other, or a
            setting does not work with it.
    """
    folder = Path(folder)
    family = family_of(folder / "model_index.json")
    components = {name: folder / name for name in (family.denoiser_name, *family.encoder_classes)}
    tensors = {name: tensors_in(place, variant) for name, place in components.items()}
    check_unused(folder, variant, tuple(components))
    if variant and all(weight_files(place, variant) == weight_files(place) for place in components.values()):
        raise DiffTuneError(f"{folder} has no weights of the variant {variant}.")
    if vae is not None:
        with errors.flag("vae"):
            check_vae(vae, folder / "vae")
            tensors["vae"] = tensors_in(vae, variant)
    try:
        backbone = family(folder, variant=variant, vae=vae, **settings)
        empty = {name: backbone.empty(name) for name in components}
        backbone.check_fits(empty)
    except DiffTuneError:
        raise
    except Exception as error:
        # A config is missing, damaged, of another format, or has values that nothing works with.
        raise DiffTuneError(f"{folder} is not a whole pipeline: {first_sentence(error)}.") from error
    for name in components:
        check_tensors(backbone.component_path(name), tensors[name], empty[name], whole=name == backbone.denoiser_name)
    return backbone


def check_vae(folder: Path, own: Path) -> None:
    """Refuses a VAE that makes other latents than the pipeline's own."""
    try:
        theirs, ours = (json.loads((place / "config.json").read_text()) for place in (folder, own))
        facts = [
            (each["_class_name"], each["latent_channels"], len(each["block_out_channels"])) for each in (theirs, ours)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DiffTuneError(f"{folder} is not a VAE: {first_sentence(error)}.") from error
    if facts[0] != facts[1]:
        raise DiffTuneError(
            f"{folder} does not fit the pipeline: its class, latent channels and blocks are {facts[0]}, and those of the"
            f" pipeline's VAE {facts[1]}."
        )


def check_unused(folder: Path, variant: str | None, used: tuple[str, ...]) -> None:
    """Refuses pickles among the components that training leaves alone, and which are copied into its result."""
    for component in sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in used):
        if any(path.suffix in PICKLES for path in component.iterdir()):
            tensors_in(component, variant)


def family_named(name: str) -> type[Backbone]:
    """The family of a pipeline class by its name, which must be in `FAMILIES`."""
    module, found = FAMILIES[name]
    return getattr(importlib.import_module(f".{module}", __package__), found)


def family_of_pipeline(pipeline: DiffusionPipeline) -> type[Backbone]:
    """The family of a pipeline that is in memory, by its class, of which a family may have more than one.

    Raises:
        DiffTuneError: There is no such family here.
    """
    for each in type(pipeline).__mro__:
        if each.__name__ in FAMILIES:
            return family_named(each.__name__)
    beside = type(pipeline).__name__.replace("ControlNet", "")  # such as StableDiffusionControlNetPipeline
    if beside in FAMILIES:
        return family_named(beside)
    raise DiffTuneError(
        f"There is no family here for a {type(pipeline).__name__}; supported pipelines are {', '.join(FAMILIES)}."
    )


def family_of(index: Path) -> type[Backbone]:
    """The backbone class for the pipeline class that a `model_index.json` names; see [`load_backbone`]."""
    if not index.is_file():
        raise DiffTuneError(f"There is no model_index.json in {index.parent}.")
    try:
        content = dict(json.loads(index.read_text()))
        name = content["_class_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DiffTuneError(f"{index} is not the index of a pipeline.") from error
    if not isinstance(name, str) or name not in FAMILIES:
        raise DiffTuneError(
            f"The pipeline is a {name if isinstance(name, str) else quoted(name)}; supported pipelines are {', '.join(FAMILIES)}."
        )
    for component, source in content.items():
        own = isinstance(source, list) and not (source and source[0] in LIBRARIES)
        if own or (isinstance(source, list) and (index.parent / component / f"{source[0]}.py").exists()):
            raise DiffTuneError(
                f"The {component} of {index.parent} has code of its own, {quoted(source)}, which is not run; give a pipeline"
                " whose parts are classes of diffusers and transformers."
            )
    family = family_named(name)
    check_part_classes(content, family.part_classes(), index.parent)
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


def pipeline_folder(
    name_or_path: str,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
) -> Path:
    """The local folder of a pipeline, which has a `model_index.json`; one on the Hub is downloaded first, or found in the cache.

    Raises:
        DiffTuneError: There is neither such a folder nor such a model, or it is of an unsupported class.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token}
    try:
        index, _ = pinned(name_or_path, revision, cache_dir, token, "model_index.json")
        family_of(index)  # before gigabytes are downloaded
        return Path(DiffusionPipeline.download(name_or_path, variant=variant, use_safetensors=True, **where))
    except DiffTuneError:
        raise
    except Exception as error:  # the Hub client, requests and diffusers raise a dozen unrelated classes here
        if "`safetensors` weights" in str(error):
            raise pickled(name_or_path, name_or_path) from error
        raise DiffTuneError(
            f"{name_or_path} is neither a folder with a pipeline nor a model that can be had from the Hub:"
            f" {first_sentence(error)}."
        ) from error
