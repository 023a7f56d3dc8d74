# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The model card: what was tuned on what and how, in Markdown with the metadata that the Hub reads."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import HfApi, ModelCard, ModelCardData

from .atomic import write_bytes_atomic
from .hub import HUB_ERRORS, public_facts


logger = logging.getLogger(__name__)

CITATION = """\
```bibtex
@inproceedings{zhong2024diffusion,
  title     = {Diffusion Tuning: Transferring Diffusion Models via Chain of Forgetting},
  author    = {Zhong, Jincheng and Guo, Xingzhuo and Dong, Jiaxiang and Long, Mingsheng},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  note      = {arXiv:2406.00773}
}
```"""

ADAPTERS = {
    "lora": "LoRA",
    "dora": "DoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "oft": "OFT",
    "boft": "BOFT",
    "difffit": "DiffFit",
    "bitfit": "BitFit",
}
# The flags worth a line of the card, in this order, where the run had them.
SETTINGS = (
    *("objective", "source_share", "retention_weight", "reconsolidation_power", "retention_power", "coefficients"),
    *("retention_target", "retention_prompts", "condition_kind", "condition_model", "retention_condition", "adapter"),
    *("rank", "lora_alpha", "lora_dropout", "lora_target_modules", "train_parameters"),
    *("class_dropout_prob", "class_embeddings"),
    *("resolution", "center_crop", "random_flip", "learning_rate", "lr_scheduler", "lr_warmup_steps"),
    *("train_batch_size", "gradient_accumulation_steps", "snr_gamma", "noise_offset", "input_perturbation"),
    *("dream_training", "use_ema", "mixed_precision", "seed"),
)


def write_model_card(
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    base_folder: str | Path | None = None,
    result: str = "pipeline",
    pipeline_class: str = "StableDiffusionPipeline",
    steps: int | None = None,
    num_rows: int | None = None,
    losses: Mapping[str, float] | None = None,
    bank: Mapping[str, Any] | None = None,
    images: Mapping[str, Sequence[str | Path]] | None = None,
    token: str | None = None,
) -> Path:
    """Writes `README.md` into a run folder.

    Args:
        folder (`str` or `Path`): The run folder.
        config (`Mapping`): The flags of the run by name, as in `run_config.json`. Tokens and local paths are left out.
        repo_id (`str`, *optional*): Where it will be uploaded; the example loads it from there.
        base_folder (`str` or `Path`, *optional*): Where the base model lies on this machine.
        result (`str`, *optional*, defaults to `"pipeline"`): What is in the folder: `"pipeline"`, `"lora"` (weights for
            `load_lora_weights`), `"adapter"` (for [`load_adapter`]), `"controlnet"` or `"controlnet_adapter"`.
        pipeline_class (`str`, *optional*, defaults to `"StableDiffusionPipeline"`): The class of the base pipeline.
        steps (`int`, *optional*): Optimiser steps that were made.
        num_rows (`int`, *optional*): Rows of target data.
        losses (`Mapping[str, float]`, *optional*): The last loss figures by name, as in `training_log.jsonl`.
        bank (`Mapping`, *optional*): The knowledge bank's manifest.
        images (`Mapping[str, Sequence]`, *optional*): Validation images, files in the run folder, by prompt.
        token (`str`, *optional*): To ask the Hub for the license of the base model.

    Returns:
        `Path`: The card.
    """
    folder = Path(folder)
    facts = public_facts(dict(config))
    if facts.get("adapter") in ("difffit", "bitfit"):
        facts.pop("rank", None)  # the LoRA script has one by default
    base, dataset = model_of(config), dataset_of(config)
    gallery = {
        prompt: [os.path.relpath(path, folder).replace(os.sep, "/") for path in paths]
        for prompt, paths in (images or {}).items()
    }
    data = ModelCardData(
        **inherited_license(base, base_folder, config.get("revision"), token),
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation" if pipeline_class == "DiTPipeline" else "text-to-image",
        base_model=base,
        base_model_relation=("finetune" if result == "pipeline" else "adapter") if base else None,
        datasets=[dataset] if dataset else None,
        tags=tags(facts, result, pipeline_class),
        widget=None if result.startswith("controlnet") else widget(gallery),
    )
    title = repo_id.split("/")[-1] if repo_id else folder.resolve().name
    parts = [
        f"# {title}",
        summary(facts, base, dataset, result, num_rows, steps),
        gallery_text(gallery),
        "## Use",
        usage(facts, base, repo_id, result, gallery, pipeline_class),
        "## Training",
        table("Setting", {name: facts[name] for name in SETTINGS if facts.get(name) not in (None, False)}),
        bank_text(bank),
        table("Loss at the end of training", losses or {}),
        "## Citation",
        CITATION,
    ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n")
    path = folder / "README.md"
    write_bytes_atomic(path, str(card).encode())
    return path


def inherited_license(
    base: str | None, base_folder: str | Path | None, revision: str | None = None, token: str | None = None
) -> dict[str, Any]:
    """The license fields of the base model's card: from the card in its folder, or else from the Hub, or else none."""
    card: Any = None
    try:
        if base_folder and (Path(base_folder) / "README.md").is_file():
            card = ModelCard((Path(base_folder) / "README.md").read_text(encoding="utf-8"), True).data
        elif base:
            card = HfApi(token=token).model_info(base, revision=revision, timeout=10).card_data
    except HUB_ERRORS as error:
        logger.warning("The license of %s is not known (%s); the model card names none.", base, type(error).__name__)
    names = ("license", "license_name", "license_link")
    found = card.to_dict() if card is not None else {}
    return {name: found[name] for name in names if isinstance(found.get(name), str)}


def model_of(config: Mapping[str, Any]) -> str | None:
    """The id on the Hub of the model that was tuned, or `None` if it was a folder of this machine."""
    return hub_id(config.get("pretrained_model_name_or_path"))


def dataset_of(config: Mapping[str, Any]) -> str | None:
    """The id on the Hub of the data that were tuned on, or `None` if they were a folder of this machine."""
    return hub_id(config.get("dataset_name"))


def hub_id(name: str | None) -> str | None:
    """The name if it is one on the Hub."""
    if not name or Path(name).exists():
        return None
    name = public_facts(name)  # a path into the cache of downloads is an id as well
    return name if name.count("/") == 1 and not name.startswith((".", "~", "/")) else None


def tags(facts: Mapping[str, Any], result: str, pipeline_class: str) -> list[str]:
    """The tags by which the Hub finds it; those of Stable Diffusion are the ones diffusers' own scripts set."""
    kind = "class-conditional" if pipeline_class == "DiTPipeline" else "text-to-image"
    found = [kind, "diffusers", "diffusers-training"]
    found += ["diff-tuning"] if facts.get("objective") != "standard" else []
    found += ["stable-diffusion", "stable-diffusion-diffusers"] if pipeline_class == "StableDiffusionPipeline" else []
    found += ["controlnet"] if result.startswith("controlnet") else []
    found += [facts["adapter"]] if result.endswith("adapter") and facts.get("adapter") else []
    return found + (["lora"] if result == "lora" else [])


def widget(gallery: Mapping[str, Sequence[str]]) -> list[dict[str, Any]] | None:
    """An example of each prompt for the Hub's page."""
    return [{"text": prompt, "output": {"url": paths[0]}} for prompt, paths in gallery.items() if paths] or None


def summary(
    facts: Mapping[str, Any],
    base: str | None,
    dataset: str | None,
    result: str,
    num_rows: int | None,
    steps: int | None,
) -> str:
    """What was tuned on what, in a paragraph."""
    model = f"[{base}](https://huggingface.co/{base})" if base else facts.get("pretrained_model_name_or_path", "")
    data = f"[{dataset}](https://huggingface.co/datasets/{dataset})" if dataset else "a set of images"
    rows = f" ({num_rows:,} rows)" if num_rows else ""
    length = f" for {steps:,} steps" if steps else ""
    weights = f"{ADAPTERS.get(facts.get('adapter', 'lora'), 'Some')} weights"
    controlnet = f"A ControlNet ({facts['condition_kind']})" if facts.get("condition_kind") else "A ControlNet"
    kinds = {
        "pipeline": "A fine-tuned version of",
        "lora": f"{weights} for",
        "adapter": f"{weights} for",
        "controlnet": f"{controlnet} for",
        "controlnet_adapter": f"{controlnet}, as {weights}, for",
    }
    how = (
        "[Diff-Tuning](https://arxiv.org/abs/2406.00773), which learns the new images mostly at high noise levels and "
        "goes on denoising samples of the base model mostly at low ones, so that the model keeps what it knew"
    )
    if facts.get("objective") == "standard":
        how = "standard fine-tuning"
    return f"{kinds[result]} {model}, trained on {data}{rows}{length} with {how}. Made with `diffusers-difftune`."


def gallery_text(gallery: Mapping[str, Sequence[str]]) -> str:
    """The validation images under their prompts."""
    images = [" ".join(f"![]({quote(path)})" for path in paths) for paths in gallery.values()]
    return "\n\n".join(f"*{' '.join(prompt.split())}*\n\n{row}" for prompt, row in zip(gallery, images))


def usage(
    facts: Mapping[str, Any],
    base: str | None,
    repo_id: str | None,
    result: str,
    gallery: Mapping[str, Sequence[str]],
    pipeline_class: str = "StableDiffusionPipeline",
) -> str:
    """Code that makes an image with the result."""
    this = repo_id or "path/to/this/folder"
    start = this if result == "pipeline" else base or facts.get("pretrained_model_name_or_path") or "the/base/model"
    size = facts.get("resolution")
    prompt, images = next(iter(gallery.items()), ("an example prompt", []))
    arguments = json.dumps(prompt, ensure_ascii=False)
    if result.startswith("controlnet"):
        arguments += ", image=condition"
    arguments += f", height={size}, width={size}" if size else ""
    lines = ["import torch", "from diffusers import DiffusionPipeline", ""]
    load = [f'pipeline = DiffusionPipeline.from_pretrained("{start}").to(device)']
    if result == "lora":
        load.append(f'pipeline.load_lora_weights("{this}")')
    if result.startswith("controlnet"):
        lines[1:2] = [
            "from diffusers import ControlNetModel, StableDiffusionControlNetPipeline",
            "from diffusers.utils import load_image",
        ]
        place = f"https://huggingface.co/{repo_id}/resolve/main/" if repo_id else f"{this}/"
        load = [
            f'controlnet = ControlNetModel.from_pretrained("{this}")',
            f'pipeline = StableDiffusionControlNetPipeline.from_pretrained("{start}", controlnet=controlnet).to(device)',
            f'condition = load_image("{place + images[0] if images else "condition.png"}")',
        ]
        if result == "controlnet_adapter":
            load[0] = controlnet_before_training(facts, start, this)
            lines[1] = "from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel"
    if result.endswith("adapter"):
        lines.insert(-1, "from diffusers_difftune import load_adapter")
        load.insert(1 + result.startswith("controlnet"), f'load_adapter(pipeline, "{this}")')
    if pipeline_class == "DiTPipeline":  # names with commas are several names of one class to it
        name = json.dumps(prompt.split(",")[0].strip(), ensure_ascii=False) if gallery else None
        arguments = f"class_labels=pipeline.get_label_ids([{name}])" if name else "class_labels=[0]"
    lines += ['device = "cuda" if torch.cuda.is_available() else "cpu"', *load]
    lines += [f"image = pipeline({arguments}).images[0]", 'image.save("image.png")']
    return "\n".join(["```python", *lines, "```"])


def controlnet_before_training(facts: Mapping[str, Any], start: str, this: str) -> str:
    """Code that makes the ControlNet that an adapter was trained on."""
    if name := facts.get("controlnet_model_name_or_path"):
        return f'controlnet = ControlNetModel.from_pretrained("{name}")'
    channels = f'ControlNetModel.load_config("{this}")["conditioning_embedding_out_channels"]'
    return (
        f'unet = UNet2DConditionModel.from_pretrained("{start}", subfolder="unet")\n'
        f"controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels={channels})"
    )


def bank_text(bank: Mapping[str, Any] | None) -> str:
    """How the knowledge bank was made."""
    if not bank:
        return ""
    shown = ("num_samples", "solver", "steps", "guidance_scale", "prompt_source", "seed")
    return table("Knowledge bank", {name: public_facts(bank[name]) for name in shown if bank.get(name) is not None})


def table(title: str, rows: Mapping[str, Any]) -> str:
    """A table of names and values, or nothing without rows."""
    if not rows:
        return ""
    lines = [f"| {title} | |", "|---|---|"]
    for name, value in rows.items():
        if isinstance(value, float):
            value = f"{value:.6g}"
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        lines.append(f"| {name.replace('_', ' ')} | {str(value).replace('|', '&#124;')} |")
    return "\n".join(lines)
