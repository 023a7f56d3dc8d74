# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What a run makes once before it trains: the knowledge bank, the cached encodings, and from them the batches."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..backbones import Backbone
from ..backbones.fingerprint import hub_commit
from ..bank.bank import KnowledgeBank
from ..bank.build import begun_bank, build_bank
from ..bank.manifest import MANIFEST_NAME, BankManifest
from ..bank.prompts import draw_prompts, prompts_sha256, read_prompts
from ..bank.settings import BankSettings
from ..config.shared import BANK_FLAGS
from ..data.cache.encodings import CROPS_DRAWN_FROM, ImageCache, build_image_cache, build_prompt_cache, data_name
from ..data.cut import CutCaptions, cut_captions, cut_prompts
from ..data.dataset import TargetData, load_target_data
from ..data.images.decode import READER_VERSION, ImageTransform
from ..data.plan import BatchPlan
from ..data.stream import StreamedTarget
from ..errors import DiffTuneError
from ..io.processes import from_main
from ..objective import DiffTuningObjective
from ..trainables.full import EMA_DECAY
from .batches import PlannedBatches
from .checkpoint_files import read_settings
from .checks import uses_bank
from .differences import FACTS, counted
from .run import Run


if TYPE_CHECKING:
    from ..controls.bank import BankConditions
    from .quality_evaluation import QualityEvaluation

logger = logging.getLogger(__name__)
LARGEST_DEFAULT_BANK = 1000
BANK_FOLDER = "knowledge_bank"
OWN_BANK = "own_bank"  # in the facts of a checkpoint: how the run that wrote it sampled its bank
OWN_PROMPTS = {"captions", "classes", "empty"}  # these are no files, and change with the data and the model alone
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


def open_bank(run: Run, backbone: Backbone, target: TargetData | StreamedTarget) -> KnowledgeBank | None:
    """Opens the bank that `--knowledge_bank` names, or that a resumed run built, and checks that it belongs to the model;
    loads no weights. Afterwards the `--bank_…` flags of the config say how the run's bank is sampled, whoever sampled it.

    A resumed run takes the bank it built before, also if it is made longer than was planned.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        target: Its captions are the prompts of a bank of the run's own, unless `--bank_prompts` says otherwise.

    Returns:
        [`KnowledgeBank`] or `None`: The bank; `None` if one is to be built, or none is used.

    Raises:
        DiffTuneError: The bank is incomplete, damaged, was made from another model or resolution, or was sampled
            otherwise than the flags say.
    """
    config = run.config
    if not run.source_share:
        return None
    place: str | Path | None = config.knowledge_bank
    if place is None:
        place, sampled = from_main(run.accelerator, lambda: own_bank(run, backbone, target))
        vars(config).update(sampled)
        if place is None:
            return None
    with errors.flag("--knowledge_bank"):
        bank = KnowledgeBank.load(place, token=config.hub_token, cache_dir=config.cache_dir)
    if backbone.tokenizer_key is not None and bank.manifest.weights_fingerprint == backbone.fingerprint_of(
        backbone.weight_components, run.cache_dir
    ):
        raise DiffTuneError(
            f"--tokenizer_name {config.tokenizer_name} reads prompts otherwise than the pipeline's own tokenizer, with"
            f" which the bank in {bank.folder} was sampled; leave --knowledge_bank out, and the run samples one with it."
        )
    with errors.flag("--knowledge_bank"):
        bank.check(backbone.fingerprint(run.cache_dir), backbone.latent_shape())
    if config.knowledge_bank is not None:
        if unused := other_flags(config, bank.manifest.flags()):
            logger.warning("%s: this has no use with --knowledge_bank, whose samples are there.", "; ".join(unused))
        vars(config).update(bank.manifest.flags())
    return bank


def own_bank(run: Run, backbone: Backbone, target: TargetData | StreamedTarget) -> tuple[Path | None, dict[str, Any]]:
    """The bank that a run built before and goes on with, if it did, and the flags by which the run's bank is sampled.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        target: Its captions are the prompts, unless `--bank_prompts` says otherwise.

    Returns:
        `tuple[Path | None, dict[str, Any]]`: The folder, and the flags by name.

    Raises:
        DiffTuneError: A flag that was given is not what the run's bank was sampled with; or the folder has a bank that
            was begun with other settings.
    """
    config, folder = run.config, run.output_dir / BANK_FOLDER
    num_samples = bank_size(run, run.total_steps(len(target)))
    flags = {name: getattr(config, name) for name in BANK_FLAGS} | {"bank_samples": num_samples}
    is_whole = is_complete_bank(folder)
    if run.checkpoint is None:
        if (folder / MANIFEST_NAME).is_file():
            check_begun(run, backbone, target, num_samples)
        return None, flags
    before = None
    if is_whole:
        before = BankManifest.read(folder).flags()
    else:  # it is sampled again; what an older checkpoint does not say is as the flags say
        before = read_settings(run.checkpoint).get(FACTS, {}).get(OWN_BANK)
    if before is None:
        return None, flags
    changed = other_flags(config, before)
    if not {config.bank_prompts, before["bank_prompts"]} & OWN_PROMPTS and config.was_given("bank_prompts"):
        # Files and datasets may have been moved, or edited in their place: what counts is the prompts.
        changed = [clause for clause in changed if not clause.startswith("--bank_prompts ")]
        prompts = draw_prompts(bank_prompts(run, backbone, target, num_samples), before["bank_samples"], run.seed)
        if is_whole and prompts_sha256(prompts) != BankManifest.read(folder).prompts_sha256:
            changed.append(f"--bank_prompts {config.bank_prompts} has other prompts than the bank was sampled for")
        before["bank_prompts"] = config.bank_prompts
    if changed:
        raise DiffTuneError(
            f"{'; '.join(changed)}: the run that is resumed goes on with the knowledge bank that it sampled"
            f"{f', {folder}' if is_whole else ''}; leave the flag out, or start anew in another --output_dir."
        )
    if is_whole and config.bank_samples is None and before["bank_samples"] < num_samples:
        logger.warning(
            f"The run goes on with the knowledge bank that it has, of {counted(before['bank_samples'], 'sample')}; one of this"
            f" length would sample {num_samples:,} by default. To have them, sample a larger bank with `difftune bank build` and start"
            " a new run with --knowledge_bank."
        )
    return (folder if is_whole else None), before


def other_flags(config: Any, sampled: Mapping[str, Any]) -> list[str]:
    """The `--bank_…` flags that were given and are not what a bank was sampled with, as clauses."""
    return [
        f"--{name} is {getattr(config, name)}, not {value}"
        for name, value in sampled.items()
        if config.was_given(name) and getattr(config, name) not in (None, value)
    ]


def check_begun(run: Run, backbone: Backbone, target: TargetData | StreamedTarget, num_samples: int) -> None:
    """Refuses, before weights are loaded, what [`build_bank`] would refuse later: another bank in the place of the run's."""
    config = run.config
    streamed = config.streaming  # whose captions are read when they are needed
    begun_bank(
        run.output_dir / BANK_FOLDER,
        BankSettings.from_flags(config, num_samples, backbone.resolution, run.seed),
        None if streamed else bank_prompts(run, backbone, target, num_samples),
        latent_shape=backbone.latent_shape(),
        model=config.pretrained_model_name_or_path,
        weights_fingerprint=backbone.fingerprint(run.cache_dir),
        notes={"num_samples": " (by default as many as the run draws)"} if config.bank_samples is None else None,
    )


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
    prompts = bank_prompts(run, backbone, target, num_samples)
    if config.bank_prompts != "captions" and accelerator.is_main_process:
        found = cut_prompts(prompts, backbone, "prompts of the knowledge bank")
        if found is not None and found.count:
            logger.warning("%s.", found.sentence())
    backbone.load_encoders(accelerator.device, run.weight_dtype)
    pipeline = backbone.pipeline(None, accelerator.device, run.weight_dtype)
    return build_bank(
        pipeline,
        run.output_dir / BANK_FOLDER,
        prompts,
        BankSettings.from_flags(config, num_samples, backbone.resolution, run.seed),
        latent_shape=backbone.latent_shape(),
        model=config.pretrained_model_name_or_path,
        revision=hub_commit(backbone.folder) or config.revision,
        weights_fingerprint=backbone.fingerprint(run.cache_dir),
        accelerator=accelerator,
    )


def bank_prompts(run: Run, backbone: Backbone, target: TargetData | StreamedTarget, num_samples: int) -> list[str]:
    """The prompts that `--bank_prompts` names, to draw from."""
    source = run.config.bank_prompts
    if source == "captions":
        return target.first_captions(num_samples) if isinstance(target, StreamedTarget) else target.distinct_captions
    if source == "classes":
        return backbone.classes.pretrained_prompts() if backbone.classes else []
    with errors.flag("--bank_prompts"):
        return backbone.source_prompts(read_prompts(source))


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
        images = build_image_cache(target, backbone, config, config.cache_dir, device, dtype)
        check_crops(run, images)
        wanted = target.distinct_captions
        if bank is not None:
            wanted = [*wanted, *(bank.prompts() if config.retention_prompts == "sampled" else [""])]
        if config.unconditional_share or backbone.renamed_prompts():
            wanted = [*wanted, ""]
        prompts = build_prompt_cache(wanted, backbone, config.cache_dir, device, dtype, data_name(config))
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
        latent_shape=backbone.latent_shape(),
        transform=ImageTransform(backbone.resolution, config.image_interpolation_mode),
        train_batch_size=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        images=images,
        prompts=prompts,
        to_denoiser=backbone.to_denoiser if cached else None,  # workers must not get the encoders in memory
        bank=bank,
        empty_source_prompts=config.retention_prompts == "empty",
        renamed_prompts=backbone.renamed_prompts(),
        empty_prompts=config.unconditional_share,
        random_flip=config.random_flip,
        center_crop=config.center_crop,
        with_offset=objective.noise_offset > 0,
        with_perturbation=objective.input_perturbation > 0,
        with_control=with_control,
        source_controls=source_controls,
    )


def check_crops(run: Run, images: ImageCache) -> None:
    """Raises a [`DiffTuneError`] if a run would go on with other crops of its images than it began with."""
    if run.checkpoint is None or "crops_drawn_from" in read_settings(run.checkpoint):
        return
    if drawn := sum(images.has_drawn_crops(row) for row in range(len(images))):
        raise DiffTuneError(
            f"--resume_from_checkpoint: {run.checkpoint} was written by an older version, which cropped the {drawn} images that"
            " are not square at other places; resume with that version, or start anew."
        )


def run_settings(
    run: Run,
    backbone: Backbone,
    target: TargetData | StreamedTarget,
    bank: KnowledgeBank | None,
    quality: "QualityEvaluation | None" = None,
) -> dict[str, Any]:
    """What decides the course of a run, so that a checkpoint is only resumed where it means the same.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        target: The target data.
        bank ([`KnowledgeBank`], *optional*): The source rows, if they are there already.
        quality ([`QualityEvaluation`], *optional*): What measures samples; a run may begin or cease to measure.

    Returns:
        `dict[str, Any]`: The settings, and what a person knows of those that are hashes.
    """
    config = run.config
    flags = config.flags()
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
        "model": backbone.fingerprint(run.cache_dir),
        "image_reader": READER_VERSION,
        "target_data": None if config.streaming else target.content_key,
        "crops_drawn_from": CROPS_DRAWN_FROM,
        "knowledge_bank": None
        if config.knowledge_bank is None
        else hashlib.sha256(bank.manifest.to_bytes()).hexdigest(),
        **{name: flags[name] for name in DECISIVE_FLAGS if name in flags and name not in unused},
        "resolution": backbone.resolution,
        **({} if quality is None else {"evaluation": quality.settings}),
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
