# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""An adapter on a model, whichever the model is: a denoiser or a ControlNet."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import cast_training_params

from ..errors import DiffTuneError
from .parameters import embedding_tables, norms, own_parameters
from .peft_layers import NAME, add_layers, switch_layers
from .scales import SCALE, add_scales
from .settings import PEFT_KINDS, AdapterSettings


ROWS = ".rows"  # ends the name under which the indices of a table's saved rows are
ADAPTED = "_difftune_adapted"  # set on a model of whose own parameters some are an adapter's, which nothing else shows


class Adapter:
    """Freezes a model but for an adapter: layers of PEFT, some of the model's own parameters, or both.

    Args:
        model (`torch.nn.Module`): The pretrained model, in the precision it is to be frozen in; changed in place.
        settings ([`AdapterSettings`]): What trains.
        what (`str`, *optional*, defaults to `"denoiser"`): What the model is called in messages.
        keep_pretrained (`bool`, *optional*, defaults to `False`): Keep a copy of the pretrained parameters that train, so
            that [`off`] can bring them back.
        kept_rows (`int`, *optional*, defaults to 0): Rows of embedding tables, the first ones, that are saved also if
            they did not change.
        training (`bool`, *optional*, defaults to `True`): Make what trains float32.

    Raises:
        DiffTuneError: The model has no module or parameter of a name in the settings, or one that cannot be adapted.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        settings: AdapterSettings,
        what: str = "denoiser",
        keep_pretrained: bool = False,
        kept_rows: int = 0,
        training: bool = True,
    ) -> None:
        self.model, self.settings, self.kept_rows = model, settings, kept_rows
        model.requires_grad_(False)
        self.added: dict[str, torch.nn.Parameter] = {}
        if settings.kind in PEFT_KINDS:
            add_layers(model, settings, what)
            trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
            self.added = {name.replace(f".{NAME}", ""): parameter for name, parameter in trained}
        scales = add_scales(model, what) if settings.kind == "difffit" else {}
        self.own = own_parameters(model, settings, what) | scales
        for parameter in self.own.values():
            parameter.requires_grad_(True)
        if self.own:
            setattr(model, ADAPTED, True)
        if training:  # in half precision small updates would be lost, whichever half precision it is
            cast_training_params(model, dtype=torch.float32)
            for norm in norms(model).values():  # which takes its weight and bias in one precision
                if any(parameter.requires_grad for parameter in norm.parameters(recurse=False)):
                    norm.float()
        self.tables = embedding_tables(model) & self.own.keys()
        self.pretrained = {
            name: parameter.detach().clone()
            for name, parameter in self.own.items()
            if keep_pretrained or name in self.tables
        }

    def parameters(self) -> list[Any]:
        """What trains, as torch's optimisers take it. Scales and embedding tables are in a group without weight decay:
        it would draw scales away from 1, and change every row of a table though few are trained."""
        trained = self.added | self.own
        undecayed = {name for name in trained if name in self.tables or name.endswith(f".{SCALE}")}
        decayed = [parameter for name, parameter in trained.items() if name not in undecayed]
        if not undecayed:
            return decayed
        rest = {"params": [trained[name] for name in trained if name in undecayed], "weight_decay": 0.0}
        return [{"params": decayed}, rest] if decayed else [rest]

    def to(self, device: torch.device) -> None:
        """Moves the copies of pretrained parameters."""
        self.pretrained = {name: tensor.to(device) for name, tensor in self.pretrained.items()}

    @contextmanager
    def off(self) -> Iterator[None]:
        """A context in which the model is the pretrained one, bit for bit; asks for `keep_pretrained`."""
        if self.pretrained.keys() != self.own.keys():
            raise ValueError("the pretrained parameters are gone: make the adapter with keep_pretrained=True")
        switch_layers(self.model, False)
        self._swap()
        try:
            yield
        finally:
            self._swap()
            switch_layers(self.model, True)

    def _swap(self) -> None:
        for name, tensor in self.pretrained.items():
            parameter = self.own[name]
            # The tensors change places, nothing is copied, and autograd does not take it for a change.
            self.pretrained[name], parameter.data = parameter.data, tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is saved: what trains, by name; of an embedding table the rows that changed, and their indices."""
        found = {name: p.detach().contiguous() for name, p in (self.added | self.own).items()}
        for name in self.tables:
            changed = (found[name] != self.pretrained[name]).any(dim=1)
            changed[: self.kept_rows] = True
            rows = changed.nonzero().squeeze(1)
            found[name], found[name + ROWS] = found[name][rows], rows
        return found

    def check(self, tensors: dict[str, torch.Tensor]) -> None:
        """Refuses saved tensors that do not fit: one is missing, unknown, of another shape, or not finite. What file they are of,
        the caller knows."""
        trained = self.added | self.own
        expected = trained.keys() | {name + ROWS for name in self.tables}
        if missing := sorted(expected - tensors.keys()):
            raise DiffTuneError(f"{len(missing)} of its {len(expected)} tensors are missing, {missing[0]} for one.")
        if unknown := sorted(tensors.keys() - expected):
            raise DiffTuneError(f"{len(unknown)} of its tensors belong to nothing here, {unknown[0]} for one.")
        for name, parameter in trained.items():
            shape = list(parameter.shape)
            if name in self.tables:
                rows = tensors[name + ROWS]
                if rows.ndim != 1 or rows.dtype != torch.int64 or not ((rows >= 0) & (rows < shape[0])).all():
                    raise DiffTuneError(f"{name}{ROWS} has indices that are not below {shape[0]}.")
                shape[0] = len(rows)
            if list(tensors[name].shape) != shape:
                raise DiffTuneError(f"{name} has the shape {list(tensors[name].shape)}, and here it is {shape}.")
            if not tensors[name].is_floating_point() or not tensors[name].isfinite().all():
                raise DiffTuneError(f"{name} holds what is no finite number.")

    @torch.no_grad()
    def set_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes over saved tensors that [`check`] found good."""
        for name, parameter in (self.added | self.own).items():
            if name in self.tables:
                parameter.copy_(self.pretrained[name])
                parameter[tensors[name + ROWS].to(parameter.device)] = tensors[name].to(parameter)
            else:
                parameter.copy_(tensors[name])

    def load(self, tensors: dict[str, torch.Tensor], place: Path) -> None:
        """Checks and takes over what a checkpoint of this run has."""
        try:
            self.check(tensors)
        except DiffTuneError as error:
            raise DiffTuneError(
                f"{place} does not fit this run's adapter ({str(error).rstrip('.')}); use the flags it was trained with."
            ) from error
        self.set_tensors(tensors)
