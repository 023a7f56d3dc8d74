# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The model card's code: a program that makes an image with the result."""

from collections.abc import Mapping, Sequence
from typing import Any

from .markdown import literal, plain


def usage(
    facts: Mapping[str, Any],
    base: str | None,
    repo_id: str | None,
    result: str,
    images: Mapping[str, Sequence[str]],
    pipeline_class: str,
) -> str:
    """A block of code that makes an image with the result, for the first of the prompts of `images`.

    See [`~diffusers_difftune.publishing.card.model_card`]; `facts` are the public flags, and `base` is the base model's id.
    """
    this = repo_id or "path/to/this/folder"  # where a result is that was not uploaded
    start = this if result == "pipeline" else base or placeholder(facts.get("pretrained_model_name_or_path"))
    of_control, size = result.startswith("controlnet"), facts.get("resolution")
    prompt, shown = next(iter(images.items()), ("an example prompt", []))
    pipeline, options, arguments = "DiffusionPipeline", "", literal(prompt)
    others: list[str] = []
    load: list[str] = []
    vae = facts.get("pretrained_vae_model_name_or_path")
    if vae and result != "pipeline":
        others.append("AutoencoderKL")
        load.append(f"vae = AutoencoderKL.from_pretrained({literal(vae if '/' in vae else placeholder(vae))})")
        options += ", vae=vae"
    if of_control:
        pipeline, options = "StableDiffusionControlNetPipeline", f", controlnet=controlnet{options}"
        others.append("ControlNetModel")
        if result == "controlnet":
            load.append(f"controlnet = ControlNetModel.from_pretrained({literal(this)})")
        elif name := facts.get("controlnet_model_name_or_path"):
            name = name if "/" in name else placeholder(name)
            load.append(f"controlnet = ControlNetModel.from_pretrained({literal(name)})")
        else:
            others.append("UNet2DConditionModel")
            channels = f'ControlNetModel.load_config({literal(this)})["conditioning_embedding_out_channels"]'
            load += [
                f'unet = UNet2DConditionModel.from_pretrained({literal(start)}, subfolder="unet")',
                f"controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels={channels})",
            ]
    if result != "pipeline":
        # Said, because the text encoder of a base that is stored in half precision is loaded so, and nothing else of it.
        options += ", dtype=torch.float32"
    load.append(f"pipeline = {pipeline}.from_pretrained({literal(start)}{options}).to(device)")
    if result == "lora":
        load.append(f"pipeline.load_lora_weights({literal(this)})")
        if prediction_type := facts.get("prediction_type"):  # which a file of LoRA weights cannot tell stock diffusers
            load.append(f"pipeline.scheduler.register_to_config(prediction_type={literal(prediction_type)})")
    if result.endswith("adapter"):
        load.append(f"load_adapter(pipeline, {literal(this)})")
    if of_control:
        place = f"https://huggingface.co/{repo_id}/resolve/main/" if repo_id else f"{this}/"
        load.append(f"condition = load_image({literal(place + shown[0] if shown else 'condition.png')})")
        arguments += ", image=condition"
    arguments += f", height={size}, width={size}" if size else ""
    if pipeline_class == "DiTPipeline":  # names with commas are several names of one class to it
        name = literal(plain(prompt).split(",")[0])
        arguments = f"class_labels=pipeline.get_label_ids([{name}])" if images else "class_labels=[0]"
    lines = [
        "import torch",
        f"from diffusers import {', '.join(sorted([*others, pipeline]))}",
        *(["from diffusers.utils import load_image"] if of_control else []),
        *(["from diffusers_difftune import load_adapter"] if result.endswith("adapter") else []),
        "",
        'device = "cuda" if torch.cuda.is_available() else "cpu"',
        *load,
        f"image = pipeline({arguments}).images[0]",
        'image.save("image.png")',
    ]
    return "\n".join(["```python", *lines, "```"])


def placeholder(name: str | None) -> str:
    """What stands where a model lies that is not on the Hub, of which a card tells no more than the folder's name."""
    return f"path/to/{name}" if name else "path/to/the/base/model"
