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
"""Training LoRA matrices on a frozen denoiser."""

from contextlib import nullcontext
from pathlib import Path

import torch
from diffusers.training_utils import cast_training_params
from diffusers.utils import convert_state_dict_to_diffusers, convert_unet_state_dict_to_peft
from peft import LoraConfig, set_peft_model_state_dict
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

from ..backbones import Backbone
from ..errors import DiffTuneError, first_sentence


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
