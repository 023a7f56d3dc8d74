# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Layers of PEFT beside the frozen layers of a model: adding them, switching them off, merging them."""

import warnings

import torch
from peft import BOFTConfig, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer

from ..errors import DiffTuneError, first_sentence
from .settings import AdapterSettings


NAME = "default"  # what PEFT calls an adapter that nobody named
OF_EMBEDDINGS = ("lora", "dora", "oft")  # the kinds that PEFT has for embeddings, too


def peft_config(settings: AdapterSettings) -> PeftConfig:
    """The config of PEFT. What a version of PEFT may choose otherwise is written out where it matters to a saved file."""
    modules, rank = list(settings.target_modules), settings.rank
    if settings.kind in ("lora", "dora"):
        return LoraConfig(
            r=rank,
            lora_alpha=settings.scale_numerator,
            lora_dropout=settings.dropout,
            init_lora_weights="gaussian",
            use_dora=settings.kind == "dora",
            target_modules=modules,
        )
    if settings.kind in ("loha", "lokr"):
        config = LoHaConfig if settings.kind == "loha" else LoKrConfig
        return config(r=rank, alpha=settings.scale_numerator, target_modules=modules)
    if settings.kind == "oft":
        return OFTConfig(
            r=0, oft_block_size=rank, use_cayley_neumann=True, num_cayley_neumann_terms=5, target_modules=modules
        )
    # With more butterfly factors PEFT needs a compiled extension, and makes other layers where there is none.
    return BOFTConfig(boft_block_size=rank, boft_n_butterfly_factor=1, target_modules=modules)


def add_layers(model: torch.nn.Module, settings: AdapterSettings, what: str) -> None:
    """Adds layers that train, and that change nothing before they have.

    Raises:
        DiffTuneError: The model has no such module, or one that this kind cannot adapt.
    """
    check_modules(model, settings, what)
    try:
        with warnings.catch_warnings():
            # Of an extension that the config above makes no use of, and of what is an error below.
            warnings.filterwarnings("ignore", "Failed to load the CUDA|Setting boft_n|Invalid `oft_block_size`")
            inject_adapter_in_model(peft_config(settings), model, NAME)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DiffTuneError(
            f"A {settings.kind} of rank {settings.rank} cannot be had there: {first_sentence(error)}."
        ) from error
    if hasattr(model, "_hf_peft_config_loaded"):
        model._hf_peft_config_loaded = True  # so that diffusers' own calls about adapters work on it, too
    for name, layer in layers(model):
        if settings.kind == "oft" and layer.oft_block_size[NAME] != settings.rank:  # PEFT takes the nearest that does
            raise DiffTuneError(
                f"Blocks of {settings.rank} do not divide the {layer.in_features} inputs of {name}; give a --rank that does."
            )


def check_modules(model: torch.nn.Module, settings: AdapterSettings, what: str) -> None:
    """Checks that there are modules of the names in the settings, and that each can get a layer of the kind. PEFT passes over
    a name that is not there if another is, and has an error of its own for each kind."""
    named = {
        each: [name for name, _ in model.named_modules() if name and f".{name}".endswith(f".{each}")]
        for each in settings.target_modules
    }
    if unknown := [each for each, names in named.items() if not names]:
        raise DiffTuneError(f"There is no module {', '.join(unknown)} in the {what}.")
    for each, names in named.items():
        for name in names:
            module = model.get_submodule(name)
            if not can_be_adapted(module, settings.kind):
                kernels = " with a kernel of 1" if settings.kind == "oft" else ""
                raise DiffTuneError(
                    f"The {what}'s {name} is of the class {type(module).__name__}, and {settings.kind} is for Linear and"
                    f" Conv2d{kernels}; name {instead_of(each, module, settings.kind)}."
                )


def can_be_adapted(module: torch.nn.Module, kind: str) -> bool:
    """Whether PEFT has a layer of this kind for a module, and one that changes nothing before it has trained."""
    if isinstance(module, BaseTunerLayer):  # of another adapter, beside which there is room
        module = module.get_base_layer()
    if isinstance(module, torch.nn.Conv2d):
        # Of a larger kernel PEFT's OFT rotates overlapping patches and adds them up, which is no rotation of the weight.
        return kind != "oft" or module.kernel_size == (1, 1)
    return isinstance(module, torch.nn.Linear) or (isinstance(module, torch.nn.Embedding) and kind in OF_EMBEDDINGS)


def instead_of(each: str, module: torch.nn.Module, kind: str) -> str:
    """What to name in place of a module that cannot be adapted: the layers in it that can, a few of them if there are many."""
    inside = [
        f"{each}.{name}"
        for name, layer in module.named_modules()
        if can_be_adapted(layer, kind) and not isinstance(layer, torch.nn.Embedding)  # class tables train anyway
    ]
    if not inside:
        return f"such layers in place of {each}"
    return f"{', '.join(inside[:4])}{' …' if len(inside) > 4 else ''} in place of {each}"


def layers(model: torch.nn.Module) -> list[tuple[str, BaseTunerLayer]]:
    """The layers of PEFT in a model, by name."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def switch_layers(model: torch.nn.Module, on: bool) -> None:
    """Lets the layers of PEFT have their effect, or none."""
    for _, layer in layers(model):
        layer.enable_adapters(on)


def merge_layers(model: torch.nn.Module) -> None:
    """Works the layers of PEFT into the weights beside them, and takes them out."""
    for name, layer in layers(model):
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    for module in model.modules():
        if hasattr(module, "peft_config"):
            del module.peft_config
        if getattr(module, "_hf_peft_config_loaded", False):
            module._hf_peft_config_loaded = False
