# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA and DoRA of any mix of modules: stock diffusers reads the whole file, and what it cannot read is not written."""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusers_difftune import DiffTuneError, load_adapter
from diffusers_difftune.adapters import Adapter, AdapterSettings, stock_lora
from diffusers_difftune.adapters.files import LORA_FILE, write_lora
from diffusers_difftune.adapters.peft_layers import layers
from diffusers_difftune.adapters.stock_lora import check_stock_reads
from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.trainables import AdaptedDenoiser
from tests.tiny import save_tiny_xl_pipeline
from tests.training.runs import LORA, run

from .subjects import ATTENTION, Subject


TRANSFORMER = "mid_block.attentions.0.transformer_blocks.0"
MID_ATTENTION = tuple(f"{TRANSFORMER}.attn1.{name}" for name in ATTENTION)
# For each model the modules that get layers: few, since what matters is how they are named.
MIXES: dict[str, dict[str, tuple[str, ...]]] = {
    "unet": {
        "attention": MID_ATTENTION,
        "attention and projections": (*MID_ATTENTION, "mid_block.attentions.0.proj_in", "mid_block.attentions.0.proj_out"),
        "attention and convolutions": (*MID_ATTENTION, "down_blocks.0.resnets.0.conv1", "mid_block.resnets.0.conv2"),
        "attention and the first layer": (*MID_ATTENTION, "conv_in"),
        "attention and the last layer": (*MID_ATTENTION, "conv_out"),
        "attention and time": (*MID_ATTENTION, "down_blocks.0.resnets.0.time_emb_proj", "time_embedding.linear_1"),
        "attention and ff": (*MID_ATTENTION, f"{TRANSFORMER}.ff.net.0.proj", f"{TRANSFORMER}.ff.net.2"),
        "convolutions": ("mid_block.resnets.0.conv1", "downsamplers.0.conv", "down_blocks.1.resnets.0.conv_shortcut"),
        "the last layer": ("conv_out",),
        "a projection": ("mid_block.attentions.0.proj_out",),
        "everything": ("resnets.1.conv1", "resnets.1.conv2", "conv_in", "conv_out", "conv_shortcut", "0.conv", "linear_1",
                       "mid_block.resnets.1.time_emb_proj", "mid_block.attentions.0.proj_in", "proj_out", *MID_ATTENTION,
                       f"{TRANSFORMER}.ff.net.0.proj"),
    },
}  # fmt: skip
CASES = [(model, mix, kind) for model, mixes in MIXES.items() for mix in mixes for kind in ("lora", "dora")]


@pytest.fixture(scope="module")
def pipelines(folders: dict[str, Path]) -> Callable[[str], DiffusionPipeline]:
    """A fresh pipeline of the model of that name, the rest of which is shared."""
    loaded = {model: Subject(model, folders[model]).pipeline() for model in MIXES}

    def fresh(model: str) -> DiffusionPipeline:
        parts = loaded[model].components
        pipeline = type(loaded[model])(**parts | {model: copy.deepcopy(parts[model])}, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return fresh


read_backbone = functools.cache(load_backbone)


def adapted(folder: Path, kind: str, modules: tuple[str, ...]) -> AdaptedDenoiser:
    """An adapter as if it had been trained: no tensor of it is as it was at the start."""
    backbone = read_backbone(folder)
    settings = AdapterSettings(kind, rank=2, alpha=6.0, target_modules=modules)
    trained = AdaptedDenoiser(backbone, backbone.load_denoiser(), settings)
    shake(trained.adapter)
    trained.model.eval()
    return trained


@torch.no_grad()
def shake(adapter: Adapter) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter.added.values():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def mixed_names(adapter: Adapter, component: str) -> dict[str, torch.Tensor]:
    """The tensors as upstream's scripts write them: attention by names of diffusers, the rest by PEFT's."""
    found = convert_state_dict_to_diffusers(get_peft_model_state_dict(adapter.model))
    return {f"{component}.{name}": tensor.float() for name, tensor in found.items()}


@pytest.mark.parametrize(("model", "mix", "kind"), CASES)
def test_stock_diffusers_reads_what_load_adapter_reads(
    model: str, mix: str, kind: str, folders: dict[str, Path], pipelines: Callable[[str], Any], tmp_path: Path
) -> None:
    subject = Subject(model, folders[model])
    trained = adapted(subject.folder, kind, MIXES[model][mix])
    names = [name for name, _ in layers(trained.model)]
    assert len(names) >= len(MIXES[model][mix])
    trained.save_result(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {LORA_FILE}
    assert {tensor.dtype for tensor in load_file(tmp_path / LORA_FILE).values()} == {torch.float32}

    stock, ours = pipelines(model), pipelines(model)
    with torch.no_grad():
        expected, untouched = subject.outputs(trained.model), subject.outputs(getattr(ours, model))
    assert (expected - untouched).abs().max() > 1e-3
    stock.load_lora_weights(tmp_path)
    load_adapter(ours, tmp_path)
    for pipeline in (stock, ours):
        loaded = getattr(pipeline, model)
        assert [name for name, _ in layers(loaded)] == names
        with torch.no_grad():
            assert torch.equal(subject.outputs(loaded), expected)
    if mix == "everything":
        assert np.array_equal(subject.images(stock), subject.images(ours))
    for pipeline in (stock, ours) if mix == "everything" else (stock,):
        pipeline.fuse_lora()
        with torch.no_grad():
            torch.testing.assert_close(subject.outputs(getattr(pipeline, model)), expected, atol=1e-5, rtol=1e-4)
        pipeline.unfuse_lora()
        pipeline.unload_lora_weights()
        assert not layers(getattr(pipeline, model))
        with torch.no_grad():
            torch.testing.assert_close(subject.outputs(getattr(pipeline, model)), untouched, atol=1e-5, rtol=1e-4)


def test_what_would_not_come_back_is_told(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of two kinds are such a case."""
    trained = adapted(folders["unet"], "lora", (*ATTENTION, "proj_in", "proj_out"))
    monkeypatch.setattr(stock_lora, "lora_tensors", mixed_names)
    said = (
        r"^Of the 40 layers of this lora on the unet, stock diffusers' StableDiffusionPipeline\.load_lora_weights would read"
        r" back 8, and not down_blocks[a-z0-9_.]+ for one; leave such modules out, or take --adapter loha or lokr, which"
        r" load_adapter loads\.$"
    )
    with pytest.raises(DiffTuneError, match=said):
        check_stock_reads(trained.adapter, "unet", StableDiffusionPipeline)


def test_a_loader_that_leaves_layers_out_is_found_before_training(
    tiny_pipeline: Path, tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    read = StableDiffusionPipeline.lora_state_dict.__func__

    def forgetful(cls: Any, tensors: Any, **kwargs: Any) -> Any:
        found, *rest = read(cls, tensors, **kwargs)
        return {name: tensor for name, tensor in found.items() if ".conv1." not in name}, *rest

    monkeypatch.setattr(StableDiffusionPipeline, "lora_state_dict", classmethod(forgetful))
    with pytest.raises(SystemExit) as stopped:
        run(
            LORA, tiny_pipeline, tiny_images, tmp_path / "run", "--objective standard --lora_target_modules to_q conv1"
        )
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "--lora_target_modules to_q conv1: of the 16 layers of this lora on the unet" in said
    assert "would read back 8, and not down_blocks.0.resnets.0.conv1 for one" in said
    assert not list((tmp_path / "run").glob("**/*.safetensors"))


def test_a_loader_that_fails_is_told_in_one_sentence(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = adapted(folders["unet"], "dora", ATTENTION)

    def refuse(cls: Any, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("DoRA is not for this pipeline. Sorry.")

    monkeypatch.setattr(StableDiffusionPipeline, "lora_state_dict", classmethod(refuse))
    with pytest.raises(
        DiffTuneError, match="could not load this dora .* \\(DoRA is not for this pipeline\\); name other"
    ):
        check_stock_reads(trained.adapter, "unet", StableDiffusionPipeline)


ADDED = ("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out")
FAMILIES: dict[str, tuple[type, type, dict[str, Any], tuple[str, ...]]] = {
    "SD3": (
        StableDiffusion3Pipeline,
        SD3Transformer2DModel,
        {"sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8,
         "num_attention_heads": 2, "caption_projection_dim": 16, "joint_attention_dim": 16, "pooled_projection_dim": 16,
         "pos_embed_max_size": 8, "dual_attention_layers": (0,)},
        (*ATTENTION, *ADDED, "ff.net.0.proj", "proj_out", "context_embedder"),
    ),
    "FLUX.1": (
        FluxPipeline,
        FluxTransformer2DModel,
        {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 16, "pooled_projection_dim": 16, "axes_dims_rope": (4, 4, 8)},
        (*ATTENTION, *ADDED, "ff.net.0.proj", "x_embedder", "proj_mlp", "norm_out.linear"),
    ),
    "FLUX.2 klein": (
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
        {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 16, "timestep_guidance_channels": 16, "axes_dims_rope": (4, 4, 4, 4)},
        (*ATTENTION, "to_qkv_mlp_proj", "single_transformer_blocks.0.attn.to_out"),
    ),
    "Qwen-Image": (
        QwenImagePipeline,
        QwenImageTransformer2DModel,
        {"in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4)},
        (*ATTENTION, *ADDED, "img_in", "img_mlp.net.0.proj"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loaders_of_other_families_read_the_form_too(family: str, kind: str, tmp_path: Path) -> None:
    """Every tensor is where it was. There are no backbones for these families yet."""
    pipeline_class, model_class, config, modules = FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(**config)
    stock = copy.deepcopy(model)
    adapter = Adapter(model, AdapterSettings(kind, rank=2, alpha=6.0, target_modules=modules), "transformer")
    shake(adapter)
    check_stock_reads(adapter, "transformer", pipeline_class)
    write_lora(tmp_path, adapter, "transformer", {})
    components = dict.fromkeys(pipeline_class._get_signature_keys(pipeline_class)[0])
    pipeline = pipeline_class(**components | {"transformer": stock})
    pipeline.load_lora_weights(tmp_path, adapter_name="stock")
    found = {name.replace(".stock", ""): tensor for name, tensor in stock.state_dict().items() if ".stock" in name}
    assert found.keys() == adapter.added.keys()
    assert all(torch.equal(found[name], adapter.added[name]) for name in found)


MIX = "--lora_target_modules to_q to_k to_v to_out.0 proj_in proj_out conv1 --rank 2 --lora_alpha 6"


@pytest.fixture(scope="module")
def trained_run(tiny_pipeline: Path, tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = f"--objective standard {MIX} --learning_rate 1e-2 --max_train_steps 4 --checkpointing_steps 2"
    return run(LORA, tiny_pipeline, tiny_images, tmp_path_factory.mktemp("mix"), flags)


def test_a_run_and_its_checkpoints_are_read_whole(
    trained_run: Path, folders: dict[str, Path], pipelines: Callable[[str], Any]
) -> None:
    subject = Subject("unet", folders["unet"])
    images = {}
    for place in (trained_run, trained_run / "checkpoint-2", trained_run / "checkpoint-4"):
        stock, ours = pipelines("unet"), pipelines("unet")
        stock.load_lora_weights(place)
        load_adapter(ours, place)
        assert len(layers(stock.unet)) == len(layers(ours.unet)) == 48
        images[place.name] = subject.images(stock)
        assert np.array_equal(images[place.name], subject.images(ours))
    assert np.array_equal(images[trained_run.name], images["checkpoint-4"])
    assert np.abs(images["checkpoint-2"] - images["checkpoint-4"]).max() > 1e-4


@pytest.fixture(scope="module")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_xl_pipeline(tmp_path_factory.mktemp("tiny-xl"))


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_a_run_on_sdxl_is_read_whole(adapter: str, tiny_xl: Path, tiny_images: Path, tmp_path: Path) -> None:
    flags = f"--objective standard --adapter {adapter} {MIX} --learning_rate 1e-2 --max_train_steps 2"
    trained = run(LORA, tiny_xl, tiny_images, tmp_path / "run", flags)
    untouched, stock, ours = (
        StableDiffusionXLPipeline.from_pretrained(tiny_xl, add_watermarker=False) for _ in range(3)
    )
    stock.load_lora_weights(trained)
    load_adapter(ours, trained)
    modules = [name for name, module in untouched.unet.named_modules() if module_is_named(name, MIX.split()[1:-4])]
    assert len(modules) > 40
    assert {name for name, _ in layers(stock.unet)} == {name for name, _ in layers(ours.unet)} == set(modules)
    given = {"prompt": "a red bar", "height": 16, "width": 16, "num_inference_steps": 2, "output_type": "np"}
    plain, by_stock, by_us = (
        pipeline(**given, generator=torch.Generator().manual_seed(0)).images for pipeline in (untouched, stock, ours)
    )
    weights = ours.unet.state_dict()
    for name, tensor in stock.unet.state_dict().items():
        assert torch.equal(tensor, weights[name.replace(".default_0", ".default")])
    np.testing.assert_allclose(by_stock, by_us, atol=1e-5)
    assert np.abs(by_stock - plain).max() > 1e-3


def module_is_named(name: str, ends: list[str]) -> bool:
    return any(f".{name}".endswith(f".{end}") for end in ends)


def test_the_file_says_the_prediction_type_that_was_trained(
    folders: dict[str, Path], pipelines: Callable[[str], Any], tmp_path: Path
) -> None:
    backbone = load_backbone(folders["unet"], prediction_type="v_prediction")
    settings = AdapterSettings("lora", rank=2, target_modules=ATTENTION)
    AdaptedDenoiser(backbone, backbone.load_denoiser(), settings).save_result(tmp_path)
    pipeline = pipelines("unet")
    pipeline.scheduler = copy.deepcopy(pipeline.scheduler)
    load_adapter(pipeline, tmp_path)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    pipelines("unet").load_lora_weights(tmp_path)  # which minds nothing else in the file

    tensors = load_file(tmp_path / LORA_FILE)
    with safe_open(tmp_path / LORA_FILE, "pt") as opened:
        metadata = opened.metadata()
    for damaged in ("[]", "{", json.dumps({"prediction_type": "noise"})):
        save_file(tensors, tmp_path / LORA_FILE, metadata=metadata | {"difftune_pipeline": damaged})
        with pytest.raises(DiffTuneError, match=f"{LORA_FILE} cannot be read: "):
            load_adapter(pipelines("unet"), tmp_path)
