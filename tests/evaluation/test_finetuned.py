# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuned models beside the pretrained one: how they are found, called, swapped and compared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    DiTTransformer2DModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file

from diffusers_difftune import load_adapter
from diffusers_difftune.adapters import AdapterSettings
from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.compatibility import check_run
from diffusers_difftune.evaluation.finetuned import Finetuned, FinetunedControlNet, open_finetuned
from diffusers_difftune.evaluation.samples import sample_images
from diffusers_difftune.evaluation.swap import swapped
from tests.evaluation.models import (
    CONTROL_LORA,
    LORA,
    save_adapter,
    save_classes,
    save_controlnet,
    save_full,
)


CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"
PROMPTS = ["a red square", "a blue bar"]
SAMPLING = {"steps": 3, "guidance_scale": 2.0, "height": 16, "width": 16}
CONTROL = torch.randint(256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def loaded(pretrained: Path, folder: Path) -> Finetuned:
    finetuned = open_finetuned(load_backbone(pretrained), str(folder))
    finetuned.load(CPU)
    return finetuned


def stock(pretrained: Path, folder: Path, kind: str) -> DiffusionPipeline:
    """The fine-tuned model as users of diffusers have it."""
    if kind == "full":
        return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline = StableDiffusionPipeline.from_pretrained(pretrained, safety_checker=None)
    if kind == "controlnet":
        controlnet = load_backbone(pretrained).controlnet.model_class.from_pretrained(folder)
        return StableDiffusionControlNetPipeline(
            **pipeline.components, controlnet=controlnet, requires_safety_checker=False
        )
    load_adapter(pipeline, folder)
    return pipeline


SAVE: dict[str, Callable[[Path, Path], Path]] = {
    "full": save_full,
    "lora": save_adapter,
    "difffit": lambda folder, pretrained: save_adapter(folder, pretrained, AdapterSettings("difffit")),
    "controlnet": save_controlnet,
}


@pytest.mark.parametrize("kind", SAVE)
def test_none_swapped_is_the_finetuned_and_all_the_pretrained_model(
    kind: str, tiny_pipeline: Path, tmp_path: Path
) -> None:
    folder = SAVE[kind](tmp_path / "finetuned", tiny_pipeline)
    finetuned = loaded(tiny_pipeline, folder)
    assert finetuned.kind == kind
    inputs = {"controls": CONTROL} if kind == "controlnet" else {}
    before = sample_images(
        StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None), PROMPTS, **SAMPLING
    )
    after = sample_images(stock(tiny_pipeline, folder, kind), PROMPTS, **SAMPLING, **inputs)
    assert not torch.equal(before, after)
    for percent, expected in ((0, after), (100, before)):
        with swapped(finetuned.pipeline, finetuned.stand_in(), percent):
            assert torch.equal(sample_images(finetuned.pipeline, PROMPTS, **SAMPLING, **inputs), expected)


def test_weights_of_an_adapter_are_the_merged_ones(tiny_pipeline: Path, tmp_path: Path) -> None:
    finetuned = loaded(tiny_pipeline, save_adapter(tmp_path / "lora", tiny_pipeline))
    generator = torch.Generator().manual_seed(0)
    sample, prompts = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 32, 32, generator=generator)

    def answer() -> torch.Tensor:
        return finetuned.predict(finetuned.model, sample, torch.tensor([500]), {"encoder_hidden_states": prompts})

    before = answer()
    weights, own = finetuned.weights(), dict(finetuned.pretrained.named_parameters())
    assert weights.keys() == own.keys()
    changed = {name for name in own if not torch.equal(own[name], weights[name])}
    assert changed == {name for name in own if name.endswith(tuple(f"{m}.weight" for m in LORA.target_modules))}
    torch.testing.assert_close(answer(), before, atol=1e-5, rtol=1e-5)
    # rank 2 at every projection, of both its matrices
    assert finetuned.num_trained == sum(2 * sum(own[name].shape) for name in changed)
    assert finetuned.files() == [tmp_path / "lora" / "pytorch_lora_weights.safetensors"]


def test_of_a_controlnet_its_copy_of_the_denoiser_is_compared(tiny_pipeline: Path, tmp_path: Path) -> None:
    finetuned = loaded(tiny_pipeline, save_controlnet(tmp_path / "controlnet", tiny_pipeline))
    weights, own = finetuned.weights(), dict(finetuned.pretrained.named_parameters())
    assert weights.keys() < own.keys() and "mid_block.resnets.0.conv1.weight" in weights
    assert all(weights[name].shape == own[name].shape for name in weights)
    assert not torch.equal(weights["conv_in.weight"], own["conv_in.weight"])


def test_an_adapter_of_a_controlnet(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = save_controlnet(tmp_path / "adapter", tiny_pipeline, CONTROL_LORA)
    finetuned = loaded(tiny_pipeline, folder)
    assert isinstance(finetuned, FinetunedControlNet) and finetuned.is_adapter and finetuned.num_trained
    pipeline = stock(tiny_pipeline, save_controlnet(tmp_path / "start", tiny_pipeline), "controlnet")
    pipeline.controlnet = load_backbone(tiny_pipeline).controlnet.new(pipeline.unet)
    load_adapter(pipeline, folder)
    expected = sample_images(pipeline, PROMPTS, **SAMPLING, controls=CONTROL)
    with swapped(finetuned.pipeline, finetuned.stand_in(), 0):
        assert torch.equal(sample_images(finetuned.pipeline, PROMPTS, **SAMPLING, controls=CONTROL), expected)
    weights, own = finetuned.weights(), dict(finetuned.pretrained.named_parameters())
    changed = [name for name in weights if not torch.equal(weights[name], own[name])]
    assert changed and all(".attentions." in name for name in changed)


def test_a_checkpoint_is_found_too(tiny_pipeline: Path, tmp_path: Path) -> None:
    full = save_full(tmp_path / "run", tiny_pipeline)
    checkpoint = tmp_path / "run" / "checkpoint-7"
    shutil.copytree(full / "unet", checkpoint / "unet")
    assert open_finetuned(load_backbone(tiny_pipeline), str(checkpoint)).kind == "full"
    controlnet = save_controlnet(tmp_path / "controlnet", tiny_pipeline)
    shutil.copytree(controlnet, tmp_path / "other" / "checkpoint-7" / "controlnet")
    assert open_finetuned(load_backbone(tiny_pipeline), str(tmp_path / "other" / "checkpoint-7")).kind == "controlnet"


def test_weights_of_a_variant_are_those_that_are_loaded(tiny_pipeline: Path, tmp_path: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    finetuned = open_finetuned(load_backbone(tmp_path / "half", "fp16"), str(tmp_path / "half"))
    finetuned.load(CPU)
    assert [file.name for file in finetuned.files()] == ["diffusion_pytorch_model.fp16.safetensors"]
    with pytest.raises(DiffTuneError, match=r"^\S+/unet has no weights that load without --variant\.$"):
        open_finetuned(load_backbone(tiny_pipeline), str(tmp_path / "half"))


def test_classes_that_the_pretrained_model_does_not_know(tiny_dit: Path, tmp_path: Path) -> None:
    same = open_finetuned(load_backbone(tiny_dit), str(save_full(tmp_path / "same", tiny_dit)))
    assert same.knows_classes
    folder = save_classes(tmp_path / "new", tiny_dit, ["ash", "elm, tree", "oak"])
    finetuned = loaded(tiny_dit, folder)
    assert not finetuned.knows_classes
    assert finetuned.class_ids == {"ash": 0, "elm": 1, "tree": 1, "elm, tree": 1, "oak": 2}
    backbone = load_backbone(tiny_dit)
    sampling = {"steps": 3, "guidance_scale": 2.0}
    nothing = sample_images(backbone.pipeline(None, CPU, torch.float32), ["", ""], **sampling)
    with swapped(finetuned.pipeline, finetuned.stand_in(), 100):
        assert torch.equal(sample_images(finetuned.pipeline, ["0", "2"], **sampling), nothing)
    own = sample_images(load_backbone(folder).pipeline(None, CPU, torch.float32), ["0", "2"], **sampling)
    with swapped(finetuned.pipeline, finetuned.stand_in(), 0):
        assert torch.equal(sample_images(finetuned.pipeline, ["0", "2"], **sampling), own)


def test_a_checkpoint_of_an_unfinished_run_has_the_classes_of_its_run(tiny_dit: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_dit / "transformer", run / "checkpoint-3" / "transformer")
    (run / "run_config.json").write_text(json.dumps({"id2label": {"0": "elm", "1": "oak"}}))
    assert open_finetuned(load_backbone(tiny_dit), str(run / "checkpoint-3")).class_ids == {"elm": 0, "oak": 1}


def edited(folder: Path, file: str, **values: object) -> Path:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | values))
    return folder


MISTAKES: dict[str, tuple[Callable[[Path, Path, Path], object], str]] = {
    "no such thing": (lambda new, sd, dit: new / "absent", "is neither a folder nor a model that can be had from the Hub"),
    "a file": (lambda new, sd, dit: sd / "model_index.json", "is a file; name the folder it is in"),
    "an empty folder": (lambda new, sd, dit: new.mkdir() or new, "has neither a unet, nor an adapter, nor a ControlNet"),
    "another pipeline": (lambda new, sd, dit: dit, "is a DiTPipeline and the pretrained pipeline a StableDiffusionPipeline"),
    "another architecture": (
        lambda new, sd, dit: edited(save_full(new, sd), "unet/config.json", block_out_channels=[4, 16]),
        "is of another architecture than the pretrained pipeline: ",
    ),
    "fewer blocks": (
        lambda new, sd, dit: edited(save_full(new, sd), "unet/config.json", layers_per_block=2),
        "is missing; name the pipeline that",
    ),
    "another prediction": (
        lambda new, sd, dit: edited(
            save_full(new, sd), "scheduler/scheduler_config.json", prediction_type="v_prediction"
        ),
        "predicts v_prediction and the pretrained pipeline epsilon",
    ),
    "other noise levels": (
        lambda new, sd, dit: edited(save_full(new, sd), "scheduler/scheduler_config.json", beta_end=0.02),
        "was trained on other noise levels than the pretrained pipeline",
    ),
    "no weights": (
        lambda new, sd, dit: (save_full(new, sd) / "unet" / "diffusion_pytorch_model.safetensors").unlink() or new,
        "unet has no weights",
    ),
    "a damaged config": (
        lambda new, sd, dit: (save_full(new, sd) / "unet" / "config.json").write_text("{") and new,
        "config.json cannot be read",
    ),
    "an adapter for another model": (
        lambda new, sd, dit: save_adapter(new, dit, AdapterSettings("bitfit")),
        "is an adapter for a DiTTransformer2DModel, and the pretrained pipeline's denoiser is a UNet2DConditionModel",
    ),
    "an adapter that does not fit": (
        lambda new, sd, dit: edited_adapter(save_adapter(new, sd, AdapterSettings("bitfit"))),
        "does not fit the pretrained unet",
    ),
    "a ControlNet for another model": (
        lambda new, sd, dit: edited(save_controlnet(new, sd), "config.json", cross_attention_dim=16),
        "is of another architecture than the pretrained pipeline",
    ),
    "damaged weights of a UNet": (
        lambda new, sd, dit: cut(save_full(new, sd), "unet"),
        f"new/unet/{WEIGHTS} is damaged: ",
    ),
    "damaged weights of a ControlNet": (
        lambda new, sd, dit: cut(save_controlnet(new, sd)),
        f"new/{WEIGHTS} is damaged: ",
    ),
    "damaged weights of the ControlNet that an adapter is for": (
        lambda new, sd, dit: written(
            save_controlnet(new, sd, CONTROL_LORA), "run_config.json", trained_on(cut(save_controlnet(new.with_name("start"), sd)))
        ),
        f"start/{WEIGHTS} is damaged: ",
    ),
    "weights that are not all there": (
        lambda new, sd, dit: without_a_tensor(save_full(new, sd), "unet"),
        "new/unet lacks weights that its config.json asks for: conv_in.bias for one.",
    ),
    "a damaged scheduler": (
        lambda new, sd, dit: written(save_full(new, sd), "scheduler/scheduler_config.json", "{"),
        "scheduler_config.json cannot be read: ",
    ),
    "a damaged index": (
        lambda new, sd, dit: written(save_full(new, sd), "model_index.json", "{"),
        "model_index.json is not the index of a pipeline",
    ),
}  # fmt: skip
DIT_MISTAKES: dict[str, tuple[Callable[[Path, Path, Path], object], str]] = {
    "damaged weights of a DiT": (
        lambda new, sd, dit: cut(save_full(new, dit), "transformer"),
        f"new/transformer/{WEIGHTS} is damaged: ",
    ),
    "names of classes that have no ids": (
        lambda new, sd, dit: edited(save_full(new, dit), "model_index.json", id2label={"x": "y"}),
        "The id2label of TMP/new/model_index.json is {'x': 'y'}; it must give each id its name, such as",
    ),
    "classes that have no names": (
        lambda new, sd, dit: edited(save_full(new, dit), "model_index.json", id2label={"0": None}),
        "The id2label of TMP/new/model_index.json is {'0': None}; it must",
    ),
    "names in the file of its run that have no ids": (
        lambda new, sd, dit: checkpoint(save_full(new, dit), '{"id2label": {"a": "b"}}'),
        "The id2label of TMP/new/run_config.json is {'a': 'b'}; it must",
    ),
    "a damaged file of its run": (
        lambda new, sd, dit: checkpoint(save_full(new, dit), "{"),
        "TMP/new/run_config.json cannot be read: ",
    ),
    "a file of its run that is nested without end": (
        lambda new, sd, dit: checkpoint(save_full(new, dit), "[" * 100_000),
        "TMP/new/run_config.json cannot be read: ",
    ),
    "a file of its run that is of something else": (
        lambda new, sd, dit: checkpoint(save_full(new, dit), "[1]"),
        "TMP/new/run_config.json cannot be read: it holds [1], not a dictionary; restore it, or name a folder without it.",
    ),
}  # fmt: skip


def cut(folder: Path, component: str = "") -> Path:
    """Without the last 50 bytes of the weights, as after a copy that was broken off."""
    file = folder / component / WEIGHTS
    file.write_bytes(file.read_bytes()[:-50])
    return folder


def without_a_tensor(folder: Path, component: str) -> Path:
    tensors = load_file(folder / component / WEIGHTS)
    del tensors["conv_in.bias"]
    save_file(tensors, folder / component / WEIGHTS)
    return folder


def written(folder: Path, file: str, text: str) -> Path:
    (folder / file).write_text(text)
    return folder


def trained_on(controlnet: Path) -> str:
    """The `run_config.json` of an adapter's run."""
    return json.dumps({"flags": {"controlnet_model_name_or_path": str(controlnet)}})


def checkpoint(folder: Path, run_config: str) -> Path:
    """A checkpoint of a run that is not at its end, and whose `run_config.json` is this."""
    shutil.copytree(folder / "transformer", folder / "checkpoint-3" / "transformer")
    (folder / "model_index.json").unlink()
    return written(folder, "run_config.json", run_config) / "checkpoint-3"


def edited_adapter(folder: Path) -> Path:
    file = folder / "difftune_adapter_config.json"
    file.write_text(file.read_text().replace('"bitfit"', '"difffit"'))
    return folder


@pytest.mark.parametrize("change", [{"num_layers": 1}, {"attention_head_dim": 16}, {"patch_size": 4}])
def test_a_dit_of_another_architecture_is_refused_before_weights_are_loaded(
    change: dict[str, int], tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = edited(save_full(tmp_path / "new", tiny_dit), "transformer/config.json", **change)
    backbone = load_backbone(tiny_dit)

    def too_late(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(backbone.denoiser_class, "from_pretrained", too_late)
    with pytest.raises(
        DiffTuneError, match=r"^\S+ is of another architecture than the pretrained pipeline: [^\n]*\.$"
    ):
        open_finetuned(backbone, str(name))


@pytest.mark.parametrize("mistake", [*MISTAKES, *DIT_MISTAKES])
def test_what_does_not_belong_is_refused_before_weights_are_loaded(
    mistake: str, tiny_pipeline: Path, tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = (MISTAKES | DIT_MISTAKES)[mistake]
    name = str(make(tmp_path / "new", tiny_pipeline, tiny_dit))
    backbone = load_backbone(tiny_dit if mistake in DIT_MISTAKES else tiny_pipeline)

    def too_late(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights are loaded")

    for model in (UNet2DConditionModel, DiTTransformer2DModel, ControlNetModel):
        monkeypatch.setattr(model, "from_pretrained", too_late)
    with pytest.raises(DiffTuneError) as error:
        open_finetuned(backbone, name)
    assert message.replace("TMP", str(tmp_path)) in str(error.value) and str(error.value).endswith(".")
    assert error.value.flag is None, "whoever asked for the model names it"


def test_a_run_from_other_weights_is_refused(tmp_path: Path) -> None:
    config = {"settings": {"model": "a" * 64}, "flags": {"pretrained_model_name_or_path": "some/model"}}
    (tmp_path / "run" / "checkpoint-3" / "controlnet").mkdir(parents=True)
    (tmp_path / "run" / "run_config.json").write_text(json.dumps(config))
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-3" / "controlnet"):
        check_run(folder, "a" * 64)
        with pytest.raises(
            DiffTuneError, match="trained from other weights than those of the pretrained pipeline .* name some/model"
        ):
            check_run(folder, "b" * 64)
    check_run(tmp_path, "b" * 64)  # nobody knows what it was trained from
