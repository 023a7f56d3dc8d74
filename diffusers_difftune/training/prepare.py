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
"""What a run makes once before it trains: the knowledge bank, the cached encodings, and from them the batches."""

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.full import EMA_DECAY
from ..backbones import Backbone
from ..bank.bank import KnowledgeBank
from ..bank.build import build_bank
from ..bank.fingerprint import hub_commit, weights_fingerprint
from ..bank.manifest import MANIFEST_NAME, BankManifest
from ..bank.prompts import read_prompts
from ..bank.settings import BankSettings
from ..data.batches import PlannedBatches
from ..data.cache import build_image_cache, build_prompt_cache
from ..data.cut import CutCaptions, cut_captions, cut_prompts
from ..data.dataset import TargetData, load_target_data
from ..data.images import ImageTransform
from ..data.plan import BatchPlan
from ..data.stream import StreamedTarget
from ..errors import DiffTuneError
from ..objective import DiffTuningObjective
from .checks import uses_bank
from .run import Run


if TYPE_CHECKING:
    from ..conditions.bank import BankConditions

logger = logging.getLogger(__name__)
LARGEST_DEFAULT_BANK = 1000
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


def open_target(run: Run) -> TargetData | StreamedTarget:
    """Opens and checks the target data, as a stream with `--streaming`."""
    if run.config.streaming:
        return StreamedTarget(run.config, run.seed, run.config.cache_dir)
    return load_target_data(run.config, run.seed, run.config.cache_dir)


def tell_cut_captions(run: Run, backbone: Backbone, target: TargetData | StreamedTarget) -> CutCaptions | None:
    """Counts the captions that are longer than the model reads, and says so; `None` on other than the main process."""
    found = cut_captions(target, backbone) if run.accelerator.is_main_process else None
    if found is not None and found.count:
        logger.warning("%s.", found.sentence())
    return found


def bank_size(run: Run, total_steps: int) -> int:
    """How many samples to build: `--bank_samples`, or as many source rows as the run draws, at most 1000."""
    if run.config.bank_samples is not None:
        return run.config.bank_samples
    plan = BatchPlan(run.seed, run.global_batch_size, run.source_share, 1, 1)
    return max(1, min(LARGEST_DEFAULT_BANK, plan.num_source_rows(total_steps * run.global_batch_size)))


def open_bank(run: Run, backbone: Backbone) -> KnowledgeBank | None:
    """Opens the bank that `--knowledge_bank` names and checks that it belongs to the model; loads no weights.

    A resumed run takes the bank it built before, also if it is made longer than was planned.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.

    Returns:
        [`KnowledgeBank`] or `None`: The bank; `None` if one is to be built, or none is used.

    Raises:
        DiffTuneError: The bank is incomplete, damaged, or was made from another model or resolution.
    """
    config = run.config
    place = config.knowledge_bank
    own = run.output_dir / "knowledge_bank"
    if place is None and run.source_share and run.checkpoint is not None and is_complete_bank(own):
        place = own
    if place is None:
        return None
    bank = KnowledgeBank.load(place, token=config.hub_token, cache_dir=config.cache_dir)
    if backbone.tokenizer_key is not None and bank.manifest.weights_fingerprint == own_fingerprint(run, backbone):
        raise DiffTuneError(
            f"--tokenizer_name {config.tokenizer_name} reads prompts otherwise than the pipeline's own tokenizer, with"
            f" which the bank in {bank.folder} was sampled; leave --knowledge_bank out, and the run samples one with it."
        )
    return bank.check(fingerprint(run, backbone), backbone.latent_shape(config.resolution))


def is_complete_bank(folder: Path) -> bool:
    """Whether a folder holds a bank that was built to its end."""
    return (folder / MANIFEST_NAME).is_file() and BankManifest.read(folder).is_complete


def make_bank(run: Run, backbone: Backbone, target: TargetData | StreamedTarget, total_steps: int) -> KnowledgeBank:
    """Samples the untouched pipeline into `OUTPUT_DIR/knowledge_bank`, or goes on where an earlier run stopped.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        target: Its captions are the prompts, unless `--bank_prompts` says otherwise.
        total_steps (`int`): Optimiser steps of the run.

    Returns:
        [`KnowledgeBank`]: The bank.
    """
    config, accelerator = run.config, run.accelerator
    num_samples = bank_size(run, total_steps)
    if config.bank_prompts == "captions":
        prompts = target.first_captions(num_samples) if config.streaming else target.distinct_captions()
    elif config.bank_prompts == "classes":
        prompts = backbone.source_classes()
    else:
        prompts = backbone.source_prompts(read_prompts(config.bank_prompts))
        found = (
            cut_prompts(prompts, backbone, "prompts of the knowledge bank") if accelerator.is_main_process else None
        )
        if found is not None and found.count:
            logger.warning("%s.", found.sentence())
    backbone.load_encoders(accelerator.device, run.weight_dtype)
    pipeline = backbone.pipeline(None, accelerator.device, run.weight_dtype)
    return build_bank(
        pipeline,
        run.output_dir / "knowledge_bank",
        prompts,
        BankSettings.from_flags(config, num_samples, run.seed),
        latent_shape=backbone.latent_shape(config.resolution),
        model=config.pretrained_model_name_or_path,
        revision=hub_commit(backbone.folder) or config.revision,
        weights_fingerprint=fingerprint(run, backbone),
        accelerator=accelerator,
    )


def fingerprint(run: Run, backbone: Backbone) -> str:
    """What a knowledge bank must have been sampled from: the pretrained weights, and what `--tokenizer_name` makes of
    prompts, if that is something else than the pipeline's own tokenizer does."""
    weights = own_fingerprint(run, backbone)
    if backbone.tokenizer_key is None:
        return weights
    return hashlib.sha256(f"{weights} {backbone.tokenizer_key}".encode()).hexdigest()


def own_fingerprint(run: Run, backbone: Backbone) -> str:
    """The fingerprint of the pretrained weights; see [`weights_fingerprint`]."""
    return weights_fingerprint(backbone.folder, backbone.weight_components, backbone.variant, run.cache_dir)


def make_batches(
    run: Run,
    backbone: Backbone,
    objective: DiffTuningObjective,
    target: TargetData | StreamedTarget,
    bank: KnowledgeBank | None,
    with_control: bool = False,
    source_controls: "BankConditions | None" = None,
) -> PlannedBatches:
    """Encodes images and prompts once (unless told not to) and lays out the batches of this process.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): Its encoders are loaded if something is to be encoded; with caches they leave memory.
        objective ([`DiffTuningObjective`]): Says which random numbers a row needs.
        target: The target data.
        bank ([`KnowledgeBank`], *optional*): The source rows.
        with_control (`bool`, *optional*, defaults to `False`): Rows have control images.
        source_controls ([`BankConditions`], *optional*): Those of the source rows; blank without it.

    Returns:
        [`PlannedBatches`]: The batch of each micro-step.
    """
    config, accelerator = run.config, run.accelerator
    cached = not (config.no_cache or config.streaming)
    images = prompts = None
    if cached:
        device, dtype = accelerator.device, run.weight_dtype
        at_once = min(config.train_batch_size, 16)  # a machine that trains with this has the memory to encode it
        images = build_image_cache(target, backbone, config, config.cache_dir, device, dtype, at_once)
        wanted = target.distinct_captions()
        if bank is not None:
            wanted = [*wanted, *(bank.prompts() if config.retention_prompts == "sampled" else [""])]
        if config.proportion_empty_prompts or backbone.renamed_prompts():
            wanted = [*wanted, ""]
        prompts = build_prompt_cache(wanted, backbone, config.cache_dir, device, dtype)
        backbone.release_encoders()
    else:
        backbone.load_encoders(accelerator.device, run.weight_dtype)
    return PlannedBatches(
        plan=BatchPlan(
            seed=run.seed,
            batch_size=run.global_batch_size,
            source_share=run.source_share,
            num_target=len(target),
            num_source=0 if bank is None else len(bank),
        ),
        target=target,
        latent_shape=backbone.latent_shape(config.resolution),
        transform=ImageTransform(config.resolution, config.image_interpolation_mode),
        train_batch_size=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        images=images,
        prompts=prompts,
        scale_latents=backbone.scale_latents if cached else None,  # workers must not get the encoders in memory
        bank=bank,
        empty_source_prompts=config.retention_prompts == "empty",
        renamed_prompts=backbone.renamed_prompts(),
        empty_prompts=config.proportion_empty_prompts,
        random_flip=config.random_flip,
        center_crop=config.center_crop,
        with_offset=objective.noise_offset > 0,
        with_perturbation=objective.input_perturbation > 0,
        with_control=with_control,
        source_controls=source_controls,
    )


def run_settings(
    run: Run, backbone: Backbone, target: TargetData | StreamedTarget, bank: KnowledgeBank | None
) -> dict[str, Any]:
    """What decides the course of a run, so that a checkpoint is only resumed where it means the same."""
    config = run.config
    flags = dataclasses.asdict(config)
    if flags.get("use_ema") and flags["ema_decay"] is None:
        flags["ema_decay"] = EMA_DECAY
    unused = (
        set()
        if uses_bank(config)
        else {"retention_weight", "retention_power", "retention_target", "retention_prompts"}
    )
    if config.objective == "standard":
        unused |= {"reconsolidation_power", "coefficients"}
    return {
        "seed": run.seed,
        "global_batch_size": run.global_batch_size,
        "source_share": run.source_share,
        "controlnet": "conditioning_image_column" in flags,
        "model": fingerprint(run, backbone),
        "target_data": None if config.streaming else target.content_key,
        "knowledge_bank": None
        if config.knowledge_bank is None
        else hashlib.sha256(bank.manifest.to_bytes()).hexdigest(),
        **{name: flags[name] for name in DECISIVE_FLAGS if name in flags and name not in unused},
    }
