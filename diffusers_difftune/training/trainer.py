# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop. There is one, for every script and both objectives."""

import math
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from diffusers.training_utils import compute_dream_and_update_latents
from torch.utils.data import DataLoader

from ..backbones import Backbone
from ..console import progress_bar
from ..errors import Stopped
from ..io.processes import from_main
from ..objective import DiffTuningObjective, NoisyBatch
from ..trainables import Trainable
from .batches import Batch, PlannedBatches
from .checkpoint import TrainingState
from .finish import end_training
from .log import NotFinite, TrainingLog
from .not_finite import LeftOutSteps, not_finite_error
from .publish import Publisher
from .run import Run
from .validation import Validation


if TYPE_CHECKING:
    from .evaluation import Evaluation


def train(
    run: Run,
    backbone: Backbone,
    objective: DiffTuningObjective,
    batches: PlannedBatches,
    state: TrainingState,
    validation: Validation,
    evaluation: "Evaluation | None" = None,
    publisher: Publisher | None = None,
) -> None:
    """Trains from where `state` is to the end of the run, with checkpoints, validation and the loss log.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): Calls the denoiser; encodes images and prompts that were not cached.
        objective ([`DiffTuningObjective`]): The losses.
        batches ([`PlannedBatches`]): The batch of each micro-step of this process.
        state ([`TrainingState`]): What trains, the optimiser and the learning rate schedule.
        validation ([`Validation`]): Makes images every now and then.
        evaluation ([`Evaluation`], *optional*): Measures before the first step, every now and then, and at the end.
        publisher ([`Publisher`], *optional*): Uploads in the background after checkpoints, on the main process.
    """
    trained, distributed, lr_scheduler = state.trained, state.distributed, state.lr_scheduler
    model = distributed.model
    start_step, total_steps = state.start_step, state.total_steps
    config, accelerator = run.config, run.accelerator
    accumulation = config.gradient_accumulation_steps
    log = TrainingLog(
        run.output_dir / "training_log.jsonl",
        accelerator,
        run.global_batch_size,
        config.retention_weight,
        start_step,
        state.log,
    )
    # The loss of a micro-step is a part of the global batch's, so the parts add up; accelerate divides by the
    # accumulation steps and distributed training by the processes, which this cancels.
    gradient_scale = accelerator.gradient_accumulation_steps * accelerator.num_processes
    micro_batches = iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=range(start_step * accumulation, total_steps * accumulation),
            num_workers=config.dataloader_num_workers,
            pin_memory=accelerator.device.type == "cuda",
        )
    )
    progress = progress_bar(
        hidden=not accelerator.is_local_main_process,
        total=total_steps,
        initial=start_step,
        desc="Training",
        unit="step",
    )
    left_out = LeftOutSteps(config.skip_nonfinite_steps and accelerator.scaler is None)
    stop = run.stop
    with stop, progress:
        stop.unless_asked(lambda: catch_up(state, log, validation, evaluation))
        if stop.code:
            leave(run, start_step)
        model.train()
        for step in range(start_step, total_steps):
            for micro in range(accumulation):
                # Dropout inside the model is the one draw that is torch's own: seeded here, so that resuming repeats it.
                torch.manual_seed(hash((run.seed, step, micro, accelerator.process_index)))
                batch = next(micro_batches)
                with distributed.accumulating() if micro < accumulation - 1 else nullcontext():
                    noisy, condition = prepare(batch, backbone, objective, accelerator)
                    if getattr(config, "dream_training", False):
                        noisy = dream(noisy, condition, model, backbone, config.dream_detail_preservation)
                    prediction = trained.predict(model, noisy.sample, noisy.timesteps, condition)
                    pretrained = None
                    if config.retention_target == "pretrained":
                        pretrained = pretrained_prediction(trained, backbone, noisy, condition, accelerator)
                    losses = objective.loss(prediction, noisy, pretrained, run.global_batch_size)
                    distributed.backward(losses.total * gradient_scale)
                log.add(losses, noisy)
            norm = distributed.clip_grad_norm_(config.max_grad_norm)
            is_left_out = left_out.next(norm)
            log.end_step(lr_scheduler.get_last_lr()[0], norm, is_left_out)
            if not is_left_out:
                distributed.step()
                if not accelerator.optimizer_step_was_skipped:
                    lr_scheduler.step()
                    trained.after_step()
            distributed.zero_grad(set_to_none=getattr(config, "set_grads_to_none", True))

            done = step + 1
            progress.update()
            saving, validating = done % config.checkpointing_steps == 0, validation.due(done)
            measuring = evaluation is not None and (evaluation.due(done) or done == total_steps)
            stop.asked()
            if measuring:
                with log.pause():
                    stop.unless_asked(lambda step=done: log.note(evaluation.measure(step)))
            has_levels = saving or validating or log.due() or done == total_steps
            if has_levels or stop.code:
                try:
                    line = log.flush(has_levels)
                except NotFinite as error:
                    raise not_finite_error(error, run, batches) from None
                progress.set_postfix(loss=f"{line['loss'] or math.nan:.4f}", lr=f"{line['lr']:.1e}")
            with log.pause():
                if is_saved := saving or bool(stop.code):
                    state.save(done, log.pending())
                if validating:
                    stop.unless_asked(partial(validation.make, done))
                if stop.code and not is_saved:
                    state.save(done, log.pending())
                if saving and not stop.code and config.hub_strategy != "end":
                    with run.whole_weights():
                        if publisher is not None:
                            publisher.saved(done, backbone, state, batches, validation)
            if stop.code:
                leave(run, done)


def catch_up(state: TrainingState, log: TrainingLog, validation: Validation, evaluation: "Evaluation | None") -> None:
    """Measures before the first step, and on resuming makes up for what the stop left out after the last one."""
    step, on_main = state.start_step, partial(from_main, state.run.accelerator)
    if evaluation is not None and step == 0:
        log.write_start(evaluation.measure(step))
    elif evaluation is not None and (evaluation.due(step) or step == state.total_steps):
        if on_main(lambda: log.lacks(step, evaluation.name)):
            log.add_to(step, evaluation.measure(step))
    if step and validation.due(step) and not on_main(lambda: validation.is_made(step)):
        validation.make(step)


def leave(run: Run, step: int) -> None:
    """Ends the process of a run that was asked to stop, its checkpoint being written."""
    end_training(run.accelerator)
    state = f"checkpoint-{step} is saved" if step else "there is nothing to save yet"
    again = " and --resume_from_checkpoint latest" if step else ""
    reason = run.stop.reason or "a signal to another process"
    sentence = f"Stopped by {reason} after step {step}: {state}; go on with the same command{again}."
    raise Stopped(sentence if run.accelerator.is_main_process else None, run.stop.code)


def prepare(
    batch: Batch, backbone: Backbone, objective: DiffTuningObjective, accelerator: Accelerator
) -> tuple[NoisyBatch, dict[str, torch.Tensor]]:
    """Brings a batch to the device, encodes what was not cached, and adds noise."""
    device = accelerator.device
    latents, condition = batch.latents, batch.condition
    if batch.pixel_values is not None and len(batch.pixel_values):  # there may be source rows only
        mean, std = backbone.encode_images(batch.pixel_values.to(device, non_blocking=True))
        drawn = backbone.to_denoiser(mean + std * batch.posterior_noise.to(device, non_blocking=True))
        target_rows = (~batch.is_source).nonzero().squeeze(1)  # a mask on the device would make everyone wait
        latents = latents.to(device, non_blocking=True)
        latents[target_rows.to(device, non_blocking=True)] = drawn
    if condition is None:
        condition = backbone.encode_prompts(batch.prompts)
    if batch.control is not None:
        condition = condition | {"control": batch.control}
    condition = {name: value.to(device, non_blocking=True) for name, value in condition.items()}
    return objective.add_noise(latents.to(device, non_blocking=True), batch.is_source, batch.draws), condition


def dream(
    noisy: NoisyBatch,
    condition: dict[str, torch.Tensor],
    model: torch.nn.Module,
    backbone: Backbone,
    preservation: float,
) -> NoisyBatch:
    """DREAM (Zhou et al., 2023) on the target rows: moves x_t and the target towards the model's own answer."""
    sample, target = compute_dream_and_update_latents(
        model,
        backbone.noise_scheduler,
        noisy.timesteps,
        noisy.noise,
        noisy.sample,
        noisy.target,
        condition["encoder_hidden_states"],
        preservation,
    )
    per_row = noisy.is_source.view(-1, *[1] * (sample.ndim - 1))
    noisy.sample = torch.where(per_row, noisy.sample, sample)
    noisy.target = torch.where(per_row, noisy.target, target)
    return noisy


@torch.no_grad()
def pretrained_prediction(
    trained: Trainable,
    backbone: Backbone,
    noisy: NoisyBatch,
    condition: dict[str, torch.Tensor],
    accelerator: Accelerator,
) -> torch.Tensor:
    """What the pretrained denoiser answers to this batch."""
    model, context = trained.pretrained_model()
    with context, accelerator.autocast():
        return backbone.predict(model, noisy.sample, noisy.timesteps, condition)
