# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which of a model's own parameters an adapter trains."""

from fnmatch import fnmatchcase

import torch

from ..errors import DiffTuneError
from .settings import NAMED, AdapterSettings


def own_parameters(model: torch.nn.Module, settings: AdapterSettings, what: str) -> dict[str, torch.nn.Parameter]:
    """The parameters of the pretrained model that train, by the name they have in it, in the model's order; the model is frozen
    but for what an adapter added.

    Raises:
        DiffTuneError: No parameter fits a pattern of the settings.
    """
    known = {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad  # those that do are the adapter's
    }
    patterns = settings.always_trained
    if settings.kind == NAMED:
        patterns = (*patterns, *settings.train_parameters)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise DiffTuneError(
                f"None of the {len(known)} parameters of the {what} has a name like {pattern}; the first is {next(iter(known))}."
            )
    of_norms: set[str] = set()
    if settings.kind == "difffit":
        of_norms = {
            f"{name}.{each}" for name, norm in norms(model).items() for each, _ in norm.named_parameters(recurse=False)
        }
    biases = settings.kind in ("difffit", "bitfit")
    return {
        name: parameter
        for name, parameter in known.items()
        if (biases and name.rpartition(".")[2] == "bias")
        or name in of_norms
        or any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def norms(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The normalisation layers, by name. Such a layer is known by the name of its class: there are many classes."""
    return {name: module for name, module in model.named_modules() if "Norm" in type(module).__name__}


def embedding_tables(model: torch.nn.Module) -> set[str]:
    """The names of the weights of embeddings, of which few rows train."""
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
