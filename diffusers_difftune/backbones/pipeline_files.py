# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a pretrained pipeline: which of them are read, what is in them, and copying them untouched."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import DiffTuneError, first_sentence


PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# What a component has beside weights: configs, vocabularies, the model of a tokenizer.
PLAIN_FILES = (".json", ".txt", ".model")
# model.safetensors, model.fp16-00001-of-00002.safetensors, model.safetensors.index.fp16.json …
WEIGHT_FILE = re.compile(
    r"[^.]+?(\.(?P<variant>[^.]+?))?(-\d{5}-of-\d{5})?\.(?P<suffix>safetensors|bin)(\.index(\.(?P<index_variant>[^.]+))?\.json)?"
)
# How transformers' configs ask to be loaded in half precision.
HALF_PRECISION = re.compile(r'("(?:torch_)?dtype": *)"b?float16"')


def weight_files(component: Path, variant: str | None = None) -> list[Path]:
    """The weight files of a component that loading this variant reads, sorted; the plain ones where there are none of the variant,
    as diffusers has it. Only safetensors are ever read."""
    found = {path: WEIGHT_FILE.fullmatch(path.name) for path in sorted(component.iterdir())}
    found = {path: match for path, match in found.items() if match and match["suffix"] == "safetensors"}
    for wanted in (variant, None):
        chosen = [path for path, match in found.items() if (match["variant"] or match["index_variant"]) == wanted]
        if chosen:
            return chosen
    return []


def tensors_in(component: Path, variant: str | None = None) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of the tensors in a component's weight files, such as `("F32", [320, 4, 3, 3])`, by their headers.

    Raises:
        DiffTuneError: There are no weights, or only pickles, or a file is damaged or missing.
    """
    files = weight_files(component, variant) if component.is_dir() else []
    if not files:
        pickles = sorted(path.name for path in component.glob("*") if path.suffix in PICKLES)
        if pickles:
            raise pickled(f"{component} has {pickles[0]} and no safetensors", "OLD")
        others = component.is_dir() and any(WEIGHT_FILE.fullmatch(path.name) for path in component.iterdir())
        hint = " that load without --variant" if others and not variant else ""
        raise DiffTuneError(f"{component} has no weights{hint}.")
    names, found = {file.name for file in files}, {}
    for file in files:
        try:
            if file.suffix == ".json":  # says which file of several has which tensor
                listed = set(json.loads(file.read_text())["weight_map"].values())
                if missing := sorted(map(str, listed - names)):
                    raise DiffTuneError(f"{file} names {missing[0]}, which is not there.")
                continue
            with safe_open(file, "pt") as opened:  # checks that the header and the file's length agree
                for name in opened.keys():  # noqa: SIM118  (it is no dictionary)
                    tensor = opened.get_slice(name)
                    found[name] = (tensor.get_dtype(), tensor.get_shape())
        except DiffTuneError:
            raise
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DiffTuneError(f"{file} is damaged: {first_sentence(error)}.") from error
    return found


def check_tensors(
    component: Path, tensors: dict[str, tuple[str, list[int]]], model: torch.nn.Module, whole: bool = True
) -> None:
    """Refuses weights, as [`tensors_in`] found them in a folder, that are not those of a model.

    Those of a VAE or a text encoder need not be `whole`: old files have other names for some, which the libraries know.
    """
    for name, parameter in model.named_parameters():
        if name not in tensors:
            if whole:  # it would start at random
                raise DiffTuneError(f"{component} lacks weights that its config.json asks for: {name} for one.")
            continue
        dtype, shape = tensors[name]
        if shape != list(parameter.shape):
            raise DiffTuneError(
                f"{component} has other weights than its config.json says: {name} has the shape {shape}, not"
                f" {list(parameter.shape)}."
            )
        if not dtype.startswith(("F", "BF")):
            raise DiffTuneError(f"{component} has weights that are no weights: {name} holds {dtype}.")


def pickled(found: str, name: str) -> DiffTuneError:
    """Weights that come as a pickle."""
    return DiffTuneError(
        f"{found}: its weights are a pickle, which can run code when it is loaded; if you trust it, save it anew, with"
        f' DiffusionPipeline.from_pretrained("{name}").save_pretrained("NEW"), and use that.'
    )


def own_variant(component: Path, variant: str | None) -> str | None:
    """The variant to load a component with: pipelines load the plain weights where a variant is missing, models alone
    refuse to."""
    return variant if weight_files(component, variant) != weight_files(component) else None


def copy_components(
    folder: Path, output: Path, variant: str | None, leave_out: str, replaced: Mapping[str, Path]
) -> None:
    """Copies a pipeline's files, byte for byte, all but one component; `replaced` has the folders of those that are elsewhere.

    Weights of a variant lose the variant's name, so that the copy loads without naming it. A config that asks for half
    precision is made to ask for float32, which is what the trained component is in: a pipeline of both does not run.
    """
    index = json.loads((folder / "model_index.json").read_text())
    output.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "model_index.json", output / "model_index.json")
    for component in index:
        source, target = replaced.get(component, folder / component), output / component
        if component == leave_out or not source.is_dir():
            continue
        target.mkdir(exist_ok=True)
        chosen = weight_files(source, variant)
        for file in sorted(path for path in source.iterdir() if path.is_file()):
            if file in chosen and variant:
                renamed = target / file.name.replace(f".{variant}", "")
                if file.suffix == ".json":  # the list of a sharded model's files has their names in it
                    renamed.write_text(file.read_text().replace(f".{variant}", ""))
                else:
                    shutil.copyfile(file, renamed)
            elif file.name == "config.json" and HALF_PRECISION.search(text := file.read_text()):
                (target / file.name).write_text(HALF_PRECISION.sub(r'\1"float32"', text))
            elif file in chosen or (file.suffix in PLAIN_FILES and not WEIGHT_FILE.fullmatch(file.name)):
                shutil.copyfile(file, target / file.name)


def set_scheduler_prediction_type(folder: Path, prediction_type: str) -> None:
    """Writes the prediction type a model was tuned with into its scheduler's config, so that sampling agrees."""
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text()) | {"prediction_type": prediction_type}
    file.write_text(json.dumps(config, indent=2) + "\n")
