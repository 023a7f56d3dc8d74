# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Mistakes with the ControlNet script, one a row, as `test_bad_input.py` has them for all scripts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
from diffusers import ControlNetModel, UNet2DConditionModel

from tests.tiny import byte_tokenizer, save_tiny_conditions, save_tiny_images, tiny_condition, tiny_image


if TYPE_CHECKING:
    from tests.test_bad_input import Place

MODEL, DATA, OUT, RESUME = "pretrained_model_name_or_path", "train_data_dir", "output_dir", "resume_from_checkpoint"
CONTROLNET, HELD_OUT = "controlnet_model_name_or_path", "control_evaluation_data"


def controlnet(place: "Place", **config: object) -> Path:
    """A ControlNet for the pipeline, with other values in its config."""
    unet = UNet2DConditionModel.from_pretrained(place.pipeline, subfolder="unet")
    new = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    new.save_pretrained(place.folder / "controlnet")
    file = place.folder / "controlnet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return file.parent


def without_weights(folder: Path) -> Path:
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    return folder


def tokenizer(place: "Place", length: int, *more_words: str) -> Path:
    made = byte_tokenizer(length)
    made.add_tokens(list(more_words))
    made.save_pretrained(place.folder / "tokenizer")
    return place.folder / "tokenizer"


def rows(place: "Place", count: int = 4, **without: int) -> Path:
    """A folder of images with control images; `column=row` takes that column out of that row."""
    folder = save_tiny_conditions(place.folder / "data", count)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for column, row in without.items():
        del lines[row][column]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def damaged(place: "Place") -> Path:
    """A control image that is no image, one that is not there, and one that is wide where its image is square."""
    folder = rows(place, 5)
    (folder / "condition-01.png").write_text("not an image")
    (folder / "condition-02.png").unlink()
    tiny_condition(3, (32, 16)).save(folder / "condition-03.png")
    return folder


def parquet(place: "Place", **columns: list) -> Path:
    """A Parquet file of images, captions and more columns."""
    pairs = [tiny_image(index) for index in range(3)]
    data = {"image": [pair[0] for pair in pairs], "text": [pair[1] for pair in pairs], **columns}
    (place.folder / "data").mkdir()
    datasets.Dataset.from_dict(data).to_parquet(place.folder / "data" / "train.parquet")
    return place.folder / "data"


def empty_file(place: "Place") -> str:
    (place.folder / "empty.png").touch()
    return str(place.folder / "empty.png")


# What is wrong: the flags that make it so, or a function of the place that returns them, and what the script says.
ROWS: dict[str, tuple] = {
    # validation
    "validation prompt without image": (
        {"validation_prompt": ["red", "blue"]},
        "--validation_prompt is given without --validation_image; give both or neither",
    ),
    "validation image without prompt": (
        lambda place: {"validation_image": [place.conditions / "condition-00.png"]},
        "--validation_image is given without --validation_prompt; give both or neither",
    ),
    "more validation images than prompts": (
        lambda place: {
            "validation_prompt": ["red", "blue"],
            "validation_image": [place.conditions / f"condition-0{i}.png" for i in range(3)],
        },
        "--validation_prompt has 2 values and --validation_image 3; give as many of both, or a single one of either",
    ),
    "validation image that is not there": (
        {"validation_prompt": ["red"], "validation_image": ["nowhere.png"]},
        "--validation_image nowhere.png cannot be read: no such file nowhere.png",
    ),
    "validation image that is no image": (
        lambda place: {"validation_prompt": ["red"], "validation_image": [empty_file(place)]},
        "--validation_image .*/empty.png cannot be read: not an image",
    ),
    "fewer than no images": ({"num_validation_images": -1}, "--num_validation_images is -1; it must be at least 0"),
    "validation at every zeroth step": ({"validation_steps": 0}, "--validation_steps is 0; it must be at least 1"),
    # flags
    "text-to-image flag": ({"center_crop": True}, "Unrecognized arguments: --center_crop"),
    "no power": ({"lr_power": 0.0}, "--lr_power is 0.0; it must be above 0"),
    "power that is no number": ({"lr_power": "nan"}, "--lr_power is nan; it must be a finite number"),
    "no cycles": ({"lr_num_cycles": 0}, "--lr_num_cycles is 0; it must be at least 1"),
    "stream of control images without an end": (
        {"streaming": True, "max_train_steps": None},
        "--streaming does not know how long an epoch is; give --max_train_steps",
    ),
    # adapters
    "no rank": ({"rank": 0}, "--rank is 0; it must be at least 1"),
    "negative alpha": ({"rank": 2, "lora_alpha": -1.0}, "--lora_alpha is -1.0; it must be above 0"),
    "all dropped": ({"rank": 2, "lora_dropout": 1.0}, "--lora_dropout is 1.0; it must be at least 0 and below 1"),
    "rank without an adapter": (
        {"rank": 8},
        "--rank needs --adapter; it is a setting of lora, dora, loha, lokr, oft, boft",
    ),
    "modules that a ControlNet has not": (
        {"adapter": "lora", "lora_target_modules": ["to_q", "up_blocks.0.resnets.0.conv1"]},
        "--lora_target_modules .*: there is no module up_blocks.0.resnets.0.conv1 in the ControlNet",
    ),
    "parameters that a ControlNet has not": (
        {"train_parameters": ["mid_block.*", "up_blocks.*"]},
        "--train_parameters .*: none of the [0-9]+ parameters of the ControlNet has a name like up_blocks.*; the first is .*",
    ),
    "blocks that do not divide": (
        {"adapter": "oft", "rank": 3},
        "--adapter oft: blocks of 3 do not divide the 8 inputs of .*; give a --rank that does",
    ),
    # control conditions
    "unknown kind": ({"condition_kind": "pose"}, "Argument --condition_kind.*: invalid choice: 'pose' .*"),
    "model of nothing": (
        {"condition_model": "drawing"},
        "--condition_model needs --condition_kind, which says what the control images are",
    ),
    "revision of nothing": (
        {"condition_revision": "main"},
        "--condition_revision needs --condition_kind, which says what the control images are",
    ),
    "model of edges": (
        {"condition_kind": "edge", "condition_model": "user/edges"},
        "--condition_kind edge: the model is 'user/edges', but edge is computed without a model; leave it out",
    ),
    "revision of drawings": (
        {"condition_kind": "depth", "condition_model": "drawing", "condition_revision": "main"},
        "--condition_kind depth: the revision is 'main', but 'drawing' is no model; leave the revision out",
    ),
    "nothing to extract": (
        {"retention_condition": "extracted"},
        "--retention_condition extracted needs --condition_kind, which says what to extract; or use blank",
    ),
    "control images for no source rows": (
        {"retention_condition": "blank", "objective": "standard"},
        "--retention_condition needs source rows; .*",
    ),
    # held-out data
    "held-out data without a kind": (
        lambda place: {HELD_OUT: place.conditions},
        "--control_evaluation_data needs --condition_kind, which says what the control images are",
    ),
    "held-out data that are nowhere": (
        lambda place: {HELD_OUT: place.folder / "nowhere", "condition_kind": "sketch"},
        "--control_evaluation_data: there is no folder .*/nowhere",
    ),
    "held-out data without control images": (
        lambda place: {HELD_OUT: place.images, "condition_kind": "sketch"},
        "--control_evaluation_data: --conditioning_image_column: .* has no column conditioning_image_file_name; .*",
    ),
    "too few held-out rows": (
        lambda place: {HELD_OUT: place.conditions, "condition_kind": "sketch"},
        "--control_evaluation_data .* has 6 rows, and --control_evaluation_samples is 32; give more rows or measure fewer",
    ),
    "held-out control image of another shape": (
        lambda place: {HELD_OUT: damaged(place), "condition_kind": "sketch"},
        "--control_evaluation_data: 3 of 5 images cannot be used: .*",
    ),
    "edges too small to compare": (
        lambda place: {HELD_OUT: place.conditions, "condition_kind": "edge", "resolution": 8},
        "--control_evaluation_data: the structural similarity has a window of 11 pixels; these images have 8 × 8",
    ),
    "no held-out rows": (
        {"control_evaluation_samples": 0},
        "--control_evaluation_samples is 0; it must be at least 1",
    ),
    "steps to measure at, and nothing to measure on": (
        {"control_evaluation_steps": 5},
        "--control_evaluation_steps needs --control_evaluation_data, the rows to measure on",
    ),
    "measured at every zeroth step": (
        {"control_evaluation_steps": 0, "control_evaluation_data": "anything", "condition_kind": "sketch"},
        "--control_evaluation_steps is 0; it must be at least 1",
    ),
    "no guidance": (
        {"control_evaluation_guidance_scale": 0.0},
        "--control_evaluation_guidance_scale is 0.0; it must be at least 1.0",
    ),
    # the tokenizer
    "tokenizer that is nowhere": (
        {"tokenizer_name": "user/nowhere"},
        "--tokenizer_name user/nowhere cannot be loaded: .*",
    ),
    "tokenizer of more words": (
        lambda place: {"tokenizer_name": tokenizer(place, 32, "cat", "dog")},
        "--tokenizer_name .*/tokenizer has a vocabulary of 516 and needs at most 514, the text_encoder's vocab_size; .*",
    ),
    "tokenizer of longer prompts": (
        lambda place: {"tokenizer_name": tokenizer(place, 77)},
        "--tokenizer_name .*/tokenizer has model_max_length 77 and needs at most 32, the text_encoder's .*; .*",
    ),
    # the ControlNet
    "ControlNet that is nowhere": (
        {CONTROLNET: "user/nowhere"},
        f"--{CONTROLNET} user/nowhere is neither a folder with a ControlNet nor one that can be had from the Hub: .*",
    ),
    "folder without a ControlNet": (
        lambda place: {CONTROLNET: place.images},
        f"--{CONTROLNET} .* is neither a folder with a ControlNet nor .*",
    ),
    "ControlNet that is a UNet": (
        lambda place: {CONTROLNET: place.pipeline / "unet"},
        f"--{CONTROLNET} .*/unet is a UNet2DConditionModel; this pipeline needs a ControlNetModel",
    ),
    "ControlNet of another family": (
        lambda place: {CONTROLNET: controlnet(place, _class_name="SD3ControlNetModel")},
        f"--{CONTROLNET} .*/controlnet is a SD3ControlNetModel; this pipeline needs a ControlNetModel",
    ),
    "a ControlNet that asks for classes": (
        lambda place: {CONTROLNET: controlnet(place, num_class_embeds=10)},
        f"--{CONTROLNET} .* belongs to another model: its num_class_embeds is 10, and the denoiser's is None",
    ),
    "ControlNet for another text encoder": (
        lambda place: {CONTROLNET: controlnet(place, cross_attention_dim=768)},
        f"--{CONTROLNET} .* belongs to another model: its cross_attention_dim is 768, and the denoiser's is 32",
    ),
    "ControlNet of another size": (
        lambda place: {CONTROLNET: controlnet(place, block_out_channels=[8, 16])},
        rf"--{CONTROLNET} .* belongs to another model: its block_out_channels is \[8, 16\], and the denoiser's is \[4, 8\]",
    ),
    "ControlNet for another VAE": (
        lambda place: {CONTROLNET: controlnet(place, conditioning_embedding_out_channels=[16, 32, 96, 256])},
        f"--{CONTROLNET} .* belongs to another model: it makes control images 8 times smaller, and the VAE .* 2 times .*",
    ),
    "ControlNet for other control images": (
        lambda place: {CONTROLNET: controlnet(place, conditioning_channels=1)},
        f"--{CONTROLNET} .* takes control images of 1 channels; these are of 3",
    ),
    "ControlNet without weights": (
        lambda place: {CONTROLNET: without_weights(controlnet(place))},
        f"--{CONTROLNET}: .*/controlnet has no weights",
    ),
    # target data
    "folder without control images": (
        lambda place: {DATA: place.images},
        "--conditioning_image_column: .*/metadata.jsonl has no column conditioning_image_file_name; the columns are "
        "file_name, text",
    ),
    "folder with another name for them": (
        {"conditioning_image_column": "scribble"},
        "--conditioning_image_column: .* has no column scribble_file_name; the columns are .*, conditioning_image",
    ),
    "Parquet without control images": (
        lambda place: {DATA: parquet(place, scribble=[tiny_condition(i) for i in range(3)])},
        "--conditioning_image_column: there is no column conditioning_image; the columns are image, text, scribble",
    ),
    "dataset without control images": (
        lambda place: {DATA: None, "dataset_name": save_tiny_images(place.folder / "data")},
        "--conditioning_image_column: there is no column conditioning_image; the columns are .*",
    ),
    "column without images": (
        lambda place: {DATA: parquet(place, conditioning_image=[1, 2, 3])},
        "--conditioning_image_column: the column conditioning_image holds int64, not images",
    ),
    "damaged control images": (
        lambda place: {DATA: damaged(place)},
        r"--train_data_dir: 3 of 5 images cannot be used: row 1 01.png \(its conditioning image: not an image\), "
        r"row 2 02.png \(its conditioning image: no such file .*\), row 3 03.png \(it is 16 × 16 and its conditioning image "
        r"32 × 16\); repair or remove them, or leave them out with --skip_bad_images",
    ),
    "fewer control images than images": (
        lambda place: {DATA: rows(place, conditioning_image=2)},
        "--train_data_dir: row 3 of .*/metadata.jsonl names no file in conditioning_image",
    ),
    "fewer control images than images in Parquet": (
        lambda place: {DATA: parquet(place, conditioning_image=[tiny_condition(0), None, tiny_condition(2)])},
        r"--train_data_dir: 1 of 3 images cannot be used: row 1 \(its conditioning image: no image\); .*",
    ),
    "no control image in a stream": (
        lambda place: {DATA: damaged_first(place), "streaming": True},
        r"The image of row 0 of the stream cannot be used \(its conditioning image: no such file .*\); --skip_bad_images .*",
    ),
    "control image of another shape in a stream": (
        lambda place: {DATA: wide_first(place), "streaming": True},
        r"The image of row 0 of the stream cannot be used \(it is 16 × 16 and its conditioning image 32 × 16\); .*",
    ),
    # checkpoints
    "checkpoint of a text-to-image run": (
        lambda place: {RESUME: place.finished / "checkpoint-2"},
        "--resume_from_checkpoint .* belongs to another run: .*it trained no ControlNet and this one trains a ControlNet.*; use the same .*",
    ),
}


def damaged_first(place: "Place") -> Path:
    folder = rows(place)
    (folder / "condition-00.png").unlink()
    return folder


def wide_first(place: "Place") -> Path:
    folder = rows(place)
    tiny_condition(0, (32, 16)).save(folder / "condition-00.png")
    return folder
