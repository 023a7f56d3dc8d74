# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Training a ControlNet beside a frozen text-to-image model."""

import logging
from typing import Any

import torch
from PIL import Image

from .. import controls, errors
from ..adapters import AdapterSettings
from ..backbones import Backbone
from ..config import ControlNetConfig
from ..controls import Extractor
from ..controls import bank as control_bank
from ..data.images.decode import ImageTransform, UnreadableImage, control_crop, decode
from ..errors import DiffTuneError
from ..trainables.control import ControlBranch
from .adapter import adapter_settings, check_fit
from .batches import PlannedBatches
from .control_evaluation import ControlEvaluation
from .control_images import sample_decoder
from .control_model import check_controlnet, control_family, empty_controlnet, find_tokenizer, load_controlnet
from .evaluation import Evaluation
from .folder import CONTROLNET_CONFIG
from .trainer import Trainer
from .validation import Validation


logger = logging.getLogger(__name__)


class ControlNetTrainer(Trainer):
    """Trains a ControlNet, all of it or an adapter on it, beside a frozen text-to-image model; see [`Trainer`].

    Args:
        config ([`ControlNetConfig`], *optional*): The settings of the run.
        callbacks (`Iterable[Callback]`, *optional*): What else is to happen while it trains.
        settings: The fields of [`ControlNetConfig`] as keyword arguments, in place of `config`.
    """

    config_class = ControlNetConfig
    result_files = (CONTROLNET_CONFIG,)
    config: ControlNetConfig
    extractor: Extractor | None
    source_controls: control_bank.BankConditions | None

    def check_flags(self) -> None:
        super().check_flags()
        for path in self.config.validation_image or []:
            open_control_image(path)
        kind = self.config.condition_kind
        if kind is not None:
            with errors.flag(f"--condition_kind {kind}"):
                controls.check_kind(kind, self.config.condition_model, self.config.condition_revision)

    def find_backbone(self, **settings: Any) -> Backbone:
        return super().find_backbone(tokenizer=find_tokenizer(self.config), **settings)

    def find_adapter(self) -> AdapterSettings | None:
        """Finds the ControlNet and the adapter on it that the flags name, and checks that they fit."""
        config, backbone, family = self.config, self.backbone, control_family(self.backbone)
        pretrained_type = backbone.pretrained_prediction_type
        if config.prediction_type not in (None, pretrained_type):
            raise DiffTuneError(
                f"--prediction_type is {config.prediction_type}, but the denoiser is frozen and by its scheduler predicts"
                f" {pretrained_type}, as it will wherever the ControlNet is used; leave the flag out."
            )
        if config.controlnet_model_name_or_path is not None:
            check_controlnet(config, backbone)
        adapter = adapter_settings(config, backbone, family.always_trained)
        if adapter is not None:
            with torch.device("meta"):
                empty = family.new(backbone.empty_denoiser())
            check_fit(config, adapter, empty, "ControlNet")
        return adapter

    def find_validation(self) -> Validation:
        """A prompt and a control image for each validation image; a single one of either goes with all of the other.

        Control images are resized and cropped as those of the target data are.
        """
        config = self.config
        if not (config.validation_prompt and config.validation_image):
            return Validation(self.context, self.backbone, [])
        transform = ImageTransform(self.backbone.resolution, config.image_interpolation_mode)
        images = [control_crop(open_control_image(path), transform) for path in config.validation_image]
        count = max(len(config.validation_prompt), len(images))
        pairs = zip(repeated(config.validation_prompt, count), repeated(images, count), strict=True)
        shown = [pair for pair in pairs for _ in range(config.num_validation_images)]
        return Validation(self.context, self.backbone, [prompt for prompt, _ in shown], [image for _, image in shown])

    def open_evaluation(self) -> Evaluation | None:
        run, config = self.context, self.config
        self.extractor = None
        if self.retention_condition == "extracted" or config.control_evaluation_data is not None:
            self.extractor = controls.make_extractor(
                config.condition_kind,
                config.condition_model,
                config.condition_revision,
                device=run.accelerator.device,
                cache_dir=config.cache_dir,
                token=config.hub_token,
            )
        if config.control_evaluation_data is None:
            return None
        return ControlEvaluation(run, self.backbone, self.extractor)

    @property
    def retention_condition(self) -> str | None:
        """The control images of source rows: `"extracted"`, `"blank"`, or `None` for a run without source rows."""
        return (self.config.retention_condition or "blank") if self.config.uses_bank else None

    def run_settings(self) -> dict[str, Any]:
        settings = super().run_settings() | {
            "controlnet": True,
            "controlnet_model_name_or_path": self.config.controlnet_model_name_or_path,
            "retention_condition": self.retention_condition,
        }
        extractor = {} if self.extractor is None else self.extractor.settings
        return settings | {f"extractor's {name}": value for name, value in extractor.items()}

    def sample_bank(self) -> None:
        """Samples the bank, and extracts the control images of its samples, once for each bank; they are kept beside it."""
        super().sample_bank()
        self.source_controls = None
        if self.retention_condition == "blank":
            logger.info("Source rows get a blank control image: the pair is held to the bare model.")
        elif self.retention_condition == "extracted":
            accelerator = self.context.accelerator
            decode = sample_decoder(self.backbone, accelerator.device)
            self.source_controls = control_bank.bank_conditions(
                self.bank, self.extractor, decode, accelerator=accelerator, cache_dir=self.config.cache_dir
            )
            self.backbone.release_encoders()
            self.extractor.release()
        if self.evaluation is None:
            self.extractor = None  # a model leaves memory

    def plan_batches(self, **settings: Any) -> PlannedBatches:
        return super().plan_batches(with_control=True, source_controls=self.source_controls, **settings)

    def load_trainable(self) -> ControlBranch:
        denoiser = self.load_denoiser(self.context.weight_dtype)
        controlnet = load_controlnet(self.config, self.backbone, self.context.seed)
        return ControlBranch(self.backbone, denoiser, self.save_memory(controlnet), self.adapter)

    def empty_trainable(self, denoiser: torch.nn.Module) -> tuple[torch.nn.Module, str]:
        name = self.config.controlnet_model_name_or_path
        title = f"the ControlNet {name}" if name else "a ControlNet made from the denoiser"
        return empty_controlnet(self.config, self.backbone, denoiser), title


def open_control_image(path: str) -> Image.Image:
    """A file of `--validation_image`."""
    try:
        return decode({"bytes": None, "path": path})
    except UnreadableImage as error:
        raise DiffTuneError(f"--validation_image {path} cannot be read: {error.reason}.") from None


def repeated(values: list[Any], count: int) -> list[Any]:
    """As many values as are wanted of one, or those that there are."""
    return values * count if len(values) == 1 else values
