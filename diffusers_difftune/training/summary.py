# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What a run is about to do, found out before anything is sampled, encoded or trained: for the terminal, and for
`run_config.json`."""

import dataclasses
import logging
from bisect import bisect_right
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..adapters import Adapter
from ..backbones import Backbone
from ..bank.bank import KnowledgeBank
from ..bank.manifest import MANIFEST_NAME, BankManifest
from ..bank.prompts import read_prompts
from ..config.idle_flags import idle_flags
from ..console import labelled_block, terminal_width
from ..data.cut import CutCaptions
from ..data.dataset import TargetData
from ..data.images.sizes import image_sides
from ..data.stream import StreamedTarget
from ..io.processes import from_main
from ..objective import DiffTuningObjective
from .bank import bank_size
from .checkpoint import TrainingState
from .run import Run
from .summary_text import summary_rows
from .validation import validation_steps


logger = logging.getLogger(__name__)
# A training step computes an output and the gradients to its inputs and to its weights: three times what an output takes.
OUTPUTS_PER_TRAINED_ROW = 3
FIRST_CLASSES = 5  # that are named


def tell_summary(trainer: Any) -> dict[str, Any]:
    """Prints, on the main process, what the run is about to do, and warns of flags that have no effect. Loads no weights.

    Args:
        trainer ([`Trainer`]): The trainer, all of whose checks are done.

    Returns:
        `dict[str, Any]`: The same, JSON-able, for `run_config.json`.
    """

    def tell() -> dict[str, Any]:
        with torch.random.fork_rng(devices=[]):
            summary = summarize(trainer)
        width = terminal_width()
        logger.info(labelled_block("Summary of this run", summary_rows(summary, width), width))
        for note in summary["notes"]:
            logger.warning(note)
        return summary

    return from_main(trainer.context.accelerator, tell)


def summarize(trainer: Any) -> dict[str, Any]:
    """The facts, by what they are about; see [`tell_summary`]."""
    run, config, target, state = trainer.context, trainer.config, trainer.target, trainer.state
    learning_rate = learning_rate_curve(trainer)
    notes = [*config.notes, *idle_flags(config)]
    if learning_rate["warmup_steps"] >= trainer.total_steps:
        notes.append(
            f"The run ends before the learning rate has warmed up: it reaches {learning_rate['highest']:.3g}, because"
            f" --lr_warmup_steps is {config.lr_warmup_steps} and the run has {trainer.total_steps} steps."
        )
    return {
        "model": model_facts(trainer),
        "objective": objective_facts(run, trainer.objective),
        "data": data_facts(run, trainer.backbone, target, trainer.captions),
        "steps": step_facts(run, target, state),
        "learning_rate": learning_rate,
        "bank": bank_facts(run, trainer.backbone, target, trainer.bank, trainer.total_steps),
        "events": event_facts(trainer),
        "machine": machine_facts(run.accelerator),
        "output_dir": str(run.output_dir),
        "report_to": config.tracker or "none",
        "push_to_hub": config.push_to_hub,
        "notes": notes,
    }


def model_facts(trainer: Any) -> dict[str, Any]:
    """What the pretrained model is, and what of it trains, counted on models without weights."""
    backbone, adapter = trainer.backbone, trainer.adapter
    denoiser = backbone.empty_denoiser()
    facts: dict[str, Any] = {
        "name": trainer.config.pretrained_model_name_or_path,
        "pipeline": backbone.pipeline_class.__name__,
        "denoiser": type(denoiser).__name__,
        "parameters": num_parameters(denoiser),
    }
    trainable, name, more = trainer.empty_trainable(denoiser)
    facts |= {"trained": name, **more, "trained_of": num_parameters(trainable)}
    if adapter is not None:
        Adapter(trainable, adapter, name)
        facts |= {"adapter": adapter.kind, "rank": adapter.rank, "modules": list(adapter.target_modules)}
        facts["train_parameters"] = list(adapter.train_parameters)
    facts["trainable_parameters"] = num_parameters(trainable, only_trainable=adapter is not None)
    facts["ema"] = trainer.average_settings().get("use_ema", False)
    return facts


def num_parameters(model: torch.nn.Module, only_trainable: bool = False) -> int:
    """How many numbers the parameters of a model are."""
    return sum(each.numel() for each in model.parameters() if each.requires_grad or not only_trainable)


def objective_facts(run: Run, objective: DiffTuningObjective) -> dict[str, Any]:
    """What is learned."""
    config = run.config
    facts = {
        "name": config.objective,
        "prediction_type": objective.prediction_type,
        "source_share": run.source_share,
        "snr_gamma": config.snr_gamma,
    }
    if config.objective == "difftune":
        names = ("reconsolidation_power", "coefficients")
        if run.source_share:
            names += ("retention_power", "retention_weight", "retention_target", "retention_prompts")
        facts |= {name: getattr(config, name) for name in names}
    return facts


def data_facts(
    run: Run, backbone: Backbone, target: TargetData | StreamedTarget, captions: CutCaptions | None
) -> dict[str, Any]:
    """What is trained on, and what is left out."""
    config, report = run.config, getattr(target, "report", None)
    facts: dict[str, Any] = {
        "name": config.dataset_name or config.train_data_dir,
        "rows": None,
        "files": [] if report is None else [dataclasses.asdict(file) for file in report.files],
        "left_out": [] if report is None else list(report.left_out),
        "max_train_samples": config.max_train_samples,
        "resolution": backbone.resolution,
    }
    if isinstance(target, StreamedTarget):
        return facts | {"streamed": True}
    facts["rows"] = len(target)
    if target.class_names is not None:
        facts |= {"classes": len(target.class_names), "class_names": target.class_names[:FIRST_CLASSES]}
    else:
        facts["distinct_captions"] = len(target.distinct_captions)
        facts["captions_cut"] = None if captions is None else dataclasses.asdict(captions)
    sides = image_sides(target.images, backbone.resolution)
    facts["image_sides"] = None if sides is None else dataclasses.asdict(sides)
    return facts


def step_facts(run: Run, target: TargetData | StreamedTarget, state: TrainingState) -> dict[str, Any]:
    """How long the run is, and what a step is."""
    config, rows = run.config, run.global_batch_size
    target_rows = rows * (1 - Fraction(str(run.source_share)))
    streamed = isinstance(target, StreamedTarget)
    return {
        "total": state.total_steps,
        "start": state.start_step,
        "epochs": None if streamed else round(float(state.total_steps * target_rows / len(target)), 2),
        "rows": rows,
        "target_rows": float(target_rows),
        "source_rows": float(rows - target_rows),
        "train_batch_size": config.train_batch_size,
        "processes": run.accelerator.num_processes,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
    }


def learning_rate_curve(trainer: Any) -> dict[str, Any]:
    """The learning rate of the first, the highest and the last step, by the schedule that the run will have."""
    config, total_steps = trainer.config, trainer.total_steps
    _, schedule = trainer.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    base, factor = schedule.base_lrs[0], schedule.lr_lambdas[0]
    every = max(1, total_steps // 100_000)  # a million steps are not worth a second
    rates = {step + 1: base * factor(step) for step in [*range(0, total_steps, every), total_steps - 1]}
    highest = max(rates, key=lambda step: rates[step])
    return {
        "schedule": config.lr_scheduler,
        "warmup_steps": 0 if config.lr_scheduler == "constant" else config.lr_warmup_steps,
        "first": rates[1],
        "highest": rates[highest],
        "highest_step": highest,
        "last": rates[total_steps],
        "constant": len(set(rates.values())) == 1,
    }


def bank_facts(
    run: Run, backbone: Backbone, target: TargetData | StreamedTarget, bank: KnowledgeBank | None, total_steps: int
) -> dict[str, Any] | None:
    """The bank that is used or about to be built; `None` for a run without source rows."""
    config = run.config
    if not run.source_share:
        return None
    if bank is not None:
        manifest = bank.manifest
        return {
            "folder": str(bank.folder),
            "samples": len(bank),
            "there": len(bank),
            "prompts": manifest.prompt_source,
            "guidance_scale": manifest.guidance_scale,
            "steps": manifest.steps,
            "solver": manifest.solver,
        }
    folder, samples = run.output_dir / "knowledge_bank", bank_size(run, total_steps)
    there = num_there(folder)
    outputs = (samples - there) * config.bank_steps * (2 if config.bank_guidance_scale > 1 else 1)
    return {
        "folder": str(folder),
        "samples": samples,
        "there": there,
        "prompts": config.bank_prompts,
        "distinct_prompts": num_prompts(config, backbone, target, samples),
        "guidance_scale": config.bank_guidance_scale,
        "steps": config.bank_steps,
        "solver": config.bank_solver,
        "batch_size": config.bank_batch_size,
        "network_outputs": outputs,
        "as_training_steps": round(outputs / OUTPUTS_PER_TRAINED_ROW / run.global_batch_size, 1),
    }


def num_there(folder: Path) -> int:
    """How many samples of a bank an earlier start has made."""
    if not (folder / MANIFEST_NAME).is_file():
        return 0
    return BankManifest.read(folder).num_built(folder)


def num_prompts(config: Any, backbone: Backbone, target: TargetData | StreamedTarget, samples: int) -> int | None:
    """How many different prompts the samples of a new bank have; `None` if that is not known yet."""
    if config.bank_prompts == "captions":
        prompts = None if isinstance(target, StreamedTarget) else target.distinct_captions
    elif config.bank_prompts == "classes":
        prompts = backbone.classes.pretrained_prompts() if backbone.classes else []
    else:
        prompts = read_prompts(config.bank_prompts)
    return None if prompts is None else min(samples, len(set(prompts)))


def event_facts(trainer: Any) -> dict[str, Any]:
    """When the run, from where it starts, saves, makes images and measures, beside the end."""
    run, config, start, total_steps = trainer.context, trainer.config, trainer.state.start_step, trainer.total_steps
    inputs, evaluation = trainer.validation_inputs, trainer.evaluation
    facts: dict[str, Any] = {
        "checkpoints": moments(range(config.checkpointing_steps, total_steps + 1, config.checkpointing_steps), start),
        "checkpoints_total_limit": config.checkpoints_total_limit,
        "validation": None,
        "evaluation": None,
    }
    if inputs is not None:
        facts["validation"] = {"images": len(inputs.prompts)}
        if inputs.prompts:
            steps = validation_steps(config, run.steps_per_epoch(len(trainer.target)), total_steps)
            facts["validation"] |= moments(steps, start)
    if evaluation is not None:
        facts["evaluation"] = {
            "name": evaluation.flags,
            "data": evaluation.data,
            "samples": evaluation.samples,
            **moments(range(evaluation.every, total_steps + 1, evaluation.every), start),
        }
    return facts


def moments(steps: range, start: int = 0) -> dict[str, int | None]:
    """Steps at equal distances, those after `start`."""
    steps = steps[bisect_right(steps, start) :]
    return {"first": steps[0] if steps else None, "every": steps.step, "times": len(steps)}


def machine_facts(accelerator: Accelerator) -> dict[str, Any]:
    """What computes."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "mixed_precision": accelerator.mixed_precision,
        "processes": accelerator.num_processes,
        "device": name,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "distribution": accelerator.distributed_type.value,
    }
