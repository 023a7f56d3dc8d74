# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Files of adapters that do not fit or are damaged, those on the Hub, and what else a pipeline is told."""

import json
import math
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusers_difftune import DiffTuneError, load_adapter, merge_adapter
from diffusers_difftune.adapters.files import CONFIG_FILE, LORA_FILE, TENSOR_FILE
from diffusers_difftune.adapters.peft_layers import layers
from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.trainables import AdaptedDenoiser
from tests.hub_server import HubServer, Repo

from .subjects import KINDS, Subject, with_always_trained


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> dict[str, Path]:
    """The folders of some trained adapters."""
    found = {}
    for model, kind in (
        ("unet", "lora"),
        ("unet", "loha"),
        ("unet", "difffit"),
        ("unet", "bitfit"),
        ("unet", "parameters"),
        ("controlnet", "lora"),
        ("transformer", "oft"),
        ("transformer", "bitfit"),
    ):
        subject = Subject(model, folders[model])
        trained = subject.adapted(kind)
        subject.train(trained, steps=1)
        found[f"{model} {kind}"] = tmp_path_factory.mktemp("saved")
        trained.save_result(found[f"{model} {kind}"])
    return found


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def edited(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def other_tensors(file: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({name: change(tensor) for name, tensor in load_file(file).items()}, file, metadata=metadata)


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "nothing there": ("unet loha", lambda f: [path.unlink() for path in f.iterdir()], "There is no adapter in .*"),
    "half a file": ("unet loha", lambda f: cut(f / TENSOR_FILE), f".*/{TENSOR_FILE} is missing or damaged: .*"),
    "half a LoRA": ("unet lora", lambda f: cut(f / LORA_FILE), f".*/{LORA_FILE} is missing or damaged: .*"),
    "no tensors": ("unet loha", lambda f: (f / TENSOR_FILE).unlink(), f".*/{TENSOR_FILE} is missing or damaged: .*"),
    "half a config": (
        "unet loha",
        lambda f: cut(f / CONFIG_FILE),
        f".*/{CONFIG_FILE} cannot be read: it is not what .*",
    ),
    "empty config": (
        "unet loha",
        lambda f: (f / CONFIG_FILE).write_text("[]"),
        ".* cannot be read: it is not what .*",
    ),
    "unknown kind": (
        "unet loha",
        lambda f: edited(f / CONFIG_FILE, adapter={"kind": "prefix"}),
        ".* cannot be read: The kind of adapter is 'prefix'; known are lora, .*",
    ),
    "another rank than the file's": (
        "unet loha",
        lambda f: edited(f / CONFIG_FILE, adapter=KINDS["loha"].to_dict() | {"rank": 3}),
        r".* does not fit the pipeline's unet: .*hada_w1_a has the shape \[8, 2\], and here it is \[8, 3\]",
    ),
    "fewer modules than the file's": (
        "unet loha",
        lambda f: edited(f / CONFIG_FILE, adapter=KINDS["loha"].to_dict() | {"target_modules": ["to_q"]}),
        ".* does not fit the pipeline's unet: [0-9]+ of its tensors belong to nothing here, .* for one",
    ),
    "more modules than the file's": (
        "unet loha",
        lambda f: edited(f / CONFIG_FILE, adapter=KINDS["loha"].to_dict() | {"target_modules": ["to_q", "proj_in"]}),
        ".* does not fit the pipeline's unet: [0-9]+ of its [0-9]+ tensors are missing, .* for one",
    ),
    "a pickle for tensors": (
        "unet loha",
        lambda f: (f / TENSOR_FILE).write_bytes(pickle.dumps({"a": 1})),
        f".*/{TENSOR_FILE} is missing or damaged: .*",
    ),
    "tensors beyond the file": (
        "unet loha",
        lambda f: (f / TENSOR_FILE).write_bytes(struct.pack("<Q", 10**12) + (f / TENSOR_FILE).read_bytes()[8:]),
        f".*/{TENSOR_FILE} is missing or damaged: .*",
    ),
    "a number that is none": (
        "unet loha",
        lambda f: other_tensors(f / TENSOR_FILE, lambda tensor: tensor.fill_(float("nan"))),
        ".* does not fit the pipeline's unet: .* holds what is no finite number",
    ),
    "whole numbers": (
        "unet loha",
        lambda f: other_tensors(f / TENSOR_FILE, lambda tensor: tensor.long()),
        ".* does not fit the pipeline's unet: .* holds what is no finite number",
    ),
    "a LoRA of numbers that are none": (
        "unet lora",
        lambda f: other_tensors(f / LORA_FILE, lambda tensor: tensor.fill_(float("inf"))),
        ".* does not fit the pipeline's unet: .* holds what is no finite number",
    ),
    "a prediction that there is not": (
        "unet loha",
        lambda f: edited(f / CONFIG_FILE, pipeline={"prediction_type": "noise"}),
        ".* cannot be read: Its prediction_type is 'noise'",
    ),
    "names of classes that are none": (
        "unet loha",
        lambda f: edited(f / CONFIG_FILE, pipeline={"id2label": {"0": 7}}),
        ".* cannot be read: Its id2label is {'0': 7}",
    ),
    "a component that is a number": (
        "unet loha",
        lambda f: edited(f / CONFIG_FILE, component=7),
        ".* cannot be read: Its component is 7",
    ),
    **{
        f"{name} {value!r}": (
            "unet loha",
            lambda f, name=name, value=value: edited(f / CONFIG_FILE, adapter=KINDS["loha"].to_dict() | {name: value}),
            f".* cannot be read: These are not the settings of an adapter: {name} is .*",
        )
        for name, values in {
            "kind": (None, 7, ["loha"]),
            "rank": (None, "2", 0, -1, 2.0, True, 10**30),
            "alpha": ("1", 0, -1, math.nan, math.inf, 1e30),
            "dropout": (None, "0", 1.0, -0.1, math.nan),
            "target_modules": (None, "to_q", 7, [7], {"a": 1}),
            "train_parameters": (None, "*", [None]),
            "always_trained": (None, "*", [[]]),
        }.items()
        for value in values
    },
    "another model": (
        "transformer oft",
        lambda f: None,
        ".* is an adapter for a transformer, and this StableDiffusionPipeline has none; load it .*",
    ),
    "a ControlNet's": (
        "controlnet lora",
        lambda f: None,
        ".* is an adapter for a controlnet, and this StableDiffusionPipeline has none; load it .*",
    ),
    "another class": (
        "unet loha",
        lambda f: edited(f / CONFIG_FILE, model_class="UNet3DConditionModel"),
        ".* is an adapter for a UNet3DConditionModel, and the pipeline's unet is a UNet2DConditionModel; load it .*",
    ),
    "modules that cannot be adapted": (
        "unet loha",
        lambda f: edited(f / CONFIG_FILE, adapter=KINDS["loha"].to_dict() | {"target_modules": ["to_q", "attn1"]}),
        ".* does not fit the pipeline's unet: the unet's .*attn1 is of the class Attention, and loha is for Linear and"
        " Conv2d; name attn1.to_q, .* in place of attn1",
    ),
    "two adapters": (
        "unet loha",
        lambda f: (f / LORA_FILE).touch(),
        ".* has two adapters, .*; move the older one away",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_damaged_or_belongs_elsewhere_is_refused_in_one_sentence(
    case: str, saved: dict[str, Path], folders: dict[str, Path], tmp_path: Path
) -> None:
    which, damage, said = DAMAGE[case]
    folder = shutil.copytree(saved[which], tmp_path / "adapter")
    damage(folder)
    subject = Subject("unet", folders["unet"])
    pipeline = subject.pipeline()
    before = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    with pytest.raises(DiffTuneError, match=f"^{said}\\.$"):
        load_adapter(pipeline, folder)
    after = pipeline.unet.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("kind", ["lora", "loha", "difffit"])
@pytest.mark.parametrize("changes", [
    {"block_out_channels": (4, 16)},
    {"block_out_channels": (4, 8, 8), "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
     "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D")},
], ids=["wider", "deeper"])  # fmt: skip
def test_another_architecture_of_the_same_class_is_refused(
    kind: str, changes: dict[str, Any], saved: dict[str, Path], folders: dict[str, Path]
) -> None:
    pipeline = Subject("unet", folders["unet"]).pipeline()
    pipeline.register_modules(unet=UNet2DConditionModel.from_config({**pipeline.unet.config, **changes}))
    with pytest.raises(DiffTuneError, match="^.* does not fit the pipeline's unet: [^.]*"):
        load_adapter(pipeline, saved[f"unet {kind}"])
    assert not layers(pipeline.unet) and not any("difffit" in name for name, _ in pipeline.unet.named_parameters())


PAIRS = [
    ("unet lora", "unet loha"),
    ("unet difffit", "unet lora"),
    ("unet bitfit", "unet bitfit"),
    ("unet bitfit", "unet lora"),
    ("unet bitfit", "unet difffit"),
    ("unet parameters", "unet parameters"),
    ("unet loha", "unet bitfit"),
    ("transformer bitfit", "transformer oft"),
    ("transformer oft", "transformer bitfit"),
    ("controlnet lora", "controlnet lora"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_one_adapter_at_a_time(first: str, second: str, saved: dict[str, Path], folders: dict[str, Path]) -> None:
    """Also where nothing was added to the model, and its own parameters are others than they were."""
    name = first.split()[0]
    pipeline = Subject(name, folders[name]).pipeline()
    load_adapter(pipeline, saved[first])
    model = getattr(pipeline, name)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DiffTuneError, match=f"The pipeline's {name} has an adapter already, .* merge_adapter first."):
        load_adapter(pipeline, saved[second])
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_after_merging_another_can_be_loaded(
    first: str, second: str, saved: dict[str, Path], folders: dict[str, Path]
) -> None:
    """It goes onto the merged weights as onto the same weights in a model that had no adapter."""
    name = first.split()[0]
    subject = Subject(name, folders[name])
    pipeline = subject.pipeline()
    load_adapter(pipeline, saved[first])
    merge_adapter(pipeline)
    other = subject.pipeline()
    getattr(other, name).load_state_dict(getattr(pipeline, name).state_dict())
    load_adapter(pipeline, saved[second])
    load_adapter(other, saved[second])
    with torch.no_grad():
        assert torch.equal(subject.outputs(getattr(pipeline, name)), subject.outputs(getattr(other, name)))


def test_what_diffusers_takes_out_makes_room_for_another(saved: dict[str, Path], folders: dict[str, Path]) -> None:
    pipeline = Subject("unet", folders["unet"]).pipeline()
    load_adapter(pipeline, saved["unet lora"])
    pipeline.unload_lora_weights()
    load_adapter(pipeline, saved["unet bitfit"])


def test_the_rows_of_new_classes_are_saved_whether_or_not_they_were_trained(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    backbone = load_backbone(folders["transformer"]).with_classes(["ash", "elm", "oak"], reset_seed=0)
    settings = with_always_trained(KINDS["bitfit"], backbone.always_trained)
    trained = AdaptedDenoiser(backbone, backbone.load_denoiser(), settings)
    trained.save_result(tmp_path)
    pipeline = DiTPipeline.from_pretrained(folders["transformer"])
    load_adapter(pipeline, tmp_path)
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(pipeline.transformer.state_dict()[name], tensor), name
    assert pipeline.labels == {"ash": 0, "elm": 1, "oak": 2}
    pipeline.save_pretrained(tmp_path / "saved")
    assert DiTPipeline.from_pretrained(tmp_path / "saved").labels == pipeline.labels


def test_weight_decay_leaves_rows_and_scales_alone(folders: dict[str, Path]) -> None:
    subject = Subject("transformer", folders["transformer"])
    trained = subject.adapted("difffit")
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.1, weight_decay=0.5)
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    for parameter in trained.model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    moved = {name for name, tensor in trained.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.endswith(".bias") for name in moved)


def test_the_prediction_type_travels_with_the_adapter(folders: dict[str, Path], tmp_path: Path) -> None:
    backbone = load_backbone(folders["unet"], prediction_type="v_prediction")
    AdaptedDenoiser(backbone, backbone.load_denoiser(), KINDS["bitfit"]).save_result(tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(folders["unet"], safety_checker=None)
    load_adapter(pipeline, tmp_path)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_an_adapter_on_the_hub(saved: dict[str, Path], folders: dict[str, Path], hub_server: HubServer) -> None:
    for which in ("unet lora", "unet difffit"):
        files = {path.name: path.read_bytes() for path in saved[which].iterdir()}
        repo = f"user/{which.split()[1]}"
        hub_server.repos[f"models/{repo}"] = Repo("models", repo, [files], ["initial commit"])
    program = """
import sys
from diffusers import StableDiffusionPipeline
from diffusers_difftune import DiffTuneError, load_adapter, merge_adapter

pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None)
for name in ("user/lora", "user/difffit"):
    load_adapter(pipeline, name)
    merge_adapter(pipeline)
try:
    load_adapter(pipeline, "user/nowhere")
except DiffTuneError as error:
    print(error)
"""
    done = hub_server.run(program, folders["unet"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "user/nowhere is neither a folder nor an adapter that can be had from the Hub" in done.stdout
