# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What makes two runs the same run: the settings that a checkpoint is written with, and only resumed under."""

import hashlib
from typing import Any

from ..backbones import Backbone
from ..backbones.fingerprint import hub_commit
from ..bank.bank import KnowledgeBank
from ..config.shared import BANK_FLAGS
from ..console import counted
from ..data.dataset import TargetData
from ..data.images.decode import READER_VERSION
from ..data.stream import StreamedTarget
from ..trainables.full import EMA_DECAY
from .bank import OWN_BANK
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
    run: Run, backbone: Backbone, target: TargetData | StreamedTarget, bank: KnowledgeBank | None
) -> dict[str, Any]:
    """What decides the course of a run, so that a checkpoint is only resumed where it means the same, and [`run_facts`]
    of what is there as hashes."""
    config = run.config
    flags = config.flags()
    if flags.get("use_ema") and flags["ema_decay"] is None:
        flags["ema_decay"] = EMA_DECAY
    unused = set()
    if not config.uses_bank:
        unused = {"retention_weight", "retention_power", "retention_target", "retention_prompts"}
    if config.objective == "standard":
        unused |= {"reconsolidation_power", "coefficients"}
    bank_hash = None
    if config.knowledge_bank is not None and bank is not None:
        bank_hash = hashlib.sha256(bank.manifest.to_bytes()).hexdigest()
    return {
        "seed": run.seed,
        "global_batch_size": run.global_batch_size,
        "source_share": run.source_share,
        "controlnet": False,
        "model": backbone.fingerprint(run.cache_dir),
        "image_reader": READER_VERSION,
        "target_data": None if config.streaming else target.content_key,
        "knowledge_bank": bank_hash,
        **{name: flags[name] for name in DECISIVE_FLAGS if name in flags and name not in unused},
        "resolution": backbone.resolution,
        FACTS: run_facts(run, backbone, target, bank),
    }


def run_facts(
    run: Run, backbone: Backbone, target: TargetData | StreamedTarget, bank: KnowledgeBank | None
) -> dict[str, Any]:
    """What a person knows of what [`run_settings`] has hashes of, in words. It is kept to be told, and decides nothing."""
    config = run.config
    commit = hub_commit(backbone.folder) or config.revision
    data = f"from {config.dataset_name or config.train_data_dir}"
    if isinstance(target, TargetData):
        one, many = ("caption", "captions") if target.class_names is None else ("class", "classes")
        distinct = counted(len(target.distinct_captions), f"distinct {one}", f"distinct {many}")
        data = f"{counted(len(target), 'row')} with {distinct} {data}"
    facts: dict[str, Any] = {
        "model": config.pretrained_model_name_or_path + (f" at commit {commit}" if commit else ""),
        "target_data": data,
    }
    if config.knowledge_bank is not None and bank is not None:
        samples = counted(len(bank), "sample")
        facts["knowledge_bank"] = f"{samples} of {bank.manifest.model} from {config.knowledge_bank}"
    elif run.source_share:
        facts[OWN_BANK] = {name: getattr(config, name) for name in BANK_FLAGS}
    return facts
