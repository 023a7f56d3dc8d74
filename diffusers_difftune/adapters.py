# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""What trains: the whole denoiser, or a LoRA on it; [`ControlBranch`] in control.py is the third. Each knows how to call
what it trains, and how to save it, in a checkpoint and as a result."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from diffusers.training_utils import EMAModel, cast_training_params
from diffusers.utils import convert_state_dict_to_diffusers, convert_unet_state_dict_to_peft
from peft import LoraConfig, set_peft_model_state_dict
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

from .backbones import Backbone
from .backbones.files import copy_components, set_scheduler_prediction_type
from .errors import DiffTuneError, first_sentence


class Trained(Protocol):
    """What the training room asks of whatever trains; [`FullDenoiser`] documents each part.

    Attributes:
        result (`str`): What the result is: `"pipeline"`, `"lora"` or `"controlnet"`.
        model (`torch.nn.Module`): Has the parameters that train; the module that accelerate prepares.
    """

    result: str
    model: torch.nn.Module

    def parameters(self) -> list[torch.nn.Parameter]: ...
    def to(self, device: torch.device) -> None: ...
    def after_step(self) -> None: ...
    def predict(self, model, sample, timesteps, condition: dict[str, torch.Tensor]) -> torch.Tensor: ...
    def pretrained_model(self) -> tuple[torch.nn.Module, AbstractContextManager]: ...
    def use_final_weights(self) -> AbstractContextManager: ...
    def pipeline(self, device: torch.device, dtype: torch.dtype): ...
    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...
    def save_result(self, folder: Path) -> None: ...


class FullDenoiser:
    """Trains every weight of the denoiser, with an optional exponential moving average.

    Args:
        backbone ([`Backbone`]): The model family.
        denoiser (`torch.nn.Module`): The pretrained denoiser, float32.
        use_ema (`bool`, *optional*, defaults to `False`): Keep a moving average; it is what is validated and saved.
        foreach_ema (`bool`, *optional*, defaults to `False`): Use the foreach implementation of the average.
        offload_ema (`bool`, *optional*, defaults to `False`): Keep the average on the CPU, in pinned memory if there is
            a GPU, between steps.
        keep_pretrained (`bool`, *optional*, defaults to `False`): Keep a frozen copy of the pretrained denoiser.
    """

    result = "pipeline"

    def __init__(
        self,
        backbone: Backbone,
        denoiser: torch.nn.Module,
        use_ema: bool = False,
        foreach_ema: bool = False,
        offload_ema: bool = False,
        keep_pretrained: bool = False,
    ) -> None:
        self.backbone = backbone
        self.model = denoiser.requires_grad_(True)
        self.offload_ema = offload_ema
        self.ema: EMAModel | None = None
        if use_ema:
            # As upstream: of the pipeline's own weights, also if --non_ema_revision trains on from others.
            start = backbone.load_denoiser(dtype=denoiser.dtype).parameters()
            self.ema = EMAModel(start, model_cls=type(denoiser), model_config=denoiser.config, foreach=foreach_ema)
            if offload_ema and torch.cuda.is_available():
                self.ema.pin_memory()
        self.pretrained: torch.nn.Module | None = None
        if keep_pretrained:
            self.pretrained = backbone.load_denoiser(dtype=denoiser.dtype).requires_grad_(False).eval()

    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that train."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def to(self, device: torch.device) -> None:
        """Moves what is not the optimiser's business: the moving average and the frozen copy."""
        if self.ema is not None and not self.offload_ema:
            self.ema.to(device)
        if self.pretrained is not None:
            self.pretrained.to(device)

    def after_step(self) -> None:
        """Updates the moving average."""
        if self.ema is None:
            return
        device = next(self.model.parameters()).device
        if self.offload_ema:
            self.ema.to(device, non_blocking=True)
        self.ema.step(self.model.parameters())
        if self.offload_ema:
            self.ema.to("cpu", non_blocking=True)

    def predict(self, model, sample, timesteps, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        """The output for x_t of the model that trains, as accelerate prepared it."""
        return self.backbone.predict(model, sample, timesteps, condition)

    def pretrained_model(self) -> tuple[torch.nn.Module, nullcontext]:
        """The pretrained denoiser, and a context in which to call it."""
        return self.pretrained, nullcontext()

    def use_final_weights(self) -> "FinalWeights":
        """A context in which the denoiser has the weights that would be saved as the result."""
        return FinalWeights(self)

    def pipeline(self, device: torch.device, dtype: torch.dtype):
        """The whole pipeline with what trains in it, to make images with."""
        return self.backbone.pipeline(self.model, device, dtype)

    def save(self, folder: Path) -> None:
        """Writes `unet/`, and `unet_ema/` if there is an average, into a checkpoint."""
        self.model.save_pretrained(folder / self.backbone.denoiser_name)
        if self.ema is not None:
            self.ema.save_pretrained(folder / f"{self.backbone.denoiser_name}_ema")

    def load(self, folder: Path) -> None:
        """Reads what [`save`] wrote."""
        source = type(self.model).from_pretrained(folder / self.backbone.denoiser_name)
        self.model.load_state_dict(source.state_dict())
        if self.ema is not None:
            ema_folder = folder / f"{self.backbone.denoiser_name}_ema"
            if not ema_folder.is_dir():
                raise DiffTuneError(f"--use_ema is set, but the checkpoint {folder} was written without it.")
            averaged = {n: t for file in ema_folder.glob("*.safetensors") for n, t in load_file(file).items()}
            for (name, _), average in zip(self.model.named_parameters(), self.ema.shadow_params, strict=True):
                average.copy_(averaged[name])
            self.ema.optimization_step = type(self.model).load_config(ema_folder)["optimization_step"]

    def save_result(self, folder: Path) -> None:
        """Writes the whole pipeline, its other parts being copies of the pretrained pipeline's files."""
        copy_components(self.backbone.folder, folder, self.backbone.variant, leave_out=self.backbone.denoiser_name)
        if self.backbone.prediction_type is not None:
            set_scheduler_prediction_type(folder, self.backbone.prediction_type)
        with self.use_final_weights():
            self.model.save_pretrained(folder / self.backbone.denoiser_name)


class FinalWeights:
    """Swaps the moving average in on entry, and the raw weights back on exit."""

    def __init__(self, trained: FullDenoiser) -> None:
        self.trained = trained

    def __enter__(self) -> None:
        if self.trained.ema is not None:
            self.trained.ema.store(self.trained.model.parameters())
            self.trained.ema.copy_to(self.trained.model.parameters())

    def __exit__(self, *exception) -> None:
        if self.trained.ema is not None:
            self.trained.ema.restore(self.trained.model.parameters())


class LoraDenoiser:
    """Trains LoRA matrices on a frozen denoiser (Hu et al., 2021), by way of PEFT.

    Args:
        backbone ([`Backbone`]): The model family.
        denoiser (`torch.nn.Module`): The pretrained denoiser, in the precision it is to be frozen in.
        rank (`int`, *optional*, defaults to 4): Rank of the matrices.
        alpha (`float`, *optional*): Numerator of the scale alpha / rank; `None` is the rank.
        dropout (`float`, *optional*, defaults to 0.0): Dropout on the input of the LoRA layers, in [0, 1).
        target_modules (`list[str]`, *optional*): Names of the modules to adapt; `None` is the backbone's attention
            projections.

    Raises:
        DiffTuneError: No module has one of the names, or a value is out of range.
    """

    result = "lora"

    def __init__(
        self,
        backbone: Backbone,
        denoiser: torch.nn.Module,
        rank: int = 4,
        alpha: float | None = None,
        dropout: float = 0.0,
        target_modules: list[str] | None = None,
    ) -> None:
        self.backbone = backbone
        self.model = denoiser
        add_lora(denoiser, backbone, backbone.denoiser_name, rank, alpha, dropout, target_modules)

    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that train."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def to(self, device: torch.device) -> None:
        """Nothing beside the model itself."""

    def after_step(self) -> None:
        """Nothing to do: there is no moving average."""

    def predict(self, model, sample, timesteps, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        """The output for x_t of the model that trains, as accelerate prepared it."""
        return self.backbone.predict(model, sample, timesteps, condition)

    def pretrained_model(self) -> tuple[torch.nn.Module, "WithoutAdapter"]:
        """The denoiser, and a context that switches the LoRA layers off."""
        return self.model, WithoutAdapter(self.model)

    def use_final_weights(self) -> nullcontext:
        """The weights are always final."""
        return nullcontext()

    def pipeline(self, device: torch.device, dtype: torch.dtype):
        """The whole pipeline with what trains in it, to make images with."""
        return self.backbone.pipeline(self.model, device, dtype)

    def save(self, folder: Path) -> None:
        """Writes `pytorch_lora_weights.safetensors`, which `load_lora_weights` reads, alpha included."""
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.model))
        self.backbone.pipeline_class.save_lora_weights(
            save_directory=folder,
            unet_lora_layers={name: tensor.float() for name, tensor in layers.items()},
            unet_lora_adapter_metadata=self.model.peft_config["default"].to_dict(),
        )

    def load(self, folder: Path) -> None:
        """Reads what [`save`] wrote."""
        file = folder / "pytorch_lora_weights.safetensors"
        prefix = f"{self.backbone.denoiser_name}."
        layers = {name.removeprefix(prefix): tensor for name, tensor in load_file(file).items()}
        result = set_peft_model_state_dict(self.model, convert_unet_state_dict_to_peft(layers))
        missing = [name for name in result.missing_keys if "lora_" in name]
        if missing or result.unexpected_keys:
            raise DiffTuneError(
                f"{file} does not fit this run's LoRA ({len(missing)} tensors missing, {len(result.unexpected_keys)}"
                " unknown); use the --lora_target_modules it was trained with."
            )

    def save_result(self, folder: Path) -> None:
        """Writes `pytorch_lora_weights.safetensors`."""
        self.save(folder)


def add_lora(
    model: torch.nn.Module,
    backbone: Backbone,
    name: str,
    rank: int,
    alpha: float | None,
    dropout: float,
    target_modules: list[str] | None,
) -> None:
    """Freezes a model and adds LoRA matrices that train, in float32; see [`LoraDenoiser`] for the arguments."""
    model.requires_grad_(False)
    wanted = list(target_modules or backbone.lora_target_modules)
    modules = [f".{module}" for module, _ in model.named_modules()]
    unknown = [each for each in wanted if not any(module.endswith(f".{each}") for module in modules)]
    hint = f"the attention projections are {' '.join(backbone.lora_target_modules)}"
    if unknown:
        raise DiffTuneError(
            f"--lora_target_modules {' '.join(wanted)}: there is no module {', '.join(unknown)} in the {name}; {hint}."
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        lora_dropout=dropout,
        init_lora_weights="gaussian",
        target_modules=wanted,
    )
    try:
        model.add_adapter(config)
    except ValueError as error:
        raise DiffTuneError(f"--lora_target_modules {' '.join(wanted)}: {first_sentence(error)}; {hint}.") from error
    # Half-precision LoRA weights would lose small updates, whichever half precision it is.
    cast_training_params(model, dtype=torch.float32)


class WithoutAdapter:
    """Switches the adapter off on entry and on again on exit."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.model.disable_adapters()

    def __exit__(self, *exception) -> None:
        self.model.enable_adapters()
