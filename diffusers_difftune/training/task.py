# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What tasks differ in: the methods that the trainer of a task overrides. As they stand here, a model that is conditioned on
prompts is trained, all of it or an adapter on it, and the quality of its samples is measured. At the end of the file is what
callbacks use of a trainer."""

from contextlib import ExitStack
from typing import Any, ClassVar

import torch

from .. import errors
from ..adapters import AdapterSettings
from ..adapters.stock_lora import is_stock_lora
from ..backbones import Backbone, load_backbone, pipeline_folder
from ..bank.bank import KnowledgeBank
from ..bank.prompts import read_prompts
from ..config.checks import check_flags
from ..config.shared import EmaConfig, TrainingConfig
from ..data.cut import CutCaptions, tell_cut
from ..data.dataset import TargetData
from ..data.images.decode import ImageTransform
from ..data.plan import BatchPlan
from ..data.stream import StreamedTarget
from ..errors import DiffTuneError, first_sentence
from ..io.hub import folder_of
from ..objective import DiffTuningObjective
from ..publishing.card import OF_THE_BANK
from ..trainables import AdaptedDenoiser, FullDenoiser, Trainable
from ..trainables.full import EMA_DECAY
from .adapter import adapter_settings, check_fit
from .batches import PlannedBatches
from .checkpoint import TrainingState
from .evaluation import Evaluation, open_held_out
from .launch import check_launch
from .log import TrainingLog
from .optimizer import make_optimizer
from .publish import Publisher
from .quality_evaluation import QualityEvaluation
from .run import Run
from .run_identity import run_settings
from .validation import Validation


class Task:
    """What tasks differ in, and what callbacks use; [`Trainer`] documents the attributes.

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
    validation: Validation
    validation_steps: range
    evaluation: Evaluation | None
    bank: KnowledgeBank | None
    batches: PlannedBatches
    trainable: Trainable
    publisher: Publisher | None
    state: TrainingState
    log: TrainingLog
    until_end: ExitStack
    all_callbacks: list[Any]
    step: int
    saved_step: int | None
    total_steps: int

    def check_flags(self) -> None:
        """Stops on the first flag that cannot work, by itself, beside others, on this launcher or with the file that it
        names, before anything is opened."""
        check_flags(self.config)
        check_launch(self.config)
        own = "captions" if self.config.label_column is None else "classes"
        if self.config.bank_prompts != own:
            with errors.flag("--bank_prompts"):
                read_prompts(self.config.bank_prompts, own)

    def find_backbone(self, **settings: Any) -> Backbone:
        """Finds (or downloads) the pretrained pipeline and reads its configs, no weights.

        Args:
            settings: Arguments of [`Backbone`] that only some tasks have flags for.

        Raises:
            DiffTuneError: There is no such pipeline, it is damaged, or it is of another kind.
        """
        config = self.config
        if config.pretrained_vae_model_name_or_path is not None:
            with errors.flag("--pretrained_vae_model_name_or_path"):
                vae = config.pretrained_vae_model_name_or_path
                settings["vae"] = folder_of(vae, "a VAE", cache_dir=config.cache_dir, token=config.hub_token)
        with errors.flag(
            "--pretrained_model_name_or_path",
            vae="--pretrained_vae_model_name_or_path",
            tokenizer="--tokenizer_name",
            resolution="--resolution",
            prediction_type="--prediction_type",
        ):
            folder = pipeline_folder(
                config.pretrained_model_name_or_path,
                config.revision,
                config.variant,
                config.cache_dir,
                config.hub_token,
            )
            backbone = load_backbone(
                folder,
                config.variant,
                resolution=config.resolution if config.was_given("resolution") else None,
                prediction_type=config.prediction_type,
                **settings,
            )
        if backbone.conditioned_on != self.conditioned_on:
            raise DiffTuneError(
                f"--pretrained_model_name_or_path is a {backbone.pipeline_class.__name__}, which is conditioned on"
                f" {backbone.conditioned_on}; this script trains models that are conditioned on {self.conditioned_on}."
            )
        return backbone

    def find_adapter(self) -> AdapterSettings | None:
        """The adapter that the flags ask for, if it fits what is to train; `None` if all of that trains.

        Raises:
            DiffTuneError: There is no module or parameter of a name, or one that cannot be adapted, or stock diffusers would
                not read all of the file that the run is to write for it.
        """
        backbone, settings = self.backbone, adapter_settings(self.config, self.backbone)
        if settings is not None:
            stock = backbone.pipeline_class if is_stock_lora(settings, backbone.pipeline_class) else None
            check_fit(self.config, settings, backbone.empty_denoiser(), backbone.denoiser_name, stock)
        return settings

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
        """Looks at the opened target data: counts the captions that are longer than the model reads, if it reads any, on
        the main process. Those of a stream are not known."""
        if isinstance(self.target, StreamedTarget) or not self.context.accelerator.is_main_process:
            return None
        return tell_cut(self.target.distinct_captions, self.backbone, "captions", self.target)

    def find_validation(self) -> Validation:
        """The validation images to be made; of no prompts if nothing is named."""
        raise NotImplementedError

    def open_evaluation(self) -> Evaluation | None:
        """What is measured while training; `None` if nothing is."""
        if self.config.evaluation_data is None:
            return None
        held_out = open_held_out(self.context, QualityEvaluation.flags)
        return QualityEvaluation(self.context, self.backbone, self.target, held_out)

    def run_settings(self) -> dict[str, Any]:
        """What decides the course of the run, so that a checkpoint is only resumed where it means the same."""
        settings = run_settings(self.context, self.backbone, self.target, self.bank)
        return settings if self.evaluation is None else settings | self.evaluation.settings

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
            average = self.average_settings()
            return FullDenoiser(self.backbone, self.load_denoiser(), keep_pretrained=self.keeps_pretrained, **average)
        denoiser = self.load_denoiser(self.context.weight_dtype)
        torch.manual_seed(self.context.seed)  # some layers start at random
        return AdaptedDenoiser(self.backbone, denoiser, self.adapter, self.keeps_pretrained)

    def load_denoiser(self, dtype: torch.dtype = torch.float32, revision: str | None = None) -> torch.nn.Module:
        """The pretrained denoiser, with the memory savers that the flags ask for.

        Args:
            dtype (`torch.dtype`, *optional*, defaults to float32): Its precision; what is trained must be float32.
            revision (`str`, *optional*): `--non_ema_revision`: the revision on the Hub of other weights than the
                pipeline's.
        """
        config = self.config
        if revision is None:
            return self.save_memory(self.backbone.load_denoiser(dtype=dtype))
        name = config.pretrained_model_name_or_path
        where = {"revision": revision, "cache_dir": config.cache_dir, "token": config.hub_token}
        try:
            return self.save_memory(self.backbone.load_denoiser(name, dtype, **where))
        except OSError as error:
            raise DiffTuneError(
                f"--non_ema_revision {revision} of {name} cannot be loaded: {first_sentence(error)}."
            ) from error

    def save_memory(self, model: torch.nn.Module) -> torch.nn.Module:
        """Switches on the memory savers that the flags ask for."""
        if self.config.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        if self.config.enable_xformers_memory_efficient_attention:
            model.enable_xformers_memory_efficient_attention()
        return model

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

    def empty_trainable(self, denoiser: torch.nn.Module) -> tuple[torch.nn.Module, str]:
        """What is to train (or gets the adapter) without its weights, and what the summary calls it.

        Args:
            denoiser (`torch.nn.Module`): The denoiser without its weights.
        """
        return denoiser, f"the {self.backbone.denoiser_name}"

    # What callbacks use.

    def tell(self, event: str, *facts: Any) -> None:
        """Calls a method of every callback."""
        for callback in self.all_callbacks:
            getattr(callback, event)(self, *facts)

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is due after this step."""
        return self.step % self.config.checkpointing_steps == 0

    @property
    def is_validating(self) -> bool:
        """Whether validation images are due after this step."""
        return bool(self.validation.prompts) and self.step in self.validation_steps

    def save(self) -> None:
        """Writes a checkpoint, if there is none of this step yet."""
        if self.saved_step == self.step:
            return
        with self.log.pause():
            self.state.save(self.step, self.log.pending())
        self.saved_step = self.step
        self.tell("on_save", self.context.output_dir / f"checkpoint-{self.step}")

    def card_facts(self) -> dict[str, Any]:
        """What the model card says and no other file of the run folder has; call it on the main process."""
        manifest = None if self.bank is None else self.bank.manifest
        return {
            "repo_id": None if self.publisher is None else self.publisher.repo_id,
            "result": self.trainable.result,
            "pipeline_class": self.backbone.pipeline_class.__name__,
            "num_rows": None if self.config.streaming else len(self.target),
            "knowledge_bank": None if manifest is None else {name: getattr(manifest, name) for name in OF_THE_BANK},
            "images": {
                title: [path.relative_to(self.context.output_dir).as_posix() for path in paths]
                for title, paths in self.validation.images_by_prompt().items()
            },
        }
