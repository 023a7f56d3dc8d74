# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The table: every kind of adapter on every kind of model."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusers_difftune import load_adapter, merge_adapter
from diffusers_difftune.adapters import Adapter
from diffusers_difftune.adapters.files import CONFIG_FILE, LORA_FILE, TENSOR_FILE

from .subjects import KINDS, MODELS, NULL, SEEN, Subject


@pytest.fixture
def subject(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Subject:
    return Subject(request.param, folders[request.param])


every_model = pytest.mark.parametrize("subject", MODELS, indirect=True)
every_kind = pytest.mark.parametrize("kind", KINDS)


def plain_name(name: str) -> str:
    return name.replace(".base_layer.", ".")


@every_kind
@every_model
def test_it_trains_only_its_own_parameters(subject: Subject, kind: str) -> None:
    trained = subject.adapted(kind)
    before = {name: tensor.clone() for name, tensor in trained.model.named_parameters()}
    own = trained.adapter.own.keys() | trained.adapter.added.keys()
    assert own == {
        plain_name(n).replace(".default", "") for n, p in trained.model.named_parameters() if p.requires_grad
    }
    subject.train(trained)
    for name, parameter in trained.model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
        assert parameter.requires_grad or parameter.grad is None, name


def test_the_kinds_train_what_they_are_named_for(folders: dict[str, Path]) -> None:
    unet, dit = Subject("unet", folders["unet"]), Subject("transformer", folders["transformer"])

    def own(subject: Subject, kind: str) -> set[str]:
        return {plain_name(name) for name, p in subject.adapted(kind).model.named_parameters() if p.requires_grad}

    all_names = {name for name, _ in unet.pipeline().unet.named_parameters()}
    biases = {name for name in all_names if name.endswith(".bias")}
    assert own(unet, "bitfit") == biases
    norms = {name for name in all_names if ".norm" in name or "conv_norm_out" in name}
    assert biases | norms <= own(unet, "difffit")
    scales = own(unet, "difffit") - biases - norms
    block = "down_blocks.1.attentions.0.transformer_blocks.0"
    assert {f"{block}.{place}.difffit_scale" for place in ("attn1.to_out.0", "attn2.to_out.0", "ff.net.2")} <= scales
    assert {name for name in scales if "resnets" in name} and all(name.endswith(".difffit_scale") for name in scales)
    assert own(unet, "parameters") == {n for n in all_names if ".attn1." in n or n.endswith(".ff.net.0.proj.weight")}
    assert all(".lora_" in name and any(f".{m}." in name for m in ("to_k", "to_q", "to_v", "to_out.0"))
               for name in own(unet, "lora"))  # fmt: skip
    tables = {f"transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table.weight" for i in range(2)}
    for kind in KINDS:
        assert tables <= own(dit, kind), "new classes cannot be learned otherwise"


@every_kind
@every_model
def test_an_untrained_adapter_changes_nothing(subject: Subject, kind: str) -> None:
    trained = subject.adapted(kind)
    untouched = getattr(subject.pipeline(), subject.name)
    assert torch.equal(subject.outputs(trained.model.eval()), subject.outputs(untouched.eval()))


@every_kind
@every_model
def test_switched_off_it_is_the_pretrained_model(subject: Subject, kind: str) -> None:
    """Also between a forward pass and its backward pass, as in training. Of a ControlNet it is the one before training."""
    if subject.name == "controlnet":  # as in code of one's own; what training asks for is in the next test
        trained = Adapter(subject.controlnet(), subject.settings(kind), "ControlNet", keep_pretrained=True)
        model, context = trained.model, trained.off()
    else:
        trained = subject.adapted(kind, keep_pretrained=True)
        model, context = trained.pretrained_model()
    subject.train(trained)
    untouched = subject.outputs(getattr(subject.pipeline(), subject.name).eval())
    trained.model.eval()
    on = subject.outputs(trained.model)
    with torch.no_grad(), context:
        assert torch.equal(subject.outputs(model), untouched)
    assert not torch.equal(on, untouched) and torch.equal(subject.outputs(trained.model), on)
    on.square().mean().backward()
    found = [parameter.grad.clone() for parameter in trained.model.parameters() if parameter.requires_grad]
    trained.model.zero_grad()
    subject.outputs(trained.model).square().mean().backward()
    expected = [parameter.grad for parameter in trained.model.parameters() if parameter.requires_grad]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@every_kind
def test_without_a_controlnet_the_denoiser_is_the_pretrained_one(kind: str, folders: dict[str, Path]) -> None:
    subject, unet = Subject("controlnet", folders["controlnet"]), Subject("unet", folders["unet"])
    trained = subject.adapted(kind)
    subject.train(trained)
    model, context = trained.pretrained_model()
    with torch.no_grad(), context:
        assert torch.equal(unet.outputs(model), unet.outputs(unet.pipeline().unet.eval()))


def test_what_was_not_kept_cannot_be_brought_back(folders: dict[str, Path]) -> None:
    adapter = Subject("unet", folders["unet"]).adapted("bitfit").adapter
    with pytest.raises(ValueError, match="keep_pretrained=True"), adapter.off():
        pass


@every_kind
@every_model
def test_loaded_it_makes_the_same_images_and_merged_as_good_as_the_same(
    subject: Subject, kind: str, tmp_path: Path
) -> None:
    trained = subject.adapted(kind)
    subject.train(trained)
    (tmp_path / "saved").mkdir()
    trained.save_result(tmp_path / "saved")
    pipeline = subject.pipeline()
    untouched = subject.images(pipeline)
    pipeline.register_modules(**{subject.name: trained.model.eval()})
    expected = subject.images(pipeline)
    assert np.abs(expected - untouched).max() > 1e-3

    pipeline = subject.pipeline()
    load_adapter(pipeline, tmp_path / "saved")
    assert np.array_equal(subject.images(pipeline), expected)

    loaded = getattr(pipeline, subject.name)
    with torch.no_grad():
        unmerged = subject.outputs(copy.deepcopy(loaded))
        merge_adapter(pipeline)
        assert (subject.outputs(loaded) - unmerged).abs().max() < 1e-5
    assert np.abs(subject.images(pipeline) - expected).max() < 1e-5
    pipeline.save_pretrained(tmp_path / "merged")
    stock = type(pipeline).from_pretrained(tmp_path / "merged")
    stock.set_progress_bar_config(disable=True)
    assert np.array_equal(subject.images(stock), subject.images(pipeline))
    keys = getattr(subject.pipeline(), subject.name).state_dict().keys()
    assert getattr(stock, subject.name).state_dict().keys() == keys


@every_kind
@every_model
def test_it_is_saved_small_and_without_pickles(subject: Subject, kind: str, tmp_path: Path) -> None:
    trained = subject.adapted(kind)
    subject.train(trained)
    trained.save_result(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    if subject.name == "unet" and kind in ("lora", "dora"):
        assert files == {LORA_FILE}
        return
    assert files == {TENSOR_FILE, CONFIG_FILE} | ({"config.json"} if subject.name == "controlnet" else set())
    tensors, config = load_file(tmp_path / TENSOR_FILE), json.loads((tmp_path / CONFIG_FILE).read_text())
    assert config["adapter"]["kind"] == kind and config["component"] == subject.name
    for name in [name for name in tensors if "embedding_table" in name and not name.endswith(".rows")]:
        assert tensors[f"{name}.rows"].tolist() == [SEEN, NULL] and tensors[name].shape[0] == 2


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_diffusers_own_loader_reads_it(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    subject = Subject("unet", folders["unet"])
    trained = subject.adapted(kind)
    assert KINDS[kind].alpha != KINDS[kind].rank
    subject.train(trained)
    trained.save_result(tmp_path)
    ours, stock = subject.pipeline(), subject.pipeline()
    load_adapter(ours, tmp_path)
    stock.load_lora_weights(tmp_path)
    assert np.array_equal(subject.images(ours), subject.images(stock))
    merge_adapter(stock)
    assert np.abs(subject.images(ours) - subject.images(stock)).max() < 1e-5
    assert stock.unet.state_dict().keys() == subject.pipeline().unet.state_dict().keys()
