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
from .evaluation import Evaluation, open_held_out
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

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        target ([`TargetData`] or [`StreamedTarget`]): The target data.
        held_out ([`TargetData`]): The held-out rows.

    Raises:
        DiffTuneError: The features, or the CLIP model, cannot be had.
    """

    name, flags = "quality", "evaluation"

    def __init__(
        self,
        run: Run,
        backbone: Backbone,
        target: TargetData | StreamedTarget,
        held_out: TargetData,
    ) -> None:
        super().__init__(run, held_out)
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

        config, count = self.run.config, self.run.config.evaluation_samples
        with errors.flag("--evaluation_features"):
            extractor = make_features(config.evaluation_features, config.cache_dir, config.hub_token)
        rows = drawn_rows(self.held_out, count)
        size = (self.backbone.resolution, config.image_interpolation_mode)
        others = None
        if isinstance(self.target, TargetData) and len(self.target) >= FEWEST_IMAGES // 2:
            others = read_images(self.target, drawn_rows(self.target, count), *size)
        with errors.flag("--evaluation_data"):
            self.prompts = row_prompts(self.held_out, rows, class_ids(self.target))
        clip_score, model = None, config.evaluation_clip_model
        if model is not None:
            with errors.flag("--evaluation_clip_model"):
                clip_score = ClipScore(model, self.run.accelerator.device, config.cache_dir, config.hub_token)
        self.measurement = Measurement(
            extractor,
            read_images(self.held_out, rows, *size),
            others,
            clip_score,
            captions=self.prompts,
            steps=config.evaluation_inference_steps,
            guidance_scale=config.evaluation_guidance_scale,
            batch_size=config.train_batch_size,
            device=self.run.accelerator.device,
        )

    @property
    def data(self) -> str:  # type: ignore[override]
        return self.run.config.evaluation_data

    @property
    def samples(self) -> int:  # type: ignore[override]
        return self.run.config.evaluation_samples

    @property
    def every(self) -> int:  # type: ignore[override]
        return self.run.config.evaluation_steps or self.run.config.checkpointing_steps

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the figures beside the weights: those of one log must be of one kind."""
        config = self.run.config
        networks = {"features": config.evaluation_features, "clip_model": config.evaluation_clip_model}
        return {
            "data": self.held_out.content_key,
            "samples": config.evaluation_samples,
            "guidance_scale": config.evaluation_guidance_scale,
            "inference_steps": config.evaluation_inference_steps,
            # By their last names: they may be moved, and a checkpoint that was uploaded has no paths.
            **{name: network and Path(network).name for name, network in networks.items()},
        }

    def figures(self, trainable: Trainable) -> dict[str, float]:
        """The figures of now, on this process alone; without a FID where there are not more images than features."""
        with sampling(self.run, self.backbone, trainable) as pipeline:
            figures = self.measurement.measure(pipeline, self.prompts, "Measuring").figures
        return {name: value for name, value in figures.items() if value is not None}


def class_ids(target: TargetData | StreamedTarget) -> dict[str, int] | None:
    """The id of each class that is trained on; `None` where there are captions."""
    names = getattr(target, "class_names", None)
    return None if names is None else {name: number for number, name in enumerate(names)}


def open_quality_evaluation(
    run: Run, backbone: Backbone, target: TargetData | StreamedTarget
) -> QualityEvaluation | None:
    """Opens `--evaluation_data`, if it is given, and the feature extractor; loads no weights of the pipeline.

    Args:
        run ([`Run`]): The run.
        backbone ([`Backbone`]): The pretrained pipeline.
        target ([`TargetData`] or [`StreamedTarget`]): The target data.

    Returns:
        [`QualityEvaluation`] or `None`: What measures; `None` without the flag.

    Raises:
        DiffTuneError: The data cannot be opened or have too few rows, or the features cannot be had.
    """
    config = run.config
    if config.evaluation_data is None:
        return None
    held_out = open_held_out(run, "evaluation", config.evaluation_data, config.evaluation_samples)
    return QualityEvaluation(run, backbone, target, held_out)
