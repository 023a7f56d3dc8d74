# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a fine-tuned model belongs to a pretrained one: same architecture, same noise levels, same prediction. Nothing
here loads weights of models."""

import json
from pathlib import Path
from typing import Any

import torch

from ..adapters.adapter import Adapter
from ..adapters.files import SavedAdapter
from ..backbones import Backbone
from ..backbones.pipeline_files import check_tensors as check_headers
from ..backbones.pipeline_files import tensors_in
from ..backbones.scheduler import training_scheduler
from ..errors import DiffTuneError, first_sentence, quoted
from ..objective.noise_levels import NoiseLevels


def check_adapter(backbone: Backbone, folder: Path, saved: SavedAdapter, tensors: dict[str, torch.Tensor]) -> None:
    """Refuses an adapter for another model."""
    empty = backbone.empty_denoiser()
    if saved.component != backbone.denoiser_name or saved.model_class not in (None, type(empty).__name__):
        raise DiffTuneError(
            f"{folder} is an adapter for a {saved.model_class or saved.component}, and the pretrained pipeline's denoiser"
            f" is a {type(empty).__name__}; name the pipeline it was trained on."
        )
    refuse_other_prediction(folder, saved.pipeline.get("prediction_type"), backbone)
    check_tensors(empty, folder, saved, tensors)


def check_denoiser(backbone: Backbone, folder: Path) -> None:
    """Refuses a denoiser of another architecture, prediction type or noise schedule, or with damaged weights."""
    component = folder / backbone.denoiser_name
    tensors = tensors_in(component, backbone.variant)
    empty = backbone.empty_denoiser()
    own_empty = without_weights(type(empty), component)
    refuse_other_shapes(folder, shapes_of(own_empty), shapes_of(empty))
    check_headers(component, tensors, own_empty)
    file = folder / "scheduler" / "scheduler_config.json"
    if not file.is_file():  # a checkpoint, whose run has it
        return
    try:
        own: Any = training_scheduler(file.parent)
    except DiffTuneError:
        raise
    except Exception as error:  # it is damaged, or has values that no scheduler works with
        raise DiffTuneError(f"{file} cannot be read: {first_sentence(error)}.") from error
    refuse_other_prediction(folder, own.config.prediction_type, backbone)
    if not torch.equal(NoiseLevels.of(own).signal, NoiseLevels.of(backbone.noise_scheduler).signal):
        raise DiffTuneError(
            f"{folder} was trained on other noise levels than the pretrained pipeline (see the betas of both schedulers), so"
            " that neither losses nor sampling steps of the two belong together."
        )


def check_controlnet(backbone: Backbone, folder: Path) -> None:
    """Refuses a ControlNet whose copy of the denoiser is of another architecture, or with damaged weights."""
    tensors = tensors_in(folder)
    assert backbone.controlnet is not None
    model_class = backbone.controlnet.model_class
    empty = without_weights(model_class, folder)
    check_copied(backbone, folder, shapes_of(empty))
    check_headers(folder, tensors, empty)


def check_controlnet_adapter(
    backbone: Backbone, folder: Path, saved: SavedAdapter, tensors: dict[str, torch.Tensor]
) -> None:
    """Refuses an adapter of a ControlNet for another model. Its run wrote down the config of that ControlNet."""
    model_class: Any = backbone.controlnet and backbone.controlnet.model_class
    if model_class is None or saved.model_class != model_class.__name__:
        raise DiffTuneError(
            f"{folder} is an adapter for a {saved.model_class}, which does not go with a"
            f" {backbone.pipeline_class.__name__}; name the pipeline it was trained with."
        )
    place = next((each for each in (folder, folder.resolve().parent) if (each / "config.json").is_file()), None)
    if place is None:
        raise DiffTuneError(f"{folder} lacks the config.json of its ControlNet; name the folder of its run.")
    empty = without_weights(model_class, place)
    check_copied(backbone, folder, shapes_of(empty))
    check_tensors(empty, folder, saved, tensors)


def check_tensors(empty: torch.nn.Module, folder: Path, saved: SavedAdapter, tensors: dict[str, torch.Tensor]) -> None:
    """Refuses an adapter whose tensors do not fit this model."""
    try:
        Adapter(empty, saved.settings, saved.component).check(tensors)
    except DiffTuneError as error:
        raise DiffTuneError(
            f"{folder} does not fit the pretrained {saved.component}: {first_sentence(error)}; name the"
            " pipeline it was trained on."
        ) from error


def check_copied(backbone: Backbone, folder: Path, found: dict[str, list[int]]) -> None:
    """Refuses a ControlNet whose copy of the denoiser is of another architecture."""
    new = backbone.controlnet.new_layers if backbone.controlnet else ()
    copied = {name: shape for name, shape in found.items() if not name.startswith(new)}
    refuse_other_shapes(folder, copied, shapes_of(backbone.empty_denoiser()), whole=False)


def check_run(folder: Path, fingerprint: str) -> None:
    """Refuses what a run of ours trained from weights with another fingerprint, where a `run_config.json` in or above the
    folder says from which."""
    found, flags = section(run_config(folder), "settings").get("model"), run_flags(folder)
    # the name of a tokenizer goes into the fingerprint, too
    if isinstance(found, str) and found != fingerprint and flags.get("tokenizer_name") is None:
        raise DiffTuneError(
            f"{folder} was trained from other weights than those of the pretrained pipeline (fingerprint {found[:12]}, not"
            f" {fingerprint[:12]}); name {flags.get('pretrained_model_name_or_path')}, as it was then, with the"
            " --revision, --variant and --pretrained_vae_model_name_or_path of that run."
        )


def run_flags(folder: Path) -> dict[str, Any]:
    """The flags of the run that made a model; none of a model that is not of a run of ours."""
    return section(run_config(folder), "flags")


def run_config(folder: Path) -> dict[str, Any]:
    """The `run_config.json` of the run that made a model; empty if there is none."""
    for place in (folder, *folder.resolve().parents[:2]):  # a checkpoint's ControlNet is two folders down
        if (place / "run_config.json").is_file():
            return read_json(place / "run_config.json")
    return {}


def section(content: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of what a file says; empty if it does not say it, as others' files of the same name do not."""
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def saved_classes(folder: Path) -> dict[int, str] | None:
    """The classes of a fine-tuned pipeline; those of a checkpoint are its run's, which may not be at its end."""
    for place in (folder, folder.parent):
        for file, default in ((place / "model_index.json", {}), (place / "run_config.json", None)):
            if file.is_file():
                return class_names(file, read_json(file).get("id2label") or default)
    return None


def class_names(file: Path, found: Any) -> dict[int, str] | None:
    """The names of classes by their ids, from the `id2label` of a file; `None` if it has none."""
    if found is None:
        return None
    # no class has an id of ten digits, and Python does not read one of thousands
    if isinstance(found, dict) and all(
        key.isdecimal() and len(key) < 10 and isinstance(name, str) for key, name in found.items()
    ):
        return {int(key): name for key, name in found.items()}
    raise DiffTuneError(
        f"The id2label of {file} is {quoted(found)}; it must give each id its name, such as"
        ' {"0": "ash", "1": "elm"}.'
    )


def read_json(file: Path) -> dict[str, Any]:
    """What a `run_config.json` or `model_index.json` says."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds {quoted(content)}, not a dictionary")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise DiffTuneError(
            f"{file} cannot be read: {first_sentence(error)}; restore it, or name a folder without it."
        ) from error


def refuse_other_prediction(folder: Path, found: str | None, backbone: Backbone) -> None:
    """Refuses a model that predicts something else than the pretrained one."""
    expected = backbone.noise_scheduler.config.prediction_type
    if found not in (None, expected):
        raise DiffTuneError(
            f"{folder} predicts {found} and the pretrained pipeline {expected}, so that neither losses nor sampling steps of the"
            " two belong together."
        )


def without_weights(model_class: Any, component: Path) -> torch.nn.Module:
    """A model of a component's config, to look at the shapes of its weights."""
    try:
        config = model_class.load_config(component)
    except (OSError, ValueError) as error:
        raise DiffTuneError(f"{component / 'config.json'} cannot be read: {first_sentence(error)}.") from error
    try:
        with torch.device("meta"):
            return model_class.from_config(config)
    except (TypeError, ValueError) as error:
        raise DiffTuneError(f"The config is of no {model_class.__name__}: {first_sentence(error)}.") from error


def shapes_of(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}


def refuse_other_shapes(
    folder: Path, found: dict[str, list[int]], expected: dict[str, list[int]], whole: bool = True
) -> None:
    """Refuses another architecture: weights that the pretrained denoiser has not, or (of a whole one) has besides."""
    names = [*found, *expected] if whole else [*found]
    different = next((name for name in names if found.get(name) != expected.get(name)), None)
    if different is not None:
        was, now = (f"of shape {x[different]}" if different in x else "missing" for x in (expected, found))
        raise DiffTuneError(
            f"{folder} is of another architecture than the pretrained pipeline: {different} is {now}, and in the pretrained"
            f" denoiser it is {was}; name the pipeline that the fine-tuning began with."
        )
