# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The model card: what was tuned on what and how, in Markdown with the metadata that the Hub reads."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .. import public_facts
from .figures import drawn_figures
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
    folder: Path,
    run: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]] = (),
    repo_id: str | None = None,
    license: Mapping[str, str] | None = None,
) -> str:
    """The model card of a run folder: the text of its `README.md`.

    Prompts, names of classes and names of files cannot bring markup, code or metadata into it. Tokens and paths of this
    machine are left out.

    Args:
        folder (`Path`): The run folder. The figures in it are shown.
        run (`Mapping`): The content of `run_config.json`: the `"flags"`, the `"seed"`, `"total_steps"`, and in `"card"` what
            came out of the run (see [`Trainer.card_facts`]). The `"result"` is a `"pipeline"`, `"lora"` (weights for
            `load_lora_weights`), an `"adapter"` (for [`load_adapter`]), `"controlnet"` or `"controlnet_adapter"`.
        log (`Sequence`, *optional*): The lines of `training_log.jsonl`.
        repo_id (`str`, *optional*): Where it will be uploaded; the example loads it from there.
        license (`Mapping[str, str]`, *optional*): The license fields of the metadata; see [`inherited_license`].
    """
    flags, told, last = run["flags"], run["card"], log[-1] if log else {}
    result, pipeline_class, bank = told["result"], told["pipeline_class"], told.get("knowledge_bank") or {}
    facts = public_facts(flags | {"seed": run["seed"]})
    base, dataset = hub_id(flags.get("pretrained_model_name_or_path")), hub_id(flags.get("dataset_name"))
    images = {
        prompt: [path for path in paths if (folder / path).is_file()]
        for prompt, paths in told.get("images", {}).items()
    }
    licensed: dict[str, Any] = dict(license or {})
    data = ModelCardData(
        **licensed,
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation" if pipeline_class == "DiTPipeline" else "text-to-image",
        base_model=base,
        base_model_relation=("finetune" if result == "pipeline" else "adapter") if base else None,
        datasets=[dataset] if dataset else None,
        tags=tags(facts, result, pipeline_class),
        widget=None if result.startswith("controlnet") else widget(images),
    )
    steps, total_steps = last.get("step"), run.get("total_steps")
    losses = {name: value for name, value in last.items() if name.startswith("loss") and isinstance(value, float)}
    title = repo_id.split("/")[-1] if repo_id else folder.resolve().name
    parts = [
        f"# {escaped(title)}",
        summary(facts, base, dataset, result, told.get("num_rows"), steps),
        f"Training goes on: it is to make {total_steps:,} steps." if steps and steps < (total_steps or 0) else "",
        gallery(images),
        "## Use",
        usage(facts, base, repo_id, result, images, pipeline_class),
        "## Training",
        table("Setting", settings_of(facts)),
        table(
            "Knowledge bank", {name: public_facts(bank[name]) for name in OF_THE_BANK if bank.get(name) is not None}
        ),
        table("Loss at the end of training", losses),
        table("Measured", measured(log), ("before training", "at the end")),
        *(f"{title}:\n\n![]({path})" for title, path in drawn_figures(folder).items()),
        "## Citation",
        CITATION,
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"))


def settings_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The flags worth a line that the run had, without those that had no effect in it."""
    found = {name: facts[name] for name in SETTINGS if facts.get(name) or name == "seed" in facts}
    idle = [] if "use_ema" in found else ["ema_decay", "ema_warmup"]
    if found.get("adapter") in ("difffit", "bitfit"):
        idle.append("rank")  # the LoRA script has one by default
    if found.get("lr_scheduler") == "constant":
        idle.append("lr_warmup_steps")
    return {name: value for name, value in found.items() if name not in idle}


def measured(log: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float | None, float]]:
    """What was measured on held-out data before the first step and the last time, by name."""
    found: dict[str, tuple[float | None, float]] = {}
    for kind in ("quality", "condition_error"):
        lines = [line for line in log if isinstance(line.get(kind), dict)]
        for name, value in lines[-1][kind].items() if lines else ():
            if isinstance(value, (int, float)):
                first = lines[0][kind].get(name) if lines[0]["step"] == 0 and len(lines) > 1 else None
                found[f"{kind.replace('_', ' ')}: {name}"] = (first, value)
    return found


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
