# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What makes two runs the same run: the settings that a checkpoint is written with, and only resumed under."""

import hashlib
from typing import Any

from ..backbones import Backbone
from ..backbones.fingerprint import hub_commit
from ..bank.bank import KnowledgeBank
from ..config.shared import BANK_FLAGS
from ..data.cache.encodings import CROPS_DRAWN_FROM, ImageCache
from ..data.dataset import TargetData
from ..data.images.decode import READER_VERSION
from ..data.stream import StreamedTarget
from ..errors import DiffTuneError
from ..trainables.full import EMA_DECAY
from .bank import OWN_BANK
from .checkpoint_files import read_settings
from .differences import FACTS
from .run import Run


# The flags that decide the course of a run, beside its seed, model, data and bank.
DECISIVE_FLAGS = """
    resolution center_crop random_flip crops_per_image image_interpolation_mode no_cache streaming
    proportion_empty_prompts class_dropout_prob class_embeddings variance_loss
    objective retention_weight reconsolidation_power retention_power coefficients retention_target retention_prompts
    prediction_type snr_gamma noise_offset input_perturbation dream_training dream_detail_preservation
    learning_rate scale_lr lr_scheduler lr_warmup_steps lr_num_cycles lr_power
    adam_beta1 adam_beta2 adam_weight_decay adam_epsilon use_8bit_adam max_grad_norm skip_nonfinite_steps
    use_ema ema_decay ema_warmup mixed_precision
    adapter rank lora_alpha lora_dropout lora_target_modules train_parameters
""".split()  # noqa: SIM905 (a list of forty words would fill forty lines)


def run_settings(
    run: Run,
    backbone: Backbone,
    target: TargetData | StreamedTarget,
    bank: KnowledgeBank | None,
) -> dict[str, Any]:
    """What decides the course of a run, so that a checkpoint is only resumed where it means the same.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        target: The target data.
        bank ([`KnowledgeBank`], *optional*): The source rows, if they are there already.

    Returns:
        `dict[str, Any]`: The settings, and what a person knows of those that are hashes.
    """
    config = run.config
    flags = config.flags()
    if flags.get("use_ema") and flags["ema_decay"] is None:
        flags["ema_decay"] = EMA_DECAY
    unused = (
        set() if config.uses_bank else {"retention_weight", "retention_power", "retention_target", "retention_prompts"}
    )
    if config.objective == "standard":
        unused |= {"reconsolidation_power", "coefficients"}
    return {
        "seed": run.seed,
        "global_batch_size": run.global_batch_size,
        "source_share": run.source_share,
        "controlnet": False,
        "model": backbone.fingerprint(run.cache_dir),
        "image_reader": READER_VERSION,
        "target_data": None if config.streaming else target.content_key,
        "crops_drawn_from": CROPS_DRAWN_FROM,
        "knowledge_bank": None
        if config.knowledge_bank is None
        else hashlib.sha256(bank.manifest.to_bytes()).hexdigest(),
        **{name: flags[name] for name in DECISIVE_FLAGS if name in flags and name not in unused},
        "resolution": backbone.resolution,
        FACTS: run_facts(run, backbone, target, bank),
    }


def run_facts(
    run: Run, backbone: Backbone, target: TargetData | StreamedTarget, bank: KnowledgeBank | None
) -> dict[str, dict[str, Any]]:
    """What a person knows of what [`run_settings`] has hashes of. It is kept to be told, and decides nothing."""
    config = run.config
    data = {"source": config.dataset_name or config.train_data_dir}
    if isinstance(target, TargetData):
        called = "caption" if target.class_names is None else "class"
        data = {"rows": len(target), "captions": len(target.distinct_captions), "called": called, **data}
    facts = {
        "model": {
            "name": config.pretrained_model_name_or_path,
            "revision": hub_commit(backbone.folder) or config.revision,
        },
        "target_data": data,
    }
    if config.knowledge_bank is not None and bank is not None:
        facts["knowledge_bank"] = {
            "samples": len(bank),
            "model": bank.manifest.model,
            "source": config.knowledge_bank,
        }
    elif run.source_share:
        facts[OWN_BANK] = {name: getattr(config, name) for name in BANK_FLAGS}
    return facts


def check_crops(run: Run, images: ImageCache) -> None:
    """Raises a [`DiffTuneError`] if a run would go on with other crops of its images than it began with."""
    if run.checkpoint is None or "crops_drawn_from" in read_settings(run.checkpoint):
        return
    if drawn := sum(images.has_drawn_crops(row) for row in range(len(images))):
        raise DiffTuneError(
            f"--resume_from_checkpoint: {run.checkpoint} was written by an older version, which cropped the {drawn} images that"
            " are not square at other places; resume with that version, or start anew."
        )
