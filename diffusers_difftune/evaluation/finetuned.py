# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What was fine-tuned from a pretrained pipeline: its denoiser, an adapter on it, or a ControlNet beside it. Each knows how
it is called beside the pretrained denoiser; what can be wrong is found before weights are loaded."""

import json
from pathlib import Path
from typing import Any

import torch

from ..adapters.adapter import ROWS
from ..adapters.files import CONFIG_FILE, LORA_FILE, TENSOR_FILE, SavedAdapter, read_adapter
from ..adapters.loading import load_adapter, merge_adapter
from ..backbones import Backbone, family_of, pipeline_folder
from ..backbones.classes import ids_by_name
from ..backbones.pipeline_files import tensors_in, weight_files
from ..errors import DiffTuneError, first_sentence
from ..io.hub import folder_of, pinned
from .compatibility import (
    check_adapter,
    check_controlnet,
    check_controlnet_adapter,
    check_denoiser,
    class_names,
    run_flags,
    saved_classes,
)
from .swap import without_class, without_inputs


class Finetuned:
    """A fine-tuned denoiser beside the pretrained one: a whole one, or the pretrained one with an adapter.

    Args:
        backbone ([`Backbone`]): The pretrained pipeline.
        folder (`Path`): The run folder, a checkpoint in it, or an adapter's folder.

    Attributes:
        kind (`str`): `"full"`, the kind of the adapter (`"lora"`, `"difffit"` …), or `"controlnet"`.
        num_trained (`int`, *optional*): Parameters of the adapter; `None` of a whole model.
        knows_classes (`bool`): Whether both models mean the same by a prompt; not if they have class ids for prompts and
            different classes.
        class_ids (`dict[str, int]`, *optional*): The fine-tuned model's classes by name, of a class-conditional family.
        pretrained (`torch.nn.Module`): The pretrained denoiser, once [`load`] was called.
        model (`torch.nn.Module`): The fine-tuned one.
        pipeline (`DiffusionPipeline`): Samples with the fine-tuned one.

    Raises:
        DiffTuneError: It is of another architecture, another prediction type or another noise schedule, or has no weights,
            or a file of it is damaged.
    """

    kind = "full"
    num_trained: int | None = None
    knows_classes = True
    class_ids: dict[str, int] | None = None
    pretrained: torch.nn.Module
    model: torch.nn.Module
    pipeline: Any

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        self.backbone, self.folder = backbone, folder
        self.is_adapter = holds_adapter(folder)
        if self.is_adapter:
            saved, tensors = read_adapter(folder)
            # the indices of a table's rows are no parameters
            self.num_trained = sum(tensor.numel() for name, tensor in tensors.items() if not name.endswith(ROWS))
            self.check_adapter(saved, tensors)
        else:
            self.check()
        if backbone.classes is not None:
            facts = folder / CONFIG_FILE
            own = class_names(facts, saved.pipeline.get("id2label")) if self.is_adapter else saved_classes(folder)
            self.knows_classes = own == backbone.classes.id2label
            self.class_ids = None if own is None else ids_by_name(own)

    def check_adapter(self, saved: SavedAdapter, tensors: dict[str, torch.Tensor]) -> None:
        check_adapter(self.backbone, self.folder, saved, tensors)
        self.kind = saved.settings.kind

    def check(self) -> None:
        check_denoiser(self.backbone, self.folder)

    def load(self, device: torch.device) -> None:
        """Loads both models in float32, and the pipeline around the fine-tuned one."""
        self.pretrained = self.backbone.load_denoiser().requires_grad_(False).eval().to(device)
        self.pipeline = self.load_pipeline(device)
        if self.is_adapter:
            load_adapter(self.pipeline, self.folder)
        self.model = self.pipeline.components[self.component]

    def load_pipeline(self, device: torch.device) -> Any:
        """The pipeline of the whole model, or of what the adapter goes on."""
        start = self.backbone.load_denoiser(None if self.is_adapter else self.folder).requires_grad_(False).eval()
        return self.backbone.pipeline(start, device, torch.float32)

    @property
    def component(self) -> str:
        """The component of the pipeline that was fine-tuned."""
        return self.backbone.denoiser_name

    def predict(
        self, model: Any, sample: torch.Tensor, timesteps: torch.Tensor, condition: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The fine-tuned model's output for x_t."""
        return self.backbone.predict(model, sample, timesteps, condition)

    def stand_in(self) -> torch.nn.Module:
        """The pretrained model in the fine-tuned one's place: called as the pipeline calls that."""
        if self.knows_classes or self.backbone.classes is None:
            return self.pretrained
        return without_class(self.pretrained, self.backbone.classes.null)

    def weights(self) -> dict[str, torch.Tensor]:
        """The fine-tuned weights by the pretrained denoiser's names. An adapter is merged into them, for good: rounding
        aside, the model does the same as before."""
        merge_adapter(self.pipeline)
        return dict(self.model.named_parameters())

    def files(self) -> list[Path]:
        """The files that the model is in."""
        if self.is_adapter:
            names = (CONFIG_FILE, TENSOR_FILE, LORA_FILE)
            return [self.folder / name for name in names if (self.folder / name).is_file()]
        return self.weight_files()

    def weight_files(self) -> list[Path]:
        return weight_files(self.folder / self.component, self.backbone.variant)


class FinetunedControlNet(Finetuned):
    """A ControlNet beside the pretrained denoiser, which it left as it was. Both together are the fine-tuned model.

    Its folder is what `ControlNetModel.from_pretrained` loads, or has an adapter that was trained on a ControlNet.
    `pretrained` is the bare denoiser and `model` the ControlNet.
    """

    kind = "controlnet"
    component = "controlnet"

    @property
    def family(self) -> Any:
        """What the family has for ControlNets; without it the checks refuse the folder."""
        return self.backbone.controlnet

    def check_adapter(self, saved: SavedAdapter, tensors: dict[str, torch.Tensor]) -> None:
        check_controlnet_adapter(self.backbone, self.folder, saved, tensors)
        start = self.adapted()
        if start is not None and Path(start).is_dir():
            tensors_in(Path(start))

    def check(self) -> None:
        check_controlnet(self.backbone, self.folder)

    def load_pipeline(self, device: torch.device) -> Any:
        start = self.adapted() if self.is_adapter else self.folder
        if start is None:  # the adapter was trained on a copy of the denoiser, and has all that is not in that
            controlnet = self.family.new(self.pretrained)
        else:
            try:
                controlnet = self.family.model_class.from_pretrained(start, dtype=torch.float32, use_safetensors=True)
            except OSError as error:  # the one that an adapter was trained on may be anywhere
                raise DiffTuneError(
                    f"{self.folder}: its ControlNet {start} cannot be loaded: {first_sentence(error)}."
                ) from error
        controlnet = controlnet.requires_grad_(False).eval()
        return self.backbone.pipeline(self.pretrained, device, torch.float32, controlnet=controlnet)

    def adapted(self) -> str | None:
        """The ControlNet that an adapter was trained on; `None` if that was made from the denoiser."""
        name = run_flags(self.folder).get("controlnet_model_name_or_path")
        return name if isinstance(name, str) else None

    def predict(
        self, model: Any, sample: torch.Tensor, timesteps: torch.Tensor, condition: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The pair's output for x_t, under the control images in `condition["control"]`."""
        return self.backbone.predict(self.pretrained, sample, timesteps, condition, model)

    def stand_in(self) -> torch.nn.Module:
        """The bare denoiser, which does not hear the ControlNet."""
        return without_inputs(self.pretrained, self.family.inputs)

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the layers that began as a copy of the denoiser's, by their names there. The ControlNet's own
        layers have nothing to be compared with."""
        new = self.family.new_layers
        return {name: weight for name, weight in super().weights().items() if not name.startswith(new)}

    def weight_files(self) -> list[Path]:
        return weight_files(self.folder)


def open_finetuned(backbone: Backbone, name: str, cache_dir: str | None = None, token: str | None = None) -> Finetuned:
    """Finds out what was fine-tuned, and checks that it belongs to the pretrained pipeline. Loads no weights of models.

    Args:
        backbone ([`Backbone`]): The pretrained pipeline.
        name (`str`): A folder or an id on the Hub: a pipeline, a checkpoint of a run, an adapter or a ControlNet.
        cache_dir (`str`, *optional*): Where downloads are kept.
        token (`str`, *optional*): Token for the Hub.

    Returns:
        [`Finetuned`]: The model, which may be a [`FinetunedControlNet`].

    Raises:
        DiffTuneError: There is no model, or it was not fine-tuned from one like this.
    """
    folder = local_folder(name, cache_dir, token)
    if holds_adapter(folder):
        of_controlnet = read_adapter(folder)[0].component == "controlnet"
        return FinetunedControlNet(backbone, folder) if of_controlnet else Finetuned(backbone, folder)
    index = folder / "model_index.json"
    if index.is_file():
        found = family_of(index).pipeline_class.__name__
        if found != backbone.pipeline_class.__name__:
            raise DiffTuneError(
                f"{name} is a {found} and the pretrained pipeline a {backbone.pipeline_class.__name__}; name the pipeline that"
                " the fine-tuning began with."
            )
    if (folder / backbone.denoiser_name / "config.json").is_file():
        return Finetuned(backbone, folder)
    for place in (folder, folder / "controlnet"):
        if backbone.controlnet and class_name(place / "config.json") == backbone.controlnet.model_class.__name__:
            return FinetunedControlNet(backbone, place)
    raise DiffTuneError(
        f"{name} has neither a {backbone.denoiser_name}, nor an adapter, nor a ControlNet for a"
        f" {backbone.pipeline_class.__name__}; name the output_dir of a training run, or a checkpoint in it."
    )


def local_folder(name: str, cache_dir: str | None, token: str | None) -> Path:
    """The folder of a fine-tuned model; one on the Hub is downloaded first."""
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists():
        raise DiffTuneError(f"{name} is a file; name the folder it is in.")
    where: dict[str, Any] = {"cache_dir": cache_dir, "token": token}
    try:
        pinned(name, file="model_index.json", **where)
        return pipeline_folder(name, **where)
    except DiffTuneError:
        raise
    except Exception:  # not a pipeline, or nothing at all: the next download says
        return folder_of(name, "a model", cache_dir=cache_dir, token=token)


def holds_adapter(folder: Path) -> bool:
    """Whether the files of an adapter are in a folder."""
    return any((folder / name).is_file() for name in (CONFIG_FILE, LORA_FILE))


def class_name(config: Path) -> str | None:
    """The class that a config is of, if there is one."""
    try:
        return json.loads(config.read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
