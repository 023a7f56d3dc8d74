# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The model card's code: a program that makes an image with the result."""

from collections.abc import Mapping, Sequence
from typing import Any

from .markdown import literal, plain


# Stands where a result is that was not uploaded.
THIS_FOLDER = "path/to/this/folder"


def usage(
    facts: Mapping[str, Any],
    base: str | None,
    repo_id: str | None,
    result: str,
    gallery: Mapping[str, Sequence[str]],
    pipeline_class: str = "StableDiffusionPipeline",
) -> str:
    """Code that makes an image with the result.

    Args:
        facts (`Mapping`): The flags of the run by name.
        base (`str`, *optional*): The base model's id on the Hub.
        repo_id (`str`, *optional*): Where the result is on the Hub.
        result (`str`): What the result is; see [`~diffusers_difftune.publishing.card.model_card`].
        gallery (`Mapping`): Images in the folder by prompt; the code uses the first prompt.
        pipeline_class (`str`, *optional*, defaults to `"StableDiffusionPipeline"`): The class of the base pipeline.

    Returns:
        `str`: A block of Markdown.
    """
    this = repo_id or THIS_FOLDER
    start = this if result == "pipeline" else base or placeholder(facts.get("pretrained_model_name_or_path"))
    size = facts.get("resolution")
    prompt, images = next(iter(gallery.items()), ("an example prompt", []))
    arguments = literal(prompt)
    if result.startswith("controlnet"):
        arguments += ", image=condition"
    arguments += f", height={size}, width={size}" if size else ""
    lines = ["import torch", "from diffusers import DiffusionPipeline", ""]
    # Said, because the text encoder of a base that is stored in half precision is loaded so, and nothing else of it.
    precision = "" if result == "pipeline" else ", dtype=torch.float32"
    vae = facts.get("pretrained_vae_model_name_or_path") if result != "pipeline" else None
    precision = f", vae=vae{precision}" if vae else precision
    load = [f"pipeline = DiffusionPipeline.from_pretrained({literal(start)}{precision}).to(device)"]
    if result == "lora":
        load.append(f"pipeline.load_lora_weights({literal(this)})")
        if prediction_type := facts.get("prediction_type"):  # which a file of LoRA weights cannot tell stock diffusers
            load.append(f"pipeline.scheduler.register_to_config(prediction_type={literal(prediction_type)})")
    if result.startswith("controlnet"):
        lines[1:2] = [
            "from diffusers import ControlNetModel, StableDiffusionControlNetPipeline",
            "from diffusers.utils import load_image",
        ]
        place = f"https://huggingface.co/{repo_id}/resolve/main/" if repo_id else f"{this}/"
        load = [
            f"controlnet = ControlNetModel.from_pretrained({literal(this)})",
            "pipeline = StableDiffusionControlNetPipeline.from_pretrained("
            f"{literal(start)}, controlnet=controlnet{precision}).to(device)",
            f"condition = load_image({literal(place + images[0] if images else 'condition.png')})",
        ]
        if result == "controlnet_adapter":
            load[0] = controlnet_before_training(facts, start, this)
            lines[1] = "from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel"
    if vae:
        lines.insert(1, "from diffusers import AutoencoderKL")
        load.insert(0, f"vae = AutoencoderKL.from_pretrained({literal(vae if '/' in vae else placeholder(vae))})")
    if result.endswith("adapter"):
        lines.insert(-1, "from diffusers_difftune import load_adapter")
        load.insert(1 + result.startswith("controlnet") + bool(vae), f"load_adapter(pipeline, {literal(this)})")
    if pipeline_class == "DiTPipeline":  # names with commas are several names of one class to it
        name = literal(plain(prompt).split(",")[0]) if gallery else None
        arguments = f"class_labels=pipeline.get_label_ids([{name}])" if name else "class_labels=[0]"
    lines += ['device = "cuda" if torch.cuda.is_available() else "cpu"', *load]
    lines += [f"image = pipeline({arguments}).images[0]", 'image.save("image.png")']
    return "\n".join(["```python", *lines, "```"])


def placeholder(name: str | None) -> str:
    """What stands where a model lies that is not on the Hub, of which a card tells no more than the folder's name."""
    return f"path/to/{name}" if name else "path/to/the/base/model"


def controlnet_before_training(facts: Mapping[str, Any], start: str, this: str) -> str:
    """Code that makes the ControlNet that an adapter was trained on."""
    if name := facts.get("controlnet_model_name_or_path"):
        name = name if "/" in name else placeholder(name)
        return f"controlnet = ControlNetModel.from_pretrained({literal(name)})"
    channels = f'ControlNetModel.load_config({literal(this)})["conditioning_embedding_out_channels"]'
    return (
        f'unet = UNet2DConditionModel.from_pretrained({literal(start)}, subfolder="unet")\n'
        f"controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels={channels})"
    )
