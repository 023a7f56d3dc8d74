# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a class-conditional model on labelled images: the new label space, and the classes of validation images."""

from typing import Any

from .. import errors
from ..backbones.dit import DiTBackbone
from ..bank.prompts import read_prompts
from ..config import ClassConditionalConfig
from ..data.dataset import TargetData
from ..errors import DiffTuneError
from ..objective import DiffTuningObjective
from .trainer import Trainer
from .validation import Validation


class ClassConditionalTrainer(Trainer):
    """Fine-tunes a class-conditional model on labelled images, every weight or an adapter; see [`Trainer`].

    Args:
        config ([`ClassConditionalConfig`], *optional*): The settings of the run.
        callbacks (`Iterable[Callback]`, *optional*): What else is to happen while it trains.
        settings: The fields of [`ClassConditionalConfig`] as keyword arguments, in place of `config`.
    """

    config_class = ClassConditionalConfig
    conditioned_on = "classes"
    config: ClassConditionalConfig
    backbone: DiTBackbone
    target: TargetData

    def make_objective(self, **settings: Any) -> DiffTuningObjective:
        learned, variance_loss = self.backbone.learned_variance, self.config.variance_loss
        if variance_loss != "both" and not learned:
            raise DiffTuneError(
                f"--variance_loss is {variance_loss}, and this model does not learn its variance; leave the flag out."
            )
        return super().make_objective(variance_loss=variance_loss if learned else None, **settings)

    def check_target(self) -> None:
        """Makes the classes of the target data the model's own, and checks the classes that the flags name."""
        names, target = self.target.class_names or [], self.target
        used = {target.captions(row)[0] for row in range(len(target))}
        if len(used) < 2:
            raise DiffTuneError(
                f"--label_column: of {len(names)} classes only {names[int(used.pop())]} has rows in the target data"
                f" ({len(target)} in use); a class-conditional model needs two."
            )
        unknown = [name for name in self.config.validation_classes or [] if name not in names]
        if unknown:
            raise DiffTuneError(
                f"--validation_classes: there is no class {unknown[0]} in the target data; the classes are"
                f" {', '.join(names[:20])}{' …' if len(names) > 20 else ''}."
            )
        if self.context.source_share and self.config.bank_prompts != "classes":
            with errors.flag("--bank_prompts"):
                self.backbone.source_prompts(read_prompts(self.config.bank_prompts, "classes"))
        seed = self.context.seed if self.config.class_embeddings == "reset" else None
        self.backbone = self.backbone.with_classes(names, seed)

    def find_validation(self) -> Validation:
        titles, names = self.config.validation_classes or [], self.target.class_names or []
        return Validation(self.context, self.backbone, [str(names.index(name)) for name in titles], titles=titles)

    def record(self) -> dict[str, Any]:
        return {"id2label": dict(enumerate(self.target.class_names or []))}
