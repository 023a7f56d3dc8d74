# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which modules each kind of layer of PEFT can be put on, and what is said of those that it cannot."""

import re
from pathlib import Path

import pytest
import torch

from diffusers_difftune import DiffTuneError
from diffusers_difftune.adapters import Adapter, AdapterSettings, peft_layers
from diffusers_difftune.adapters.peft_layers import layers, merge_layers
from diffusers_difftune.adapters.settings import PEFT_KINDS
from diffusers_difftune.backbones import load_backbone

from .subjects import ATTENTION, Subject


IN_ATTENTION = "name attn1.to_q, attn1.to_k, attn1.to_v, attn1.to_out.0 in place of attn1"
NORM_OF_DIT = (
    "name norm1.emb.timestep_embedder.linear_1, norm1.emb.timestep_embedder.linear_2, norm1.linear in place of norm1"
)
SAID = {
    ("unet", "attn1"): ("attn1 is of the class Attention", IN_ATTENTION),
    ("unet", "to_out"): ("to_out is of the class ModuleList", "name to_out.0 in place of to_out"),
    ("unet", "norm1"): ("norm1 is of the class GroupNorm", "name such layers in place of norm1"),
    ("transformer", "attn1"): ("attn1 is of the class Attention", IN_ATTENTION),
    ("transformer", "to_out"): ("to_out is of the class ModuleList", "name to_out.0 in place of to_out"),
    ("transformer", "norm1"): ("norm1 is of the class AdaLayerNormZero", NORM_OF_DIT),
}
every_peft_kind = pytest.mark.parametrize("kind", PEFT_KINDS)


def empty(name: str, folders: dict[str, Path]) -> torch.nn.Module:
    """A model without weights, on which the scripts try an adapter."""
    return load_backbone(folders[name]).empty_denoiser()


@every_peft_kind
@pytest.mark.parametrize(("name", "named"), SAID)
def test_a_module_that_cannot_be_adapted_is_named_and_so_is_what_would_work(
    name: str, named: str, kind: str, folders: dict[str, Path]
) -> None:
    found, instead = SAID[name, named]
    kernels = " with a kernel of 1" if kind == "oft" else ""
    said = re.escape(f"{found}, and {kind} is for Linear and Conv2d{kernels}; {instead}.")
    model = empty(name, folders)
    with pytest.raises(DiffTuneError, match=rf"^The {name}'s [a-z0-9_.]+\.{said}$"):
        Adapter(model, AdapterSettings(kind, target_modules=("to_q", named)), name)
    assert not layers(model)
    if suggested := [each for each in re.split("name |, | in place of .*", instead) if "." in each]:
        Adapter(model, AdapterSettings(kind, target_modules=tuple(suggested)), name)


def test_a_long_list_of_what_would_work_is_cut(folders: dict[str, Path]) -> None:
    with pytest.raises(DiffTuneError, match=r"; name (mid_block[a-z0-9_.]+, ){3}mid_block[a-z0-9_.]+ … in place of"):
        Adapter(empty("unet", folders), AdapterSettings("oft", target_modules=("mid_block",)))


LINEAR = (*ATTENTION, "ff.net.0.proj", "time_embedding.linear_1", "0.time_emb_proj")
POINTWISE = ("conv_shortcut", "attentions.0.proj_in", "proj_out")  # convolutions with a kernel of 1
CONVOLUTIONS = ("conv1", "0.conv2", "conv_out", "downsamplers.0.conv")


@every_peft_kind
@pytest.mark.parametrize("named", [LINEAR, POINTWISE, CONVOLUTIONS], ids=["linear", "pointwise", "convolutions"])
def test_any_linear_layer_or_convolution_is_adapted_by_the_end_of_its_name(
    named: tuple[str, ...], kind: str, folders: dict[str, Path]
) -> None:
    subject = Subject("unet", folders["unet"])
    model = subject.pipeline().unet
    expected = {name for name, _ in model.named_modules() if f".{name}".endswith(tuple(f".{each}" for each in named))}
    settings = AdapterSettings(kind, rank=2, target_modules=named)
    if kind == "oft" and named == CONVOLUTIONS:  # what PEFT makes of these is another model before it has trained
        with pytest.raises(
            DiffTuneError, match="of the class Conv2d, and oft is for Linear and Conv2d with a kernel of 1"
        ):
            Adapter(model, settings)
        return
    before = subject.outputs(model.eval())
    adapter = Adapter(model, settings)
    assert {name for name, _ in layers(model)} == expected
    assert torch.allclose(subject.outputs(model), before, atol=1e-6)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        changed = subject.outputs(model)
        merge_layers(model)
        assert torch.allclose(subject.outputs(model), changed, atol=1e-4)
    assert not torch.allclose(changed, before, atol=1e-3)


@pytest.mark.parametrize("kind", ["lora", "dora", "oft"])
def test_class_tables_can_be_adapted_by_the_kinds_that_have_layers_for_them(
    kind: str, folders: dict[str, Path]
) -> None:
    model = empty("transformer", folders)
    Adapter(model, AdapterSettings(kind, target_modules=("embedding_table",)))
    assert len(layers(model)) == 2


def test_what_peft_has_against_it_is_told_in_one_sentence_too(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise TypeError("Not on a Tuesday. Try another day.")

    monkeypatch.setattr(peft_layers, "inject_adapter_in_model", refuse)
    with pytest.raises(DiffTuneError, match="^A loha of rank 4 cannot be had there: Not on a Tuesday\\.$"):
        Adapter(empty("unet", folders), AdapterSettings("loha", target_modules=ATTENTION))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_there_is_room_beside_another_adapter(folders: dict[str, Path]) -> None:
    model = empty("unet", folders)
    peft_layers.inject_adapter_in_model(
        peft_layers.peft_config(AdapterSettings("lora", target_modules=("to_q",))), model, "another"
    )
    adapter = Adapter(model, AdapterSettings("lora", target_modules=("to_q", "to_k")))
    assert len(adapter.added) == 2 * len(layers(model))
