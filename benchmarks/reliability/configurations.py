# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The runs that are killed: every training script, whole and with an adapter, on tiny pipelines."""

from dataclasses import dataclass
from pathlib import Path

from tests.tiny import (
    save_tiny_classes,
    save_tiny_conditions,
    save_tiny_dit_pipeline,
    save_tiny_images,
    save_tiny_pipeline,
)


THREADS = 2
REPOSITORY = "user/run"
# Six phases that a kill can come in, and two that finish what they leave; see watch.py for where they begin and end.
PHASES = ("step", "caching", "bank", "checkpoint_write", "rename_rotation", "upload")
MORE_PHASES = ("validation", "result")
CHECKPOINTS = 2  # steps between them

# Three checkpoints, and a last step that is not saved, or four. Images come at a checkpoint, or between two.
COMMON = f"""
    --resolution 16 --train_batch_size 4 --gradient_accumulation_steps 2 --seed 0
    --checkpointing_steps {CHECKPOINTS}
    --bank_samples 8 --bank_steps 2 --bank_batch_size 4
    --learning_rate 1e-3 --lr_scheduler cosine --lr_warmup_steps 2 --report_to none
"""


@dataclass(frozen=True)
class Configuration:
    """A training run.

    Attributes:
        name (`str`): What results call it.
        script (`str`): The training script, without its suffix.
        pipeline (`str`): The folder of the pretrained pipeline, in that of [`make_material`].
        data (`str`): The folder of the target data, in the same.
        flags (`str`): Its own flags; words with `{material}` name files there.
        limit (`int`, *optional*): `--checkpoints_total_limit`.
        hub (`str`, *optional*): `--hub_strategy` of a run that is uploaded.
    """

    name: str
    script: str
    pipeline: str
    data: str
    flags: str
    limit: int | None = None
    hub: str | None = None

    def argv(self, material: Path, folder: Path, resume: bool = False) -> list[str]:
        """The command line of a run in a folder, with caches of its own there."""
        words = [*COMMON.split(), *(word.format(material=material) for word in self.flags.split())]
        words += ["--pretrained_model_name_or_path", str(material / self.pipeline)]
        words += ["--train_data_dir", str(material / self.data)]
        words += ["--output_dir", str(folder / "run"), "--cache_dir", str(folder / "cache")]
        if self.limit is not None:
            words += ["--checkpoints_total_limit", str(self.limit)]
        if self.hub is not None:
            words += ["--push_to_hub", "--hub_model_id", REPOSITORY, "--hub_strategy", self.hub]
        return [*words, *(["--resume_from_checkpoint", "latest"] if resume else [])]


CONFIGURATIONS = (
    Configuration(
        "text-to-image, whole, EMA",
        "train_text_to_image_difftune",
        "stable-diffusion",
        "images",
        "--random_flip --use_ema --max_train_steps 7 --validation_steps 4 --validation_prompts tree",
        limit=1,
        hub="every_save",
    ),
    Configuration(
        "text-to-image, LoRA",
        "train_text_to_image_lora_difftune",
        "stable-diffusion",
        "images",
        "--random_flip --rank 2 --lora_dropout 0.2 --max_train_steps 8 --validation_steps 5 --validation_prompt tree --num_validation_images 1",
        hub="every_save",
    ),
    Configuration(
        "ControlNet, whole",
        "train_controlnet_difftune",
        "stable-diffusion",
        "conditions",
        "--condition_kind edge --max_train_steps 7 --validation_steps 4 --validation_prompt tree --num_validation_images 1"
        " --validation_image {material}/conditions/condition-00.png",
        limit=1,
        hub="checkpoint",
    ),
    Configuration(
        "ControlNet, LoRA",
        "train_controlnet_difftune",
        "stable-diffusion",
        "conditions",
        "--adapter lora --rank 2 --lora_dropout 0.2 --max_train_steps 8 --validation_steps 5 --validation_prompt tree"
        " --num_validation_images 1 --validation_image {material}/conditions/condition-00.png",
        limit=2,
    ),
    Configuration(
        "class-conditional, whole, EMA",
        "train_class_conditional_difftune",
        "dit",
        "classes",
        "--random_flip --use_ema --max_train_steps 7 --validation_steps 4 --validation_classes oak",
        limit=1,
        hub="end",
    ),
    Configuration(
        "class-conditional, DiffFit",
        "train_class_conditional_difftune",
        "dit",
        "classes",
        "--random_flip --adapter difffit --max_train_steps 8 --validation_steps 5 --validation_classes oak",
        limit=1,
        hub="checkpoint",
    ),
)


def make_material(folder: Path) -> None:
    """Makes the pipelines and the target data."""
    save_tiny_pipeline(folder / "stable-diffusion")
    save_tiny_dit_pipeline(folder / "dit")
    save_tiny_images(folder / "images")
    save_tiny_conditions(folder / "conditions")
    save_tiny_classes(folder / "classes")
