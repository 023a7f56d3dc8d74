# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What happens around the steps of a run: callbacks of your own, and those that every run has.

After every optimiser step, on every process, in this order: what is measured, the loss log and the progress bar, the
checkpoint, validation images, the upload, the callbacks of your own, and the end of the process if it was asked to stop.
A stop asked for at any time is answered here: measuring and images give way to it and are made up for by the resumed run.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

from ..console import progress_bar
from ..errors import Stopped
from ..io.processes import from_main
from .evaluation import Evaluation
from .log import NotFinite
from .not_finite import not_finite_error
from .run import end_training
from .task import Task


class Callback:
    """What is to happen while a [`Trainer`] trains: override the events you need.

    ```python
    class Printer(Callback):
        def on_log(self, trainer, line):
            if trainer.context.accelerator.is_main_process:
                print(line["step"], line["loss"])

    TextToImageTrainer(config, callbacks=[Printer()]).run()
    ```

    Every method is called on every process, with the trainer, whose `step` is the number of optimiser steps done. Random
    numbers that a callback draws do not change the run.
    """

    def on_train_begin(self, trainer: Task) -> None:
        """Before the first step of this start of the run."""

    def on_step_end(self, trainer: Task) -> None:
        """After an optimiser step, when all that the trainer does there is done."""

    def on_log(self, trainer: Task, line: dict[str, Any]) -> None:
        """After lines were written to `training_log.jsonl`, once in ten steps; `line` is the last of them, see
        docs/architecture.md."""

    def on_evaluate(self, trainer: Task, figures: dict[str, float]) -> None:
        """After the model was measured; `figures` has what was found by name, such as `fid`."""

    def on_save(self, trainer: Task, checkpoint: Path) -> None:
        """After a checkpoint was written; `checkpoint` is its folder."""

    def on_validate(self, trainer: Task, images: list[Path]) -> None:
        """After validation images were made; `images` are their files."""

    def on_train_end(self, trainer: Task) -> None:
        """After the last step of the run, before its result is saved; not if it stops early."""


def with_default_callbacks(trainer: Task, own: list[Callback]) -> list[Callback]:
    """All callbacks of a run, in the order in which they are called."""
    callbacks: list[Callback] = []
    if trainer.evaluation is not None:
        callbacks.append(Measuring(trainer.evaluation))
    callbacks += [LossLog(), Checkpoints()]
    if trainer.validation.prompts:
        callbacks.append(ValidationImages())
    if trainer.config.hub_strategy != "end":
        callbacks.append(Uploads())
    return [*callbacks, *own, StopsWhenAsked()]


class Measuring(Callback):
    """Measures before the first step, every so many steps, and after the last."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation

    def on_train_begin(self, trainer: Task) -> None:
        """Measures before the first step; on resuming, makes up for what the stop left out after the last one."""

        def catch_up() -> None:
            step, log, name = trainer.step, trainer.log, self.evaluation.name
            if step == 0:
                log.write([{"step": 0, **self.measure(trainer)}])
            elif self.is_due(trainer) and from_main(trainer.context.accelerator, lambda: log.lacks(step, name)):
                log.add_to(step, self.measure(trainer))

        with trainer.log.pause():
            trainer.context.stop.unless_asked(catch_up)

    def on_step_end(self, trainer: Task) -> None:
        if self.is_due(trainer):
            with trainer.log.pause():
                trainer.context.stop.unless_asked(lambda: trainer.log.note(self.measure(trainer)))

    def is_due(self, trainer: Task) -> bool:
        return trainer.step % self.evaluation.every == 0 or trainer.step == trainer.total_steps

    def measure(self, trainer: Task) -> dict[str, dict[str, float]]:
        figures = self.evaluation.measure(trainer.step, trainer.trainable)
        trainer.tell("on_evaluate", figures)
        return {self.evaluation.name: figures}


class LossLog(Callback):
    """Writes `training_log.jsonl`, tells the trackers, and draws the progress bar."""

    def on_train_begin(self, trainer: Task) -> None:
        self.bar = trainer.until_end.enter_context(
            progress_bar(
                hidden=not trainer.context.accelerator.is_local_main_process,
                total=trainer.total_steps,
                initial=trainer.step,
                desc="Training",
                unit="step",
            )
        )

    def on_step_end(self, trainer: Task) -> None:
        log, is_last = trainer.log, trainer.step == trainer.total_steps
        self.bar.update()
        has_levels = trainer.is_saving or trainer.is_validating or log.due() or is_last
        if not (has_levels or trainer.context.stop.code):
            return
        try:
            line = log.flush(has_levels)
        except NotFinite as error:
            raise not_finite_error(error, trainer.batches, trainer.context.output_dir) from None
        self.bar.set_postfix(loss=f"{line['loss'] or math.nan:.4f}", lr=f"{line['lr']:.1e}")
        trainer.tell("on_log", line)


class Checkpoints(Callback):
    """Writes a checkpoint every `--checkpointing_steps` steps."""

    def on_step_end(self, trainer: Task) -> None:
        if trainer.is_saving:
            trainer.save()


class ValidationImages(Callback):
    """Makes validation images when they are due."""

    def on_train_begin(self, trainer: Task) -> None:
        """On resuming, makes up for the images that the stop left out."""
        is_made = trainer.validation.folder(trainer.step).is_dir
        if trainer.step and trainer.is_validating and not from_main(trainer.context.accelerator, is_made):
            self.on_step_end(trainer)

    def on_step_end(self, trainer: Task) -> None:
        if trainer.is_validating:
            with trainer.log.pause():
                trainer.context.stop.unless_asked(partial(self.make, trainer))

    def make(self, trainer: Task) -> None:
        trainer.validation.make(trainer.step, trainer.trainable)
        trainer.tell("on_validate", trainer.validation.images)


class Uploads(Callback):
    """Uploads after checkpoints, in the background, with `--hub_strategy every_save` or `checkpoint`."""

    def on_step_end(self, trainer: Task) -> None:
        if trainer.is_saving and not trainer.context.stop.code:
            with trainer.log.pause(), trainer.context.whole_weights():
                if trainer.publisher is not None:
                    trainer.publisher.saved(trainer.step, trainer.state, trainer.card_facts())


class StopsWhenAsked(Callback):
    """Ends the process of a run that was asked to stop, once its checkpoint is written."""

    def on_train_begin(self, trainer: Task) -> None:
        if trainer.context.stop.code:
            self.leave(trainer, "there is nothing to save yet" if trainer.step == 0 else None)

    def on_step_end(self, trainer: Task) -> None:
        if trainer.context.stop.code:
            trainer.save()
            self.leave(trainer)

    def leave(self, trainer: Task, state: str | None = None) -> None:
        run, step = trainer.context, trainer.step
        end_training(run.accelerator)
        again = " and --resume_from_checkpoint latest" if step else ""
        sentence = (
            f"Stopped by {run.stop.reason or 'a signal to another process'} after step {step}:"
            f" {state or f'checkpoint-{step} is saved'}; go on with the same command{again}."
        )
        raise Stopped(sentence if run.accelerator.is_main_process else None, trainer.context.stop.code)
