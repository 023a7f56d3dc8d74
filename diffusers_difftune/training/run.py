# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What every script does around its training: accelerator, logging, seed, run folder, optimiser, result."""

import importlib.metadata
import json
import logging
import math
import os
import platform
import secrets
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import datasets
import diffusers
import torch
import transformers
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, broadcast_object_list, set_seed
from diffusers.optimization import get_scheduler

from .. import errors
from ..backbones import Backbone, load_backbone, pipeline_folder
from ..bank.manifest import MANIFEST_NAME, BankManifest
from ..console import log_to_terminal
from ..data.cache.place import difftune_cache_dir
from ..errors import DiffTuneError, first_sentence
from ..io.atomic import write_bytes_atomic
from ..io.processes import from_main
from ..objective import DiffTuningObjective
from .checkpoint_files import read_settings
from .checks import check_flags, uses_bank
from .distributed import Replicated, make_accelerator
from .folder import clear, take_output_dir
from .launch import check_processes
from .stopping import StopRequests


logger = logging.getLogger(__name__)
LIBRARIES = ("diffusers-difftune", "torch", "diffusers", "transformers", "peft", "accelerate", "datasets")


@dataclass
class Run:
    """A started run.

    Attributes:
        config: The config of the script.
        accelerator ([`~accelerate.Accelerator`]): Devices, processes, precision, trackers.
        output_dir (`Path`): The run folder.
        seed (`int`): The seed of every draw.
        weight_dtype (`torch.dtype`): The precision of what is not trained.
        stop ([`StopRequests`]): Whether it is to stop early.
        checkpoint (`Path`, *optional*): The checkpoint to resume from.
        distributed ([`Replicated`], *optional*): What trains, on the processes' devices, from when it is there.
    """

    config: Any
    accelerator: accelerate.Accelerator
    output_dir: Path
    seed: int
    weight_dtype: torch.dtype
    stop: StopRequests
    checkpoint: Path | None = None
    distributed: Replicated | None = None

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
        return self.config.source_share if uses_bank(self.config) else 0.0

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


def start_run(config: Any) -> Run:
    """Checks the flags and sets up the accelerator, logging, the seed and the run folder. Loads no model.

    Args:
        config: The config of the script.

    Returns:
        [`Run`]: The run.

    Raises:
        DiffTuneError: A flag cannot work.
    """
    check_flags(config)
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
    checkpoint = from_main(accelerator, lambda: take_output_dir(config))
    seed = config.seed
    if seed is None:  # a run that is resumed or begun once more goes on with the seed of its checkpoint or bank
        bank = output_dir / "knowledge_bank"
        if checkpoint is not None:
            seed = read_settings(checkpoint)["seed"]
        else:
            seed = BankManifest.read(bank).seed if (bank / MANIFEST_NAME).is_file() else secrets.randbits(31)
    seed = broadcast_object_list([seed])[0]
    set_seed(seed)
    weight_dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    return Run(config, accelerator, output_dir, seed, weight_dtype, StopRequests(accelerator), checkpoint)


def find_backbone(run: Run, **settings: Any) -> Backbone:
    """Finds (or downloads) the pretrained pipeline and reads its configs, no weights.

    Args:
        run ([`Run`]): The run.
        settings: [`~diffusers_difftune.backbones.base.Settings`] that only some scripts have flags for.
    """
    config = run.config
    with errors.flag("--pretrained_model_name_or_path"):
        folder = pipeline_folder(
            config.pretrained_model_name_or_path, config.revision, config.variant, config.cache_dir, config.hub_token
        )
        backbone = load_backbone(
            folder,
            config.variant,
            resolution=config.resolution if config.was_given("resolution") else None,
            prediction_type=config.prediction_type,
            **settings,
        )
    takes = "prompts" if config.label_column is None else "classes"
    if backbone.conditioned_on != takes:
        raise DiffTuneError(
            f"--pretrained_model_name_or_path is a {backbone.pipeline_class.__name__}, which is conditioned on"
            f" {backbone.conditioned_on}; this script trains models that are conditioned on {takes}."
        )
    return backbone


def load_denoiser(run: Run, backbone: Backbone, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Loads the pretrained denoiser, with the memory savers that the flags ask for.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        dtype (`torch.dtype`, *optional*, defaults to float32): Its precision; what is trained must be float32.

    Returns:
        `torch.nn.Module`: The denoiser.
    """
    config = run.config
    non_ema_revision = getattr(config, "non_ema_revision", None)
    if non_ema_revision is None:
        denoiser = backbone.load_denoiser(dtype=dtype)
    else:
        name = config.pretrained_model_name_or_path
        try:
            denoiser = backbone.load_denoiser(
                name, dtype, revision=non_ema_revision, cache_dir=config.cache_dir, token=config.hub_token
            )
        except OSError as error:
            raise DiffTuneError(
                f"--non_ema_revision {non_ema_revision} of {name} cannot be loaded: {first_sentence(error)}."
            ) from error
    save_memory(denoiser, config)
    return denoiser


def save_memory(model: torch.nn.Module, config: Any) -> None:
    """Switches on the memory savers that the flags ask for."""
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if config.enable_xformers_memory_efficient_attention:
        model.enable_xformers_memory_efficient_attention()


def make_objective(run: Run, backbone: Backbone) -> DiffTuningObjective:
    """The objective that the flags ask for; standard fine-tuning is share 0 with power 0."""
    config = run.config
    standard = config.objective == "standard"
    variance_loss = getattr(config, "variance_loss", "both")
    if variance_loss != "both" and not backbone.learned_variance:
        raise DiffTuneError(
            f"--variance_loss is {variance_loss}, and this model does not learn its variance; leave the flag out."
        )
    objective = DiffTuningObjective(
        backbone.noise_scheduler,
        source_share=run.source_share,
        retention_weight=config.retention_weight,
        reconsolidation_power=0.0 if standard else config.reconsolidation_power,
        retention_power=config.retention_power,
        coefficients=config.coefficients,
        prediction_type=config.prediction_type,
        snr_gamma=config.snr_gamma,
        noise_offset=config.noise_offset,
        input_perturbation=getattr(config, "input_perturbation", 0.0),
        variance_loss=variance_loss if backbone.learned_variance else None,
    )
    pretrained_type = backbone.pretrained_prediction_type
    if config.retention_target == "pretrained" and objective.prediction_type != pretrained_type:
        raise DiffTuneError(
            f"--retention_target pretrained holds source rows to what the pretrained model predicts, {pretrained_type},"
            f" and --prediction_type is {config.prediction_type}; leave one of them out."
        )
    if getattr(config, "dream_training", False) and objective.prediction_type != "epsilon":
        raise DiffTuneError(
            f"--dream_training works for models that predict epsilon; this one predicts {objective.prediction_type}."
        )
    return objective


def make_optimizer(run: Run, parameters: list[Any], total_steps: int) -> tuple[Any, Any]:
    """AdamW and the learning rate schedule, both counted in optimiser steps whatever the number of processes."""
    config = run.config
    if config.use_8bit_adam:
        import bitsandbytes

        optimizer_class = bitsandbytes.optim.AdamW8bit
    else:
        # In one kernel. With a loss scaler, accelerate could not tell which steps that kernel skipped.
        optimizer_class = partial(torch.optim.AdamW, fused=run.accelerator.scaler is None)
    optimizer = optimizer_class(
        parameters,
        lr=config.learning_rate * (run.global_batch_size if config.scale_lr else 1),
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    lr_scheduler = get_scheduler(
        config.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=total_steps,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )
    return optimizer, lr_scheduler


def begin_records(run: Run, **facts: Any) -> None:
    """Writes `run_config.json`, every flag and what was found out about the run, and starts the trackers.

    A run that is not resumed has passed every check by now, and what an earlier one left in its folder goes.

    The Hub token is in neither.

    Args:
        run ([`Run`]): The run.
        facts: More to write down, JSON-able.
    """
    flags = run.config.flags()
    flags.pop("hub_token")
    content = {
        "flags": flags,
        "seed": run.seed,
        "num_processes": run.accelerator.num_processes,
        "global_batch_size": run.global_batch_size,
        "mixed_precision": run.accelerator.mixed_precision,
        "device": run.accelerator.device.type,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES if is_installed(name)},
        **facts,
    }
    if run.checkpoint is None:
        from_main(run.accelerator, lambda: clear(run.output_dir))
    if run.accelerator.is_main_process:
        write_bytes_atomic(run.output_dir / "run_config.json", (json.dumps(content, indent=2) + "\n").encode())
    # trackers take plain values only
    plain = {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in flags.items()}
    run.accelerator.init_trackers(run.config.tracker_project_name, config=plain)


def is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
