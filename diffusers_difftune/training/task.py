# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What tasks differ in: the methods that the trainer of a task overrides. As they stand here, a model that is conditioned on
prompts is trained, all of it or an adapter on it, and the quality of its samples is measured."""

from typing import Any, ClassVar

import torch

from ..adapters import AdapterSettings
from ..backbones import Backbone
from ..bank.bank import KnowledgeBank
from ..config.shared import EmaConfig, TrainingConfig
from ..data.cut import CutCaptions
from ..data.dataset import TargetData
from ..data.images.decode import ImageTransform
from ..data.plan import BatchPlan
from ..data.stream import StreamedTarget
from ..errors import DiffTuneError
from ..objective import DiffTuningObjective
from ..trainables import AdaptedDenoiser, FullDenoiser, Trainable
from ..trainables.full import EMA_DECAY
from .adapter import find_adapter
from .batches import PlannedBatches
from .checks import check_flags
from .evaluation import Evaluation
from .optimizer import make_optimizer
from .pretrained import find_backbone, load_denoiser
from .quality_evaluation import open_quality_evaluation
from .run import Run
from .run_identity import run_settings
from .target import tell_cut_captions
from .validation import ValidationInputs


class Task:
    """What tasks differ in; [`Trainer`] documents the attributes.

    Attributes:
        config_class (`type`): The config of the task.
        conditioned_on (`str`): What its models are conditioned on, `"prompts"` or `"classes"`.
        result_files (`tuple[str, ...]`): Names of files that its results have beside those of all tasks.
    """

    config_class: ClassVar[type[TrainingConfig]]
    conditioned_on: ClassVar[str] = "prompts"
    result_files: ClassVar[tuple[str, ...]] = ()

    config: TrainingConfig
    context: Run
    backbone: Backbone
    adapter: AdapterSettings | None
    objective: DiffTuningObjective
    target: TargetData | StreamedTarget
    captions: CutCaptions | None
    evaluation: Evaluation | None
    bank: KnowledgeBank | None
    total_steps: int

    def check_flags(self) -> None:
        """Stops on the first flag that cannot work, before anything is opened."""
        check_flags(self.config)

    def find_backbone(self, **settings: Any) -> Backbone:
        """The pretrained pipeline, whose configs are read and no weights.

        Args:
            settings: Arguments of [`Backbone`] that only some tasks have flags for.
        """
        return find_backbone(self.config, self.conditioned_on, **settings)

    def find_adapter(self) -> AdapterSettings | None:
        """The adapter that the flags ask for, if it fits what is to train; `None` if all of that trains."""
        return find_adapter(self.config, self.backbone)

    def make_objective(self, **settings: Any) -> DiffTuningObjective:
        """The losses that the flags ask for; standard fine-tuning is share 0 with power 0.

        Args:
            settings: More settings of [`DiffTuningObjective`].
        """
        config = self.config
        objective = DiffTuningObjective(
            self.backbone.noise_scheduler,
            source_share=self.context.source_share,
            retention_weight=config.retention_weight,
            reconsolidation_power=0.0 if config.objective == "standard" else config.reconsolidation_power,
            retention_power=config.retention_power,
            coefficients=config.coefficients,
            prediction_type=config.prediction_type,
            snr_gamma=config.snr_gamma,
            noise_offset=config.noise_offset,
            **settings,
        )
        pretrained_type = self.backbone.pretrained_prediction_type
        if self.keeps_pretrained and objective.prediction_type != pretrained_type:
            raise DiffTuneError(
                f"--retention_target pretrained holds source rows to what the pretrained model predicts, {pretrained_type},"
                f" and --prediction_type is {config.prediction_type}; leave one of them out."
            )
        return objective

    @property
    def keeps_pretrained(self) -> bool:
        """Whether source rows are held to what the pretrained model answers."""
        return self.config.retention_target == "pretrained"

    def check_target(self) -> CutCaptions | None:
        """Looks at the opened target data; returns how many captions are longer than the model reads, if it reads any."""
        return tell_cut_captions(self.context, self.backbone, self.target)

    def find_validation_inputs(self) -> ValidationInputs | None:
        """What to make validation images of; `None` if nothing is named."""
        raise NotImplementedError

    def open_evaluation(self) -> Evaluation | None:
        """What is measured while training; `None` if nothing is."""
        return open_quality_evaluation(self.context, self.backbone, self.target)

    def run_settings(self) -> dict[str, Any]:
        """What decides the course of the run, so that a checkpoint is only resumed where it means the same."""
        settings = run_settings(self.context, self.backbone, self.target, self.bank)
        return settings if self.evaluation is None else settings | {self.evaluation.flags: self.evaluation.settings}

    def record(self) -> dict[str, Any]:
        """What `run_config.json` says of this task alone."""
        return {}

    def plan_batches(self, **cached: Any) -> PlannedBatches:
        """The batches of this process.

        Args:
            cached: Settings of [`PlannedBatches`]: the cached images and prompts, if there are.
        """
        run, config, bank = self.context, self.config, self.bank
        return PlannedBatches(
            plan=BatchPlan(
                seed=run.seed,
                batch_size=run.global_batch_size,
                source_share=run.source_share,
                num_target=len(self.target),
                num_source=0 if bank is None else len(bank),
            ),
            target=self.target,
            latent_shape=self.backbone.latent_shape(),
            transform=ImageTransform(self.backbone.resolution, config.image_interpolation_mode),
            row_condition=self.backbone.row_condition,
            train_batch_size=config.train_batch_size,
            accumulation=config.gradient_accumulation_steps,
            rank=run.accelerator.process_index,
            world_size=run.accelerator.num_processes,
            bank=bank,
            empty_source_prompts=config.retention_prompts == "empty",
            renamed_prompts=self.backbone.renamed_prompts(),
            empty_prompts=config.unconditional_share,
            random_flip=config.random_flip,
            center_crop=config.center_crop,
            with_offset=self.objective.noise_offset > 0,
            with_perturbation=self.objective.input_perturbation > 0,
            **cached,
        )

    def load_trainable(self) -> Trainable:
        """Loads the denoiser and makes it train: an adapter on it, or all of it, in float32."""
        if self.adapter is None:
            return FullDenoiser(
                self.backbone, self.load_denoiser(), keep_pretrained=self.keeps_pretrained, **self.average_settings()
            )
        denoiser = self.load_denoiser(self.context.weight_dtype)
        torch.manual_seed(self.context.seed)  # some layers start at random
        return AdaptedDenoiser(self.backbone, denoiser, self.adapter, self.keeps_pretrained)

    def load_denoiser(self, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        """The pretrained denoiser; what is trained must be float32."""
        return load_denoiser(self.config, self.backbone, dtype)

    def average_settings(self) -> dict[str, Any]:
        """Settings of [`FullDenoiser`] for the moving average of the weights, if the task may keep one."""
        config = self.config
        if not isinstance(config, EmaConfig):
            return {}
        return {
            "use_ema": config.use_ema,
            "ema_decay": EMA_DECAY if config.ema_decay is None else config.ema_decay,
            "ema_warmup": config.ema_warmup,
            "foreach_ema": config.foreach_ema,
            "offload_ema": config.offload_ema,
        }

    def make_optimizer(self, parameters: list[Any]) -> tuple[Any, Any]:
        """AdamW and the learning rate schedule."""
        has_scaler = self.context.accelerator.scaler is not None
        return make_optimizer(self.config, parameters, self.total_steps, self.context.global_batch_size, has_scaler)

    def empty_trainable(self, denoiser: torch.nn.Module) -> tuple[torch.nn.Module, str, dict[str, Any]]:
        """What is to train (or gets the adapter) without its weights, its name, and more about it, for the summary.

        Args:
            denoiser (`torch.nn.Module`): The denoiser without its weights.
        """
        return denoiser, self.backbone.denoiser_name, {}
