# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of `test_bad_input.py`: models that are damaged, lie, or would run something if they were loaded carelessly."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from tests.control_mistakes import CONTROLNET, controlnet


if TYPE_CHECKING:
    from tests.test_bad_input import Place

MODEL, CONTROL = "pretrained_model_name_or_path", "train_controlnet_difftune"
WEIGHTS = "diffusion_pytorch_model.safetensors"
UNET = f"unet/{WEIGHTS}"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def evil(place: "Place") -> bytes:
    """A pickle that leaves a folder `ran` if it is ever loaded."""
    return pickle.dumps(Evil(place.folder / "ran"))


def swapped(place: "Place", old: str, new: str, torch_file: bool = False) -> dict:
    """The pipeline with a pickle in place of one of its weight files."""
    folder = place.copy(place.pipeline)
    (folder / old).unlink()
    if torch_file:
        torch.save({"conv_in.weight": Evil(place.folder / "ran")}, folder / new)
    else:
        (folder / new).write_bytes(evil(place))
    return {MODEL: folder}


def beside(place: "Place", file: str) -> dict:
    """The pipeline with one more component, which training has no use for."""
    folder = place.copy(place.pipeline)
    (folder / file).parent.mkdir()
    (folder / file).write_bytes(evil(place))
    return {MODEL: folder}


def evil_controlnet(place: "Place", name: str) -> dict:
    folder = controlnet(place)
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(evil(place))
    return {CONTROLNET: folder}


def own_code(place: "Place", **values: Any) -> dict:
    """The pipeline with code in it, which its index names."""
    folder = place.edited("model_index.json", **values)
    code = f"import os\nos.mkdir({str(place.folder / 'ran')!r})\n"
    for name in ("pipeline.py", "my_pipeline.py", "unet/my_unet.py", "unet/diffusers.py"):
        if "diffusers.py" not in name or values.get("unet") == ["diffusers", "UNet2DConditionModel"]:
            (folder / name).write_text(code)
    return {MODEL: folder}


def changed(place: "Place", change: Callable[[bytes], bytes], file: str = UNET) -> dict:
    """The pipeline with a changed weight file."""
    folder = place.copy(place.pipeline)
    (folder / file).write_bytes(change((folder / file).read_bytes()))
    return {MODEL: folder}


def with_header(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    """A change of the header of a safetensors file; the tensors stay."""

    def apply(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return apply


def other_tensors(place: "Place", change: Callable[[dict], object], file: str = UNET) -> dict:
    """The pipeline with other tensors in a weight file."""
    folder = place.copy(place.pipeline)
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})
    return {MODEL: folder}


def sharded(place: "Place", *names: object) -> dict:
    """The pipeline with a list of the UNet's files."""
    folder = place.copy(place.pipeline)
    (folder / f"{UNET}.index.json").write_text(json.dumps({"weight_map": dict(enumerate(names))}))
    return {MODEL: folder}


def beyond(header: dict) -> None:
    header["conv_in.weight"]["data_offsets"][1] += 10**12


def overlapping(header: dict) -> None:
    header["conv_in.bias"]["data_offsets"] = header["conv_in.weight"]["data_offsets"]


def of_integers(header: dict) -> None:
    header["conv_in.weight"]["dtype"] = "I32"


def of_bytes(header: dict) -> None:
    header["conv_in.weight"]["dtype"] = "U8"


PICKLE = "its weights are a pickle, which can run code when it is loaded; if you trust it, save it anew, with .*"
CODE = (
    "has code of its own, .*, which is not run; give a pipeline whose parts are classes of diffusers and transformers"
)
WHOLE = f"--{MODEL}: .* is not a whole pipeline: .*"

ROWS: dict[str, tuple] = {
    # pickles
    "a UNet in a pickle": (
        lambda place: swapped(place, UNET, "unet/diffusion_pytorch_model.bin"),
        f"--{MODEL}: .*/unet has diffusion_pytorch_model.bin and no safetensors: {PICKLE}",
    ),
    "a UNet in a pickle of torch": (
        lambda place: swapped(place, UNET, "unet/diffusion_pytorch_model.bin", torch_file=True),
        f"--{MODEL}: .*/unet has diffusion_pytorch_model.bin and no safetensors: {PICKLE}",
    ),
    "a UNet in a checkpoint": (
        lambda place: swapped(place, UNET, "unet/model.ckpt"),
        f"--{MODEL}: .*/unet has model.ckpt and no safetensors: {PICKLE}",
    ),
    "a text encoder in a pickle": (
        lambda place: swapped(place, "text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
        f"--{MODEL}: .*/text_encoder has pytorch_model.bin and no safetensors: {PICKLE}",
    ),
    "a safety checker in a pickle": (
        lambda place: beside(place, "safety_checker/pytorch_model.bin"),
        f"--{MODEL}: .*/safety_checker has pytorch_model.bin and no safetensors: {PICKLE}",
    ),
    "a pickle that calls itself safetensors": (
        lambda place: changed(place, lambda content: evil(place)),
        f"--{MODEL}: .*/{UNET} is damaged: .*",
    ),
    "a ControlNet in a pickle": (
        lambda place: evil_controlnet(place, "diffusion_pytorch_model.bin"),
        f"--{CONTROLNET}: .*/controlnet has diffusion_pytorch_model.bin and no safetensors: {PICKLE}",
        CONTROL,
    ),
    "a ControlNet that is a pickle": (
        lambda place: evil_controlnet(place, WEIGHTS),
        f"--{CONTROLNET}: .*/controlnet/{WEIGHTS} is damaged: .*",
        CONTROL,
    ),
    # code of their own
    "a pipeline of its own": (
        lambda place: own_code(place, _class_name=["my_pipeline", "MyPipeline"]),
        rf"--{MODEL}: the pipeline is a \['my_pipeline', 'MyPipeline'\]; supported pipelines are .*",
    ),
    "a pipeline without a class": (
        lambda place: own_code(place, _class_name=None),
        f"--{MODEL}: the pipeline is a None; supported pipelines are .*",
    ),
    "a UNet of its own": (
        lambda place: own_code(place, unet=["my_unet", "MyUNet"]),
        f"--{MODEL}: the unet of .* {CODE}",
    ),
    "a UNet of its own that calls itself a library's": (
        lambda place: own_code(place, unet=["diffusers", "UNet2DConditionModel"]),
        f"--{MODEL}: the unet of .* {CODE}",
    ),
    "a component of some other package": (
        lambda place: own_code(place, image_encoder=["subprocess", "Popen"]),
        f"--{MODEL}: the image_encoder of .* {CODE}",
    ),
    "a component of nothing": (lambda place: own_code(place, unet=[]), f"--{MODEL}: the unet of .* {CODE}"),
    # safetensors
    "half a file": (
        lambda place: changed(place, lambda content: content[: len(content) // 2]),
        f"--{MODEL}: .*/{UNET} is damaged: .*",
    ),
    "an empty file": (lambda place: changed(place, lambda content: b""), f"--{MODEL}: .*/{UNET} is damaged: .*"),
    "a header longer than the file": (
        lambda place: changed(place, lambda content: struct.pack("<Q", 10**15) + content[8:]),
        f"--{MODEL}: .*/{UNET} is damaged: .*",
    ),
    "a tensor beyond the file's end": (
        lambda place: changed(place, with_header(beyond)),
        f"--{MODEL}: .*/{UNET} is damaged: .*",
    ),
    "two tensors in one place": (
        lambda place: changed(place, with_header(overlapping)),
        f"--{MODEL}: .*/{UNET} is damaged: .*",
    ),
    "a tensor of another size than its type": (
        lambda place: changed(place, with_header(of_bytes)),
        f"--{MODEL}: .*/{UNET} is damaged: .*",
    ),
    "half a VAE": (
        lambda place: changed(place, lambda content: content[:-1], f"vae/{WEIGHTS}"),
        f"--{MODEL}: .*/vae/{WEIGHTS} is damaged: .*",
    ),
    "weights that are whole numbers": (
        lambda place: changed(place, with_header(of_integers)),
        f"--{MODEL}: .*/unet has weights that are no weights: conv_in.weight holds I32",
    ),
    "a tensor of another shape": (
        lambda place: other_tensors(place, lambda tensors: tensors.update({"conv_in.bias": torch.zeros(5)})),
        rf"--{MODEL}: .*/unet has other weights than its config.json says: conv_in.bias has the shape \[5\], not \[4\]",
    ),
    "a tensor less": (
        lambda place: other_tensors(place, lambda tensors: tensors.pop("conv_in.bias")),
        f"--{MODEL}: .*/unet lacks weights that its config.json asks for: conv_in.bias for one",
    ),
    "a VAE of another shape": (
        lambda place: other_tensors(
            place, lambda tensors: tensors.update({"encoder.conv_in.bias": torch.zeros(5)}), f"vae/{WEIGHTS}"
        ),
        f"--{MODEL}: .*/vae has other weights than its config.json says: encoder.conv_in.bias .*",
    ),
    "a list that names files elsewhere": (
        lambda place: sharded(place, "../../elsewhere.safetensors"),
        f"--{MODEL}: .*/{UNET}.index.json names ../../elsewhere.safetensors, which is not there",
    ),
    "a list of no files": (lambda place: sharded(place, [1]), f"--{MODEL}: .*/{UNET}.index.json is damaged: .*"),
    # configs
    "a UNet with a width that is a word": (
        lambda place: {MODEL: place.edited("unet/config.json", block_out_channels="many")},
        WHOLE,
    ),
    "a UNet with negative widths": (
        lambda place: {MODEL: place.edited("unet/config.json", block_out_channels=[-4, -8])},
        WHOLE,
    ),
    "a VAE without widths": (lambda place: {MODEL: place.edited("vae/config.json", block_out_channels=[])}, WHOLE),
    "a scheduler without noise levels": (
        lambda place: {MODEL: place.edited("scheduler/scheduler_config.json", num_train_timesteps=-1)},
        WHOLE,
    ),
    "a scheduler with levels that are a word": (
        lambda place: {MODEL: place.edited("scheduler/scheduler_config.json", num_train_timesteps="many")},
        WHOLE,
    ),
    "a text encoder with a width that is a word": (
        lambda place: {MODEL: place.edited("text_encoder/config.json", hidden_size="many")},
        WHOLE,
    ),
    "a tokenizer that is none": (
        lambda place: {MODEL: damaged(place.copy(place.pipeline), "tokenizer")},
        WHOLE,
    ),
}


def damaged(folder: Path, component: str) -> Path:
    for file in (folder / component).iterdir():
        file.write_text('{"a": ')
    return folder
