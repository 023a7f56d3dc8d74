# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What a run is about to do, in words, before anything is sampled, encoded or trained: for the terminal, and for
`run_config.json`."""

import logging
from bisect import bisect_right
from fractions import Fraction
from itertools import groupby
from typing import Any

import torch
from accelerate import Accelerator

from ..adapters import Adapter
from ..bank.manifest import MANIFEST_NAME, BankManifest
from ..config.idle_flags import idle_flags
from ..console import counted, labelled_block, terminal_width
from ..data.cut import CutCaptions
from ..data.dataset import TargetData
from ..data.images.sizes import image_sides
from ..data.report import FileRows
from ..data.stream import StreamedTarget
from ..io.processes import from_main
from .bank import BANK_FOLDER, bank_prompts
from .task import Task


logger = logging.getLogger(__name__)
PRECISIONS = {"no": "float32", "fp16": "float16 (mixed)", "bf16": "bfloat16 (mixed)", "fp8": "float8 (mixed)"}
# A training step computes an output and the gradients to its inputs and to its weights: three times what an output takes.
OUTPUTS_PER_TRAINED_ROW = 3
MOST_NAMED = {"files": 3, "classes": 5}


def tell_summary(trainer: Task) -> dict[str, Any]:
    """Prints, on the main process, what the run is about to do, and warns of flags that have no effect. Loads no weights.

    Returns:
        `dict[str, Any]`: The texts by their labels, and under `notes` the warnings, for `run_config.json`.
    """

    def tell() -> dict[str, Any]:
        with torch.random.fork_rng(devices=[]):
            rows, notes = summarize(trainer)
        logger.info(labelled_block("Summary of this run", list(rows.items()), terminal_width()))
        for note in notes:
            logger.warning(note)
        return {**rows, "notes": notes}

    return from_main(trainer.context.accelerator, tell)


def summarize(trainer: Task) -> tuple[dict[str, str], list[str]]:
    """The texts by their labels, and what to warn of."""
    config = trainer.config
    rate, highest = learning_rate(trainer)
    rows = {
        **model_rows(trainer),
        "objective": objective_words(trainer),
        **data_rows(trainer),
        "steps": step_words(trainer),
        "learning rate": rate,
        "bank": bank_words(trainer),
        "saves": save_words(config, trainer.total_steps, trainer.state.start_step),
        "validates": validation_words(trainer),
        "measures": evaluation_words(trainer),
        "computes": machine_words(trainer.context.accelerator),
        "results": result_words(config),
    }
    notes = [*config.notes, *idle_flags(config)]
    if config.lr_scheduler != "constant" and config.lr_warmup_steps >= trainer.total_steps:
        notes.append(
            f"The run ends before the learning rate has warmed up: it reaches {highest:.3g}, because"
            f" --lr_warmup_steps is {config.lr_warmup_steps} and the run has {trainer.total_steps} steps."
        )
    return {label: text for label, text in rows.items() if text}, notes


def model_rows(trainer: Task) -> dict[str, str]:
    """What the pretrained model is, and what of it trains, counted on models without weights."""
    backbone, adapter = trainer.backbone, trainer.adapter
    denoiser = backbone.empty_denoiser()
    model = f"{trainer.config.pretrained_model_name_or_path}, {backbone.pipeline_class.__name__};"
    model += f" {type(denoiser).__name__} of {short(num_trainable(denoiser))} parameters"
    trained, name = trainer.empty_trainable(denoiser)
    total = num_trainable(trained)
    if adapter is None:
        average = ", with a moving average" if trainer.average_settings().get("use_ema") else ""
        return {"model": model, "trains": f"all of {name}{average}: {counted(total, 'parameter')}"}
    Adapter(trained, adapter, name)
    what = adapter.kind
    if adapter.target_modules:
        what += f" of rank {adapter.rank} on {' '.join(adapter.target_modules)}"
    if adapter.train_parameters:
        what = f"parameters named {' '.join(adapter.train_parameters)}"
    part = num_trainable(trained)
    return {
        "model": model,
        "trains": f"{what} of {name}: {counted(part, 'parameter')}, {percent(part / total)} of {short(total)}",
    }


def num_trainable(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def objective_words(trainer: Task) -> str:
    config = trainer.config
    words = "standard fine-tuning" if config.objective == "standard" else "Diff-Tuning"
    words += f", predicts {trainer.objective.prediction_type}"
    if config.objective == "difftune":
        words += f"; target rows {level_words('high', 't', config.reconsolidation_power)}"
        if config.uses_bank:
            words += f", source rows {level_words('low', '(1 - t)', config.retention_power)}"
            words += f" with weight {config.retention_weight:g}"
            if config.retention_target == "pretrained":
                words += ", held to the pretrained model's output"
        if config.coefficients == "weighted":
            words += "; weighted, not sampled"
    if config.snr_gamma is not None:
        words += f"; min-SNR γ {config.snr_gamma:g}"
    return words


def level_words(end: str, base: str, power: float) -> str:
    """At which noise levels rows are trained."""
    return f"mostly at {end} noise ({base}^{power:g})" if power else "at all noise levels alike"


def data_rows(trainer: Task) -> dict[str, str]:
    """What is trained on, and what is left out."""
    config, target = trainer.config, trainer.target
    name = config.dataset_name or config.train_data_dir
    rows = None if isinstance(target, StreamedTarget) else len(target)
    found = {
        "data": data_words(name, rows, target.report.files, config.max_train_samples),
        "left out": "; ".join(target.report.left_out),
    }
    side = trainer.backbone.resolution
    if isinstance(target, StreamedTarget):
        found["captions"] = "of a stream, not counted; those longer than the model reads are cut"
        return found | {"images": f"at {side} × {side}"}
    if target.class_names is None:
        found["captions"] = caption_words(len(target.distinct_captions), trainer.captions)
    else:
        names = target.class_names[: MOST_NAMED["classes"]]
        more = " …" if len(target.class_names) > len(names) else ""
        found["classes"] = f"{len(target.class_names):,}: {', '.join(names)}{more}"
    return found | {"images": image_words(target, side)}


def data_words(name: str, rows: int | None, files: list[FileRows], max_train_samples: int | None) -> str:
    """How many rows, `None` of a stream, and the splits and files that they are in."""
    words = f"{name}, read as a stream" if rows is None else f"{counted(rows, 'row')} of {name}"
    used = sum(file.rows or 0 for file in files if file.used)
    if rows is not None and max_train_samples is not None and used > rows:
        words += f", drawn from {used:,} (--max_train_samples)"
    if len(files) < 2:
        return words

    def by_use(file: FileRows) -> tuple[bool, str]:
        return not file.used, file.split

    parts = []
    for (is_unused, split), group in groupby(sorted(files, key=by_use), by_use):
        these = list(group)
        is_named = len(these) <= MOST_NAMED["files"]
        where = ", ".join(file.file for file in these) if is_named else f"{len(these):,} files"
        is_known = all(file.rows is not None for file in these)
        count = f"{sum(file.rows or 0 for file in these):,} in" if is_known else "in"
        parts.append(f"{split} {count} {where}{', not used' if is_unused else ''}")
    return f"{words}: {'; '.join(parts)}"


def caption_words(distinct: int, cut: CutCaptions | None) -> str:
    words = f"{distinct:,} distinct"
    if cut is None:
        return words
    if not cut.count:
        return f"{words}; none is longer than the {cut.limit} tokens that are read"
    return f"{words}; {counted(cut.count, 'is', 'are')} cut at {cut.limit} tokens (the longest has {cut.tokens:,})"


def image_words(target: TargetData, side: int) -> str:
    sides = image_sides(target.images, side)
    if sides is None:
        return f"at {side} × {side}"
    words = f"at {side} × {side}, from shorter sides of {sides.smallest:,}"
    if sides.smallest != sides.largest:
        words += f" to {sides.largest:,} (median {sides.median:,})"
    if sides.enlarged:
        words += f"; {counted(sides.enlarged, 'is', 'are')} smaller and enlarged"
    if sides.read < len(target):
        words += f" (of {sides.read:,} that were looked at)"
    return words


def step_words(trainer: Task) -> str:
    """How long the run is, and what a step is."""
    run, config, target, state = trainer.context, trainer.config, trainer.target, trainer.state
    rows = run.global_batch_size
    target_rows = rows * (1 - Fraction(str(run.source_share)))
    words = f"{state.total_steps:,}"
    if not isinstance(target, StreamedTarget):
        epochs = plain(float(state.total_steps * target_rows / len(target)))
        words += f" ({epochs} epochs of {counted(len(target), 'row')})"
    if state.start_step:
        words += f"; {state.start_step:,} steps are done"
    words += f"; {counted(rows, 'row')} a step"
    factors = [str(config.train_batch_size)]
    if run.accelerator.num_processes > 1:
        factors.append(f"{run.accelerator.num_processes} processes")
    if config.gradient_accumulation_steps > 1:
        factors.append(f"{config.gradient_accumulation_steps} micro-steps")
    if len(factors) > 1:
        words += f" = {' × '.join(factors)}"
    if run.source_share:
        words += f" ({float(target_rows):g} target, {float(rows - target_rows):g} source)"
    return words


def learning_rate(trainer: Task) -> tuple[str, float]:
    """The first, the highest and the last learning rate, by the schedule that the run will have; and the highest."""
    config, total_steps = trainer.config, trainer.total_steps
    _, schedule = trainer.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    base, factor = schedule.base_lrs[0], schedule.lr_lambdas[0]
    every = max(1, total_steps // 100_000)  # a million steps are not worth a second
    rates = {step + 1: base * factor(step) for step in [*range(0, total_steps, every), total_steps - 1]}
    highest = max(rates, key=lambda step: rates[step])
    if len(set(rates.values())) == 1:
        return f"{rates[1]:.3g} throughout ({config.lr_scheduler})", rates[1]
    is_warmed_up = config.lr_scheduler != "constant" and config.lr_warmup_steps
    warmup = f" with {counted(config.lr_warmup_steps, 'warm-up step')}" if is_warmed_up else ""
    words = (
        f"{config.lr_scheduler}{warmup}: first {rates[1]:.3g}, highest {rates[highest]:.3g} (step {highest:,}), last"
        f" {rates[total_steps]:.3g} (step {total_steps:,})"
    )
    return words, rates[highest]


def bank_words(trainer: Task) -> str:
    """The bank that is used or about to be built."""
    run, config, bank = trainer.context, trainer.config, trainer.bank
    if not run.source_share:
        return "none"
    samples, there = config.bank_samples, config.bank_samples
    folder = run.output_dir / BANK_FOLDER if bank is None else bank.folder
    if bank is None:
        there = BankManifest.read(folder).num_built(folder) if (folder / MANIFEST_NAME).is_file() else 0
    how = f"{counted(config.bank_steps, 'step')} of {config.bank_solver}, guidance {config.bank_guidance_scale:g}"
    if samples == there:
        verb = "is" if samples == 1 else "are"
        return f"{counted(samples, 'sample')} that {verb} there in {folder}; {config.bank_prompts}, {how}"
    prompts = config.bank_prompts
    if prompts != "captions" or not config.streaming:  # of a stream they are read when they are needed
        distinct = len(set(bank_prompts(run, trainer.backbone, trainer.target, samples)))
        prompts = f"{counted(min(samples, distinct), 'prompt', 'different prompts')} ({prompts})"
    made = f", {there:,} of them there," if there else ""
    outputs = (samples - there) * config.bank_steps * (2 if config.bank_guidance_scale > 1 else 1)
    work = plain(outputs / OUTPUTS_PER_TRAINED_ROW / run.global_batch_size)
    words = f"{counted(samples, 'sample')}{made} of {prompts}, {how}; to be sampled before training, about the work of"
    words += f" {work} training steps"
    if config.bank_batch_size < samples - there:
        words += f" (the time is told after the first {config.bank_batch_size})"
    return words


def save_words(config: Any, total_steps: int, start: int) -> str:
    every, limit = config.checkpointing_steps, config.checkpoints_total_limit
    steps = range(every, total_steps + 1, every)
    if not (told := when(steps, start)):
        return f"the result after the last step, no checkpoint before (--checkpointing_steps {every})"
    kept = f", the newest {limit} kept" if limit is not None and limit < len(steps) else ""
    return f"a checkpoint {told}{kept}; the result after the last step"


def validation_words(trainer: Task) -> str:
    if not trainer.validation.prompts:
        return "no images"
    told = when(trainer.validation_steps, trainer.state.start_step)
    images = counted(len(trainer.validation.prompts), "image")
    return f"{images} {told}, and after the last step" if told else f"{images} after the last step, none before"


def evaluation_words(trainer: Task) -> str:
    evaluation = trainer.evaluation
    if evaluation is None:
        return ""
    steps = range(evaluation.every, trainer.total_steps + 1, evaluation.every)
    told = when(steps, trainer.state.start_step)
    return (
        f"{evaluation.measures} on {counted(evaluation.samples, 'row')} of {evaluation.data} before the first"
        f" step{f', {told}' if told else ''} and after the last"
    )


def when(steps: range, start: int = 0) -> str:
    """Which of some steps at equal distances come after `start`, in words; empty if none does."""
    later = steps[bisect_right(steps, start) :]
    if len(later) < 2:
        return f"after step {later[0]:,}" if later else ""
    if later[0] == later.step:
        return f"every {later.step:,} steps ({len(later):,} times)"
    return f"after step {later[0]:,} and every {later.step:,} steps from there ({len(later):,} times)"


def machine_words(accelerator: Accelerator) -> str:
    """What computes, and in which precision."""
    device, precision = accelerator.device, accelerator.mixed_precision
    words = (
        f"in {PRECISIONS.get(precision, precision)} on {counted(accelerator.num_processes, 'process', 'processes')}"
    )
    words += f" ({torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type}"
    if device.type == "cpu":
        words += f", {counted(torch.get_num_threads(), 'thread')}"
    if accelerator.distributed_type.value in ("FSDP", "DEEPSPEED"):
        words += f", {accelerator.distributed_type.value}"
    return words + ")"


def result_words(config: Any) -> str:
    words = f"{config.output_dir} (there, all of this in run_config.json)"
    if config.tracker:
        words += f"; losses also to {config.tracker}"
    return f"{words}; uploaded to the Hub" if config.push_to_hub else words


def plain(number: float) -> str:
    """A number that is exact enough to be read."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def percent(share: float) -> str:
    """A share in two figures, or more before the point."""
    return f"{100 * share:,.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def short(count: int) -> str:
    """A large number in three figures."""
    value, units = float(count), ["", " thousand", " million", " billion"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g}{units[0]}"
