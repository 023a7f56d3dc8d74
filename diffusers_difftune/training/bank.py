# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The knowledge bank of a run: the one that a flag names, the one that the run sampled before, or a new one."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import errors
from ..backbones import Backbone
from ..backbones.fingerprint import hub_commit
from ..bank.bank import KnowledgeBank
from ..bank.build import build_bank, check_begun_bank
from ..bank.manifest import MANIFEST_NAME, BankManifest
from ..bank.prompts import draw_prompts, prompts_sha256, read_prompts
from ..bank.settings import FLAGS as SETTING_FLAGS
from ..bank.settings import BankSettings
from ..config.shared import BANK_FLAGS
from ..console import counted
from ..data.cut import tell_cut
from ..data.dataset import TargetData
from ..data.plan import BatchPlan
from ..data.stream import StreamedTarget
from ..errors import DiffTuneError
from ..io.processes import from_main
from .checkpoint_files import read_settings
from .differences import FACTS
from .run import Run


logger = logging.getLogger(__name__)
LARGEST_DEFAULT_BANK = 1000
BANK_FOLDER = "knowledge_bank"
OWN_BANK = "own_bank"  # in the facts of a checkpoint: how the run that wrote it sampled its bank
OWN_PROMPTS = {"captions", "classes", "empty"}  # these are no files, and change with the data and the model alone


def open_bank(
    run: Run, backbone: Backbone, target: TargetData | StreamedTarget
) -> tuple[KnowledgeBank | None, dict[str, Any]]:
    """Opens the bank that `--knowledge_bank` names, or that a resumed run built, and checks that it belongs to the model;
    loads no weights.

    A resumed run takes the bank it built before, also if it is made longer than was planned.

    Returns:
        `tuple[KnowledgeBank | None, dict[str, Any]]`: The bank, `None` if one is to be built, or none is used; and what the
            `--bank_…` flags are by which the run's bank is sampled, whoever sampled it.

    Raises:
        DiffTuneError: The bank is incomplete, damaged, was made from another model or resolution, or was sampled
            otherwise than the flags say.
    """
    config = run.config
    if not run.source_share:
        return None, {}
    place: str | Path | None = config.knowledge_bank
    if place is None:
        place, flags = from_main(run.accelerator, lambda: own_bank(run, backbone, target))
        if place is None:
            return None, flags
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
        flags = bank.manifest.flags()
        if unused := other_flags(config, flags):
            logger.warning("%s: this has no use with --knowledge_bank, whose samples are there.", "; ".join(unused))
    return bank, flags


def own_bank(run: Run, backbone: Backbone, target: TargetData | StreamedTarget) -> tuple[Path | None, dict[str, Any]]:
    """The folder of the bank that a run built before and goes on with, if it did, and the flags by which the run's bank is
    sampled.

    Raises:
        DiffTuneError: A flag that was given is not what the run's bank was sampled with; or the folder has a bank that
            was begun with other settings.
    """
    config, folder = run.config, run.output_dir / BANK_FOLDER
    num_samples = default_size(run, len(target)) if config.bank_samples is None else config.bank_samples
    flags = {name: getattr(config, name) for name in BANK_FLAGS} | {"bank_samples": num_samples}
    manifest = BankManifest.read(folder) if (folder / MANIFEST_NAME).is_file() else None
    if run.checkpoint is None:
        if manifest is not None:  # told before weights are loaded, and not when the bank is about to be sampled
            check_begun_bank(
                folder,
                BankSettings.from_flags(config, num_samples, backbone.resolution, run.seed),
                # The captions of a stream are read when they are needed.
                None if config.streaming else bank_prompts(run, backbone, target, num_samples),
                latent_shape=backbone.latent_shape(),
                model=config.pretrained_model_name_or_path,
                weights_fingerprint=backbone.fingerprint(run.cache_dir),
            )
        return None, flags
    is_whole = manifest is not None and manifest.is_complete
    # A bank that is not whole is sampled again, as the run that wrote the checkpoint sampled it.
    before = manifest.flags() if is_whole else read_settings(run.checkpoint)[FACTS].get(OWN_BANK)
    if before is None:
        return None, flags
    changed = other_flags(config, before)
    if not {config.bank_prompts, before["bank_prompts"]} & OWN_PROMPTS and config.was_given("bank_prompts"):
        # Files and datasets may have been moved, or edited in their place: what counts is the prompts.
        changed = [clause for clause in changed if not clause.startswith("--bank_prompts ")]
        prompts = draw_prompts(bank_prompts(run, backbone, target, num_samples), before["bank_samples"], run.seed)
        if is_whole and prompts_sha256(prompts) != manifest.prompts_sha256:
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


def default_size(run: Run, num_target: int) -> int:
    """As many samples as the run draws source rows, at most 1000."""
    plan = BatchPlan(run.seed, run.global_batch_size, run.source_share, 1, 1)
    drawn = plan.num_source_rows(run.total_steps(num_target) * run.global_batch_size)
    return max(1, min(LARGEST_DEFAULT_BANK, drawn))


def other_flags(config: Any, sampled: Mapping[str, Any]) -> list[str]:
    """The `--bank_…` flags that were given and are not what a bank was sampled with, as clauses."""
    return [
        f"--{name} is {getattr(config, name)}, not {value}"
        for name, value in sampled.items()
        if config.was_given(name) and getattr(config, name) not in (None, value)
    ]


def make_bank(run: Run, backbone: Backbone, target: TargetData | StreamedTarget) -> KnowledgeBank:
    """Samples the untouched pipeline into `OUTPUT_DIR/knowledge_bank`, or goes on where an earlier run stopped. All
    `--bank_…` flags are filled in."""
    config, accelerator = run.config, run.accelerator
    num_samples = config.bank_samples
    prompts = bank_prompts(run, backbone, target, num_samples)
    if config.bank_prompts != "captions" and accelerator.is_main_process:
        tell_cut(prompts, backbone, "prompts of the knowledge bank")
    backbone.load_encoders(accelerator.device, run.weight_dtype)
    pipeline = backbone.pipeline(None, accelerator.device, run.weight_dtype)
    with errors.flag(**SETTING_FLAGS):
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
