# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The quality of samples, measured while a run trains: FID, KID, precision and recall against held-out images, and the CLIP
score."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..backbones import Backbone
from ..data.dataset import TargetData
from ..data.stream import StreamedTarget
from ..io.processes import from_main
from ..trainables import Trainable
from .evaluation import Evaluation
from .run import Run
from .validation import sampling


if TYPE_CHECKING:
    from ..evaluation.sample_quality import Measurement


class QualityEvaluation(Evaluation):
    """FID, KID, precision and recall of samples against held-out images, always for the same prompts and from the same noise.

    The floor beside each figure is that of held-out images against images that are trained on, as many as
    `--evaluation_samples`, or as there are. Of a stream, of which nobody can draw, and of fewer than 4 target rows, it is that
    of one half of the held-out images against the other.

    Real images are resized as those that are trained on are, so that what resizing does to the features is no difference
    between them and the samples of a model that learned from such images.

    Raises:
        DiffTuneError: The features, or the CLIP model, cannot be had.
    """

    name, flags, measures = "quality", "evaluation", "FID, KID, precision and recall"

    def __init__(
        self, run: Run, backbone: Backbone, target: TargetData | StreamedTarget, held_out: TargetData
    ) -> None:
        super().__init__(run, held_out, run.config.evaluation_steps or run.config.checkpointing_steps)
        self.backbone, self.target = backbone, target
        self.measurement: Measurement  # on the main process
        self.prompts: list[str] = []
        from_main(run.accelerator, self.prepare)

    def prepare(self) -> None:
        """Loads the feature extractor, and looks at the real images."""
        from ..evaluation import FEWEST_IMAGES
        from ..evaluation.clip_score import ClipScore
        from ..evaluation.features import make_features  # these are slow to import
        from ..evaluation.real_images import drawn_rows, read_images, row_prompts
        from ..evaluation.sample_quality import Measurement

        config, device = self.run.config, self.run.accelerator.device
        with errors.flag("--evaluation_features"):
            extractor = make_features(config.evaluation_features, config.cache_dir, config.hub_token)
        rows = drawn_rows(self.held_out, self.samples)
        size = (self.backbone.resolution, config.image_interpolation_mode)
        others = class_ids = None
        if isinstance(self.target, TargetData):
            if len(self.target) >= FEWEST_IMAGES // 2:
                others = read_images(self.target, drawn_rows(self.target, self.samples), *size)
            if self.target.class_names is not None:
                class_ids = {name: number for number, name in enumerate(self.target.class_names)}
        with errors.flag("--evaluation_data"):
            self.prompts = row_prompts(self.held_out, rows, class_ids)
        clip_score, model = None, config.evaluation_clip_model
        if model is not None:
            with errors.flag("--evaluation_clip_model"):
                clip_score = ClipScore(model, device, config.cache_dir, config.hub_token)
        self.measurement = Measurement(
            extractor,
            read_images(self.held_out, rows, *size),
            others,
            clip_score,
            captions=self.prompts,
            steps=config.evaluation_inference_steps,
            guidance_scale=config.evaluation_guidance_scale,
            batch_size=config.train_batch_size,
            device=device,
        )

    @property
    def settings(self) -> dict[str, Any]:
        # By their last names: they may be moved, and a checkpoint that was uploaded has no paths.
        networks = {f"{self.flags}_{name}": self.flag(name) for name in ("features", "clip_model")}
        return super().settings | {name: network and Path(network).name for name, network in networks.items()}

    def figures(self, trainable: Trainable) -> dict[str, float]:
        """The figures of now; without a FID where there are not more images than features."""
        with sampling(self.run, self.backbone, trainable) as pipeline:
            figures = self.measurement.measure(pipeline, self.prompts, "Measuring").figures
        return {name: value for name, value in figures.items() if value is not None}
