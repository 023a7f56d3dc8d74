# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The trainer: the steps of a run in their order, the training loop, and the training step. There is one for every task and
both objectives; the files beside this one say what is particular to a task."""

import copy
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..data.cache.encodings import build_image_cache, build_prompt_cache, data_name
from ..data.dataset import load_target_data
from ..data.stream import StreamedTarget
from ..errors import DiffTuneError
from ..io.processes import from_main
from ..objective import DiffTuningLoss, NoisyBatch
from .bank import make_bank, open_bank
from .batches import Batch
from .callbacks import Callback, with_default_callbacks
from .checkpoint import TrainingState
from .log import TrainingLog
from .not_finite import LeftOutSteps
from .publish import begin_publishing
from .record import begin_records, save_result, write_card
from .run import end_training, start_run
from .summary import tell_summary
from .task import Task
from .validation import validation_steps


STEPS = ("check", "sample_bank", "prepare_data", "build", "train", "finish")


class Trainer(Task):
    """Trains a model with Diff-Tuning, or with plain fine-tuning.

    A run is six steps: [`check`], [`sample_bank`], [`prepare_data`], [`build`], [`train`] and [`finish`]. [`run`] does them
    all. A trainer runs once; more than one may run in a process, one after another.

    ```python
    trainer = TextToImageTrainer(
        pretrained_model_name_or_path="stable-diffusion-v1-5/stable-diffusion-v1-5",
        train_data_dir="images",
        max_train_steps=1000,
        output_dir="sd-images",
    )
    trainer.run()
    ```

    Args:
        config ([`TextToImageConfig`] or another config, *optional*): The settings of the run, those of the command line.
        callbacks (`Iterable[Callback]`, *optional*): What else is to happen while it trains; see [`Callback`].
        settings: The same as keyword arguments, in place of `config`.

    Attributes:
        config: The settings, a copy; [`check`] fills in what they leave open.
        context ([`Run`]): The processes, devices and precision, the run folder, the seed. Made by [`check`].
        backbone ([`Backbone`]): The pretrained pipeline. Made by [`check`].
        objective ([`DiffTuningObjective`]): The losses. Made by [`check`].
        target ([`TargetData`] or [`StreamedTarget`]): The target data. Opened by [`check`].
        bank ([`KnowledgeBank`] or `None`): The source data. Opened by [`check`] or made by [`sample_bank`].
        batches ([`PlannedBatches`]): Item k is the batch of micro-step k. Made by [`prepare_data`].
        trainable ([`Trainable`]): What trains. Made by [`build`].
        state ([`TrainingState`]): What a checkpoint holds: what trains, the optimiser, the schedule. Filled by [`build`].
        log ([`TrainingLog`]): The losses. Made by [`train`].
        step (`int`): Optimiser steps that are done, those before a resumed start included.
        total_steps (`int`): Optimiser steps of the whole run.

    Raises:
        DiffTuneError: Each step raises it for a mistake of the user's, most of them in [`check`].
        Stopped: [`train`] raises it when the run was asked to stop and has saved where it was.
    """

    def __init__(self, config: Any = None, *, callbacks: Iterable[Callback] = (), **settings: Any) -> None:
        if config is None:
            config = self.config_class(**settings)
        elif settings:
            raise TypeError(f"give a config or {', '.join(settings)}, not both")
        self.config = copy.copy(config)
        self.callbacks = list(callbacks)
        self.done: list[str] = []

    def run(self) -> Path:
        """Does all steps, and returns the run folder."""
        self.check()
        self.sample_bank()
        self.prepare_data()
        self.build()
        self.train()
        self.finish()
        return self.context.output_dir

    def check(self) -> None:
        """Finds out everything that can be wrong without loading weights: flags, run folder, pipeline, data, bank and
        checkpoint; says what the run is about to do, and begins its record."""
        self.begin("check")
        self.check_flags()
        self.context = start_run(self.config, self.result_files)
        self.backbone = self.find_backbone()
        self.adapter = self.find_adapter()
        self.objective = self.make_objective()
        open_target = StreamedTarget if self.config.streaming else load_target_data
        self.target = open_target(self.config, self.context.seed, self.config.cache_dir)
        self.captions = self.check_target()
        self.total_steps = self.context.total_steps(len(self.target))
        self.validation = self.find_validation()
        self.validation_steps = validation_steps(
            self.config, self.context.steps_per_epoch(len(self.target)), self.total_steps
        )
        self.evaluation = self.open_evaluation()
        self.bank, bank_flags = open_bank(self.context, self.backbone, self.target)
        self.fill_in(**bank_flags)
        self.state = TrainingState(self.context, self.run_settings(), self.total_steps)
        self.publisher = begin_publishing(self.context)
        facts = {"total_steps": self.total_steps, "settings": self.state.settings, **self.record()}
        begin_records(self.context, facts | {"summary": tell_summary(self)})

    def sample_bank(self) -> None:
        """Samples the untouched pipeline into a knowledge bank, unless the run has one or needs none."""
        self.begin("sample_bank")
        if self.bank is None and self.context.source_share:
            self.bank = make_bank(self.context, self.backbone, self.target)

    def prepare_data(self) -> None:
        """Encodes images and prompts once, after which the encoders leave memory; without caches, loads the encoders."""
        self.begin("prepare_data")
        config, device, dtype = self.config, self.context.accelerator.device, self.context.weight_dtype
        if config.no_cache or config.streaming:
            self.backbone.load_encoders(device, dtype)
            self.batches = self.plan_batches()
            return
        images = build_image_cache(self.target, self.backbone, config, config.cache_dir, device, dtype)
        wanted = self.target.distinct_captions
        if self.bank is not None:
            wanted = [*wanted, *(self.bank.prompts() if config.retention_prompts == "sampled" else [""])]
        if config.unconditional_share or self.backbone.renamed_prompts():
            wanted = [*wanted, ""]
        prompts = build_prompt_cache(
            wanted, self.backbone, config.cache_dir, device, dtype, data_name(config), config.verify_cache
        )
        self.backbone.release_encoders()
        # Workers must not get the encoders in memory, so the batches are told how to scale.
        self.batches = self.plan_batches(images=images, prompts=prompts, to_denoiser=self.backbone.to_denoiser)

    def build(self) -> None:
        """Loads what trains, makes its optimiser and schedule, and reads the checkpoint if the run is resumed."""
        self.begin("build")
        self.trainable = self.load_trainable()
        self.state.prepare(self.trainable, *self.make_optimizer(self.trainable.parameters()))

    def train(self) -> None:
        """Trains to the end of the run. What happens before the first step and after every one is what callbacks do."""
        self.begin("train")
        run, config, state = self.context, self.config, self.state
        self.all_callbacks = with_default_callbacks(self, self.callbacks)
        self.log = TrainingLog(
            run.output_dir / "training_log.jsonl",
            run.accelerator,
            run.global_batch_size,
            config.retention_weight,
            state.start_step,
            state.log,
        )
        self.left_out = LeftOutSteps(config.skip_nonfinite_steps and run.accelerator.scaler is None)
        self.step, self.saved_step = state.start_step, None
        accumulation = config.gradient_accumulation_steps
        batches = iter(self.data_loader(range(self.step * accumulation, self.total_steps * accumulation)))
        with run.stop, ExitStack() as self.until_end:
            self.tell("on_train_begin")
            state.distributed.model.train()
            while self.step < self.total_steps:
                for micro_step in range(accumulation):
                    # Dropout inside the model is the one draw that is torch's own: seeded here, so that resuming repeats it.
                    torch.manual_seed(hash((run.seed, self.step, micro_step, run.accelerator.process_index)))
                    batch = next(batches)
                    with state.distributed.accumulating() if micro_step < accumulation - 1 else nullcontext():
                        losses, noisy = self.training_step(batch)
                        self.backward(losses.total)
                    self.log.add(losses, noisy)
                self.optimizer_step()
                self.step += 1
                run.stop.asked()  # one of the processes may have been
                self.tell("on_step_end")
            self.tell("on_train_end")

    def training_step(self, batch: Batch) -> tuple[DiffTuningLoss, NoisyBatch]:
        """A batch, forwards: encodes it if it is not cached, adds noise, predicts, and takes the losses.

        Args:
            batch ([`Batch`]): What this process trains on in a micro-step.

        Returns:
            `tuple[DiffTuningLoss, NoisyBatch]`: The losses, whose micro-steps and processes add up, and what they are of.
        """
        latents, condition = self.to_device(batch)
        noisy = self.add_noise(latents, condition, batch)
        prediction = self.trainable.predict(self.state.distributed.model, noisy.sample, noisy.timesteps, condition)
        pretrained = self.pretrained_prediction(noisy, condition) if self.keeps_pretrained else None
        return self.objective.loss(prediction, noisy, pretrained, self.context.global_batch_size), noisy

    def to_device(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Clean latents, and what the denoiser is conditioned on, on the device; encodes what was not cached."""
        device = self.context.accelerator.device
        latents, condition = batch.latents, batch.condition
        if batch.pixel_values is not None and len(batch.pixel_values):  # there may be source rows only
            mean, std = self.backbone.encode_images(batch.pixel_values.to(device, non_blocking=True))
            drawn = self.backbone.to_denoiser(mean + std * batch.posterior_noise.to(device, non_blocking=True))
            target_rows = (~batch.is_source).nonzero().squeeze(1)  # a mask on the device would make everyone wait
            latents = latents.to(device, non_blocking=True)
            latents[target_rows.to(device, non_blocking=True)] = drawn
        if condition is None:
            condition = self.backbone.encode_prompts(batch.prompts)
        condition = condition | batch.row_condition
        if batch.control is not None:
            condition = condition | {"control": batch.control}
        condition = {name: value.to(device, non_blocking=True) for name, value in condition.items()}
        return latents.to(device, non_blocking=True), condition

    def add_noise(self, latents: torch.Tensor, condition: dict[str, torch.Tensor], batch: Batch) -> NoisyBatch:
        """x_t, t and what is to be predicted."""
        return self.objective.add_noise(latents, batch.is_source, batch.draws)

    @torch.no_grad()
    def pretrained_prediction(self, noisy: NoisyBatch, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the pretrained denoiser answers to a batch."""
        model, context = self.trainable.pretrained_model()
        with context, self.context.accelerator.autocast():
            return self.backbone.predict(model, noisy.sample, noisy.timesteps, condition)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of a micro-step. Its loss is a part of the global batch's, so the parts add up; accelerate
        divides by the accumulation steps and distributed training by the processes, which this cancels."""
        accelerator = self.context.accelerator
        scale = accelerator.gradient_accumulation_steps * accelerator.num_processes
        self.state.distributed.backward(loss * scale)

    def optimizer_step(self) -> None:
        """Clips the gradients and takes a step, unless the gradients are not finite and such steps are to be left out."""
        run, state = self.context, self.state
        norm = state.distributed.clip_grad_norm_(self.config.max_grad_norm)
        is_left_out = self.left_out.next(norm)
        self.log.end_step(state.lr_scheduler.get_last_lr()[0], norm, is_left_out)
        if not is_left_out:
            state.distributed.step()
            if not run.accelerator.optimizer_step_was_skipped:  # by a loss scaler
                state.lr_scheduler.step()
                self.trainable.after_step()
        state.distributed.zero_grad(set_to_none=self.config.set_grads_to_none)

    def data_loader(self, micro_steps: range) -> DataLoader:
        """The batches of so many micro-steps of the run."""
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=micro_steps,
            num_workers=self.config.dataloader_num_workers,
            pin_memory=self.context.accelerator.device.type == "cuda",
        )

    def finish(self) -> None:
        """Saves the result, makes the last validation images, writes the model card and uploads.

        Raises:
            UploadError: The upload failed. The result is in the run folder.
        """
        self.begin("finish")
        accelerator = self.context.accelerator
        with self.context.whole_weights():
            files = from_main(accelerator, partial(save_result, self.trainable, self.context.output_dir))
        self.validation.make(self.total_steps, self.trainable)
        from_main(accelerator, lambda: write_card(self.context, self.card_facts() | {"files": files}))
        end_training(accelerator)  # before the upload, so that trackers are closed if that fails
        if self.publisher is not None:
            self.publisher.finish()

    # What the steps have in common.

    def begin(self, step: str) -> None:
        """Makes sure that the steps are called in their order."""
        if step != (expected := next((name for name in STEPS if name not in self.done), None)):
            what = f"the next one is {expected}()" if expected else "the run is over; make another trainer"
            raise DiffTuneError(
                f"{type(self).__name__}.{step}() is called out of turn: {what}. (run() calls all steps.)"
            )
        self.done.append(step)

    def fill_in(self, **settings: Any) -> None:
        """Says what the config leaves open, in a copy of it."""
        self.config = copy.copy(self.config)
        vars(self.config).update(settings)
        self.context.config = self.config
