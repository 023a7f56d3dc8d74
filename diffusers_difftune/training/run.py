# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Starting and ending a run: its processes and devices, its logging, its seed and its folder."""

import logging
import math
import os
import secrets
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import accelerate
import datasets
import diffusers
import torch
import transformers
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, broadcast_object_list, set_seed

from ..bank.manifest import MANIFEST_NAME, BankManifest
from ..console import log_to_terminal
from ..data.cache.place import difftune_cache_dir
from ..io.processes import from_main, frozen_dtype
from .checkpoint_files import read_settings
from .distributed import Replicated, make_accelerator
from .folder import take_output_dir
from .launch import check_processes
from .stopping import StopRequests


logger = logging.getLogger(__name__)


@dataclass
class Run:
    """A started run."""

    config: Any  # of the task
    accelerator: accelerate.Accelerator  # devices, processes, precision, trackers
    output_dir: Path
    seed: int  # of every draw
    weight_dtype: torch.dtype  # the precision of what is not trained
    stop: StopRequests
    checkpoint: Path | None = None  # to resume from
    distributed: Replicated | None = None  # what trains, on the processes' devices, from when it is there

    def whole_weights(self) -> AbstractContextManager[None]:
        """A context in which what trains has its whole weights on the main process; enter it on every process."""
        return nullcontext() if self.distributed is None else self.distributed.whole_weights()

    @property
    def global_batch_size(self) -> int:
        """Rows of one optimiser step, over all processes and accumulation micro-steps."""
        config = self.config
        return config.train_batch_size * config.gradient_accumulation_steps * self.accelerator.num_processes

    @property
    def source_share(self) -> float:
        """The share of source rows; 0 for standard fine-tuning."""
        return self.config.source_share if self.config.uses_bank else 0.0

    @property
    def cache_dir(self) -> Path:
        """Where cached encodings and file hashes are kept."""
        return difftune_cache_dir(self.config.cache_dir)

    def total_steps(self, num_target: int) -> int:
        """Optimiser steps of the run."""
        return self.config.max_train_steps or self.config.num_train_epochs * self.steps_per_epoch(num_target)

    def steps_per_epoch(self, num_target: int) -> int:
        """Optimiser steps in which every target row is trained on at least once."""
        return math.ceil(num_target / ((1 - Fraction(str(self.source_share))) * self.global_batch_size))


def start_run(config: Any, result_files: tuple[str, ...]) -> Run:
    """Sets up the accelerator, logging, the seed and the run folder, by flags that were checked. Loads no model.

    Raises:
        DiffTuneError: The processes, the precision or the run folder cannot be as the flags say.
    """
    if config.local_rank != -1:
        os.environ.setdefault("LOCAL_RANK", str(config.local_rank))
    AcceleratorState._reset_state()  # an earlier run of this process may have used another precision
    accelerator = make_accelerator(
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        mixed_precision=config.mixed_precision,
        log_with=config.tracker,
        project_config=ProjectConfiguration(
            project_dir=config.output_dir, logging_dir=str(Path(config.output_dir, config.logging_dir))
        ),
        step_scheduler_with_optimizer=False,
    )
    check_processes(accelerator)
    quiet = not accelerator.is_local_main_process
    log_to_terminal("%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("diffusers_difftune").setLevel(logging.ERROR if quiet else logging.INFO)
    if config.report_to != "none" and config.tracker is None:
        logger.info(
            "tensorboard, the default of --report_to, is not installed, so the losses are in training_log.jsonl alone; `pip"
            " install 'diffusers-difftune[tensorboard]'` adds it."
        )
    for library in (datasets, transformers, diffusers):
        (library.utils.logging.set_verbosity_error if quiet else library.utils.logging.set_verbosity_warning)()
    transformers.utils.logging.disable_progress_bar()  # of loading weights; ours stay
    diffusers.utils.logging.disable_progress_bar()
    if config.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
    output_dir = Path(config.output_dir)
    checkpoint = from_main(accelerator, lambda: take_output_dir(config, result_files))
    seed = config.seed
    if seed is None:  # a run that is resumed or begun once more goes on with the seed of its checkpoint or bank
        bank = output_dir / "knowledge_bank"
        if checkpoint is not None:
            seed = read_settings(checkpoint)["seed"]
        else:
            seed = BankManifest.read(bank).seed if (bank / MANIFEST_NAME).is_file() else secrets.randbits(31)
    seed = broadcast_object_list([seed])[0]
    set_seed(seed)
    return Run(config, accelerator, output_dir, seed, frozen_dtype(accelerator), StopRequests(accelerator), checkpoint)


def end_training(accelerator: accelerate.Accelerator) -> None:
    """Closes the trackers and the process group.

    Gloo's threads let go of the last barrier's tensors a moment after it, and need Python's lock for it. A group that is
    destroyed in that moment waits for them with the lock held, for ever; so they are given time.
    """
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        time.sleep(1)
    accelerator.end_training()
