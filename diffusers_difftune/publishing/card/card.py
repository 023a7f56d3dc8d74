# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The model card: what was tuned on what and how, in Markdown with the metadata that the Hub reads."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import ModelCard, ModelCardData

from .. import public_facts
from .markdown import escaped, gallery, plain, table
from .usage import usage


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
    *("dream_training", "use_ema", "ema_decay", "ema_warmup", "mixed_precision", "seed"),
)
# What the card says of a knowledge bank.
OF_THE_BANK = ("num_samples", "solver", "steps", "guidance_scale", "prompt_source", "seed")


def model_card(
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    license: Mapping[str, str] | None = None,
    result: str = "pipeline",
    pipeline_class: str = "StableDiffusionPipeline",
    steps: int | None = None,
    total_steps: int | None = None,
    num_rows: int | None = None,
    losses: Mapping[str, float] | None = None,
    measured: Mapping[str, Sequence[float | None]] | None = None,
    bank: Mapping[str, Any] | None = None,
    images: Mapping[str, Sequence[str | Path]] | None = None,
    figures: Mapping[str, str | Path] | None = None,
) -> str:
    """The model card of a run folder.

    Prompts, names of classes and names of files cannot bring markup, code or metadata into it.

    Args:
        folder (`str` or `Path`): The run folder.
        config (`Mapping`): The flags of the run by name, as in `run_config.json`. Tokens and local paths are left out.
        repo_id (`str`, *optional*): Where it will be uploaded; the example loads it from there.
        license (`Mapping[str, str]`, *optional*): The license fields of the metadata; see [`inherited_license`].
        result (`str`, *optional*, defaults to `"pipeline"`): What is in the folder: `"pipeline"`, `"lora"` (weights for
            `load_lora_weights`), `"adapter"` (for [`load_adapter`]), `"controlnet"` or `"controlnet_adapter"`.
        pipeline_class (`str`, *optional*, defaults to `"StableDiffusionPipeline"`): The class of the base pipeline.
        steps (`int`, *optional*): Optimiser steps that were made.
        total_steps (`int`, *optional*): Optimiser steps of the whole run.
        num_rows (`int`, *optional*): Rows of target data.
        losses (`Mapping[str, float]`, *optional*): The last loss figures by name, as in `training_log.jsonl`.
        measured (`Mapping`, *optional*): What was measured, by name: before the first step (`None` if it was not) and at
            the end.
        bank (`Mapping`, *optional*): The knowledge bank's manifest.
        images (`Mapping[str, Sequence]`, *optional*): Validation images, files in the run folder, by prompt.
        figures (`Mapping`, *optional*): Figures, files in the run folder, by what they show.

    Returns:
        `str`: The text of `README.md`.
    """
    facts = public_facts(dict(config))
    if facts.get("adapter") in ("difffit", "bitfit"):
        facts.pop("rank", None)  # the LoRA script has one by default
    if facts.get("lr_scheduler") == "constant":
        facts.pop("lr_warmup_steps", None)  # it takes none, whatever the default
    base, dataset = model_of(config), dataset_of(config)
    shown = {prompt: [inside(path, folder) for path in paths] for prompt, paths in (images or {}).items()}
    licensed: dict[str, Any] = dict(license or {})
    data = ModelCardData(
        **licensed,
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation" if pipeline_class == "DiTPipeline" else "text-to-image",
        base_model=base,
        base_model_relation=("finetune" if result == "pipeline" else "adapter") if base else None,
        datasets=[dataset] if dataset else None,
        tags=tags(facts, result, pipeline_class),
        widget=None if result.startswith("controlnet") else widget(shown),
    )
    title = repo_id.split("/")[-1] if repo_id else Path(folder).resolve().name
    parts = [
        f"# {escaped(title)}",
        summary(facts, base, dataset, result, num_rows, steps),
        f"Training goes on: it is to make {total_steps:,} steps." if steps and steps < (total_steps or 0) else "",
        gallery(shown),
        "## Use",
        usage(facts, base, repo_id, result, shown, pipeline_class),
        "## Training",
        table("Setting", settings_of(facts)),
        bank_text(bank),
        table("Loss at the end of training", losses or {}),
        table("Measured", measured or {}, ("before training", "at the end")),
        *(f"{escaped(title)}:\n\n![]({quote(inside(path, folder))})" for title, path in (figures or {}).items()),
        "## Citation",
        CITATION,
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"))


def settings_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The flags worth a line that the run had; those of a moving average only if it kept one."""
    found = {name: facts[name] for name in SETTINGS if facts.get(name) or name == "seed" in facts}
    return {name: value for name, value in found.items() if "use_ema" in found or not name.startswith("ema_")}


def inside(path: str | Path, folder: str | Path) -> str:
    """A file of the run folder as the card names it."""
    return os.path.relpath(path, folder).replace(os.sep, "/")


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
    return name if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) else None


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
    return [{"text": plain(prompt), "output": {"url": paths[0]}} for prompt, paths in gallery.items() if paths] or None


def summary(
    facts: Mapping[str, Any],
    base: str | None,
    dataset: str | None,
    result: str,
    num_rows: int | None,
    steps: int | None,
) -> str:
    """What was tuned on what, in a paragraph."""
    model = (
        f"[{base}](https://huggingface.co/{base})" if base else escaped(facts.get("pretrained_model_name_or_path", ""))
    )
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
        "goes on denoising samples of the base model mostly at low ones, so that it forgets less of what it knew"
    )
    if facts.get("objective") == "standard":
        how = "standard fine-tuning"
    return f"{kinds[result]} {model}, trained on {data}{rows}{length} with {how}. Made with `diffusers-difftune`."


def bank_text(bank: Mapping[str, Any] | None) -> str:
    """How the knowledge bank was made."""
    if not bank:
        return ""
    return table(
        "Knowledge bank", {name: public_facts(bank[name]) for name in OF_THE_BANK if bank.get(name) is not None}
    )
