# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The flags, as dataclasses. Flags of diffusers' own scripts keep their names, defaults and meaning."""

from dataclasses import dataclass, field, fields
from typing import Any


def flag(help: str, default=None, **kwargs):
    """A dataclass field that becomes a flag with this help text."""
    metadata = {"help": help, **{k: kwargs.pop(k) for k in ("choices", "nargs") if k in kwargs}}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def was_given(config: Any, name: str) -> bool:
    """Whether a flag was given, on the command line or in a file; `False` if a script does not have it.

    Args:
        config: The config of a script.
        name (`str`): The flag.
    """
    if name in config.given:
        return True
    default = {each.name: each.default for each in fields(config)}
    return name in default and getattr(config, name) != default[name]


@dataclass
class ModelConfig:
    """The pretrained model."""

    _argument_group_name = "model"

    pretrained_model_name_or_path: str = flag("The pipeline to fine-tune: a folder or a model id on the Hub.")
    revision: str | None = flag("Revision of the model on the Hub.")
    variant: str | None = flag("Variant of the weight files, for example fp16.")
    cache_dir: str | None = flag("Where downloaded models and datasets, and cached encodings, are kept.")
    prediction_type: str | None = flag(
        "What the network predicts: epsilon, v_prediction or sample. Default: as the model's scheduler says."
    )


@dataclass
class ImageDataConfig:
    """The images to train on, as every script takes them; the scripts' own groups build on it."""

    dataset_name: str | None = flag("A dataset on the Hub, or a folder that `datasets` can load.")
    dataset_config_name: str | None = flag("The configuration of the dataset or of the folder, if it has several.")
    train_data_dir: str | None = flag(
        "A folder of images with a metadata.jsonl or metadata.csv that has the captions, or a .txt beside each image, or a"
        " folder of Parquet files."
    )
    image_column: str = flag("The column that holds the image.", "image")
    max_train_samples: int | None = flag("Train on this many rows only, drawn with the seed.")
    resolution: int = flag("Images are resized so that their shorter side has this many pixels, then cropped.", 512)
    dataloader_num_workers: int = flag("Processes that prepare batches; 0 prepares them in the main process.", 0)
    no_cache: bool = flag("Encode images and captions in every step instead of once (upstream's behaviour).", False)
    verify_cache: bool = flag("Hash every image again instead of trusting size, time and inode of its file.", False)
    skip_bad_images: bool = flag("Leave out images that cannot be read instead of stopping.", False)

    # No flag. If there are labels, whether a model is to learn them; data to measure with may have any of them.
    learns_classes = True


@dataclass
class TargetDataConfig(ImageDataConfig):
    """Images with captions."""

    caption_column: str = flag("The column that holds a caption or a list of captions.", "text")
    proportion_empty_prompts: float = flag(
        "Fraction of target rows whose caption is replaced by the empty prompt, for classifier-free guidance.", 0.0
    )
    streaming: bool = flag("Read the dataset as a stream, without caching or knowing its length.", False)


@dataclass
class CropFlags:
    """What is done to images."""

    center_crop: bool = flag("Crop in the centre instead of at random.", False)
    random_flip: bool = flag("Flip images horizontally at random.", False)
    image_interpolation_mode: str = flag(
        "How images are resized.",
        "lanczos",
        choices=["bicubic", "bilinear", "box", "hamming", "lanczos", "nearest", "nearest_exact"],
    )
    crops_per_image: int = flag("How many seeded random crops of an image that is not square are cached.", 4)


@dataclass
class DataConfig(CropFlags, TargetDataConfig):
    """The target data of a text-to-image model."""

    _argument_group_name = "target data"


@dataclass
class ClassDataConfig(CropFlags, ImageDataConfig):
    """The target data of a class-conditional model."""

    _argument_group_name = "target data"

    train_data_dir: str | None = flag(
        "A folder with a folder of images for each class, or one with a metadata.jsonl or metadata.csv that has the"
        " labels, or a folder of Parquet files."
    )
    label_column: str = flag("The column that holds the label: a name or a number. Class folders need none.", "label")
    class_dropout_prob: float = flag(
        "Fraction of target rows that get the null class, for classifier-free guidance.", 0.1
    )
    resolution: int | None = flag(
        "Side of the images in pixels; a model makes images of one size only. Default: that."
    )
    no_cache: bool = flag("Encode images in every step instead of once.", False)

    streaming = False  # the classes are not known before the end of a stream

    @property
    def proportion_empty_prompts(self) -> float:
        """The null class is the empty prompt of a class-conditional model."""
        return self.class_dropout_prob


@dataclass
class ControlDataConfig(TargetDataConfig):
    """The target data of a ControlNet. As in diffusers' script, images and control images are resized bilinearly and
    cropped in the centre; there is no flag for it."""

    _argument_group_name = "target data"

    conditioning_image_column: str = flag("The column that holds the control image.", "conditioning_image")

    center_crop = True
    random_flip = False
    image_interpolation_mode = "bilinear"
    crops_per_image = 1


@dataclass
class DiffTuningConfig:
    """What Diff-Tuning adds to the flags of diffusers' scripts."""

    _argument_group_name = "Diff-Tuning"

    objective: str = flag(
        "difftune, or standard for plain fine-tuning (no source rows, noise levels drawn as in pretraining).",
        "difftune",
        choices=["difftune", "standard"],
    )
    source_share: float = flag("Fraction of the rows of a batch that come from the knowledge bank, in [0, 1).", 0.2)
    retention_weight: float = flag("Weight of the retention loss beside the reconsolidation loss.", 0.1)
    reconsolidation_power: float = flag("p: target rows draw noise levels in proportion to t^p.", 1.0)
    retention_power: float = flag("q: source rows draw noise levels in proportion to (1 - t)^q.", 1.0)
    coefficients: str = flag(
        "sampled: draw noise levels by the coefficients; weighted: weigh the loss by them instead.",
        "sampled",
        choices=["sampled", "weighted"],
    )
    retention_target: str = flag(
        "noise: source rows learn the noise, as in the paper; pretrained: the pretrained model's output"
        " (distillation).",
        "noise",
        choices=["noise", "pretrained"],
    )
    retention_prompts: str = flag(
        "sampled: source rows keep the prompt they were made with; empty: they get the empty prompt.",
        "sampled",
        choices=["sampled", "empty"],
    )
    knowledge_bank: str | None = flag(
        "A knowledge bank: a folder or a dataset id on the Hub. Default: one is built into OUTPUT_DIR/knowledge_bank."
    )
    bank_samples: int | None = flag("Samples to build. Default: as many as the run will draw, at most 1000.")
    bank_prompts: str = flag(
        "captions (of the target data), empty, a text file with one prompt a line, or DATASET#COLUMN.", "captions"
    )
    bank_steps: int = flag("Sampling steps per sample.", 25)
    bank_solver: str = flag("The sampler.", "dpm++", choices=["ddim", "dpm++", "unipc", "euler"])
    bank_guidance_scale: float = flag("Classifier-free guidance; 1.0 samples the model's own distribution.", 1.0)
    bank_batch_size: int = flag("Samples made at once.", 16)


@dataclass
class RunConfig:
    """How to train, where to write and what to report."""

    _argument_group_name = "training"

    output_dir: str = flag("Where the result, checkpoints and logs go.", "sd-model-finetuned")
    overwrite_output_dir: bool = flag(
        "Remove the run that OUTPUT_DIR holds (its result, card, log, checkpoints and validation images; not its knowledge"
        " bank) and start anew.",
        False,
    )
    seed: int | None = flag("Seed of every random draw. Default: a fresh one, written to run_config.json.")
    train_batch_size: int = flag("Rows per process and micro-step, target and source rows together.", 16)
    num_train_epochs: int = flag("Passes over the target data.", 100)
    max_train_steps: int | None = flag("Optimiser steps; overrides num_train_epochs.")
    gradient_accumulation_steps: int = flag("Micro-steps per optimiser step.", 1)
    gradient_checkpointing: bool = flag("Save memory by computing activations again in the backward pass.", False)
    learning_rate: float = flag("Learning rate after warm-up.", 1e-4)
    scale_lr: bool = flag("Multiply the learning rate by processes, accumulation steps and batch size.", False)
    lr_scheduler: str = flag(
        "linear, cosine, cosine_with_restarts, polynomial, constant or constant_with_warmup.", "constant"
    )
    lr_warmup_steps: int = flag("Warm-up steps of the learning rate.", 500)
    snr_gamma: float | None = flag("γ of the min-SNR loss weighting; 5.0 is recommended.")
    use_8bit_adam: bool = flag("Use the 8-bit Adam of bitsandbytes.", False)
    allow_tf32: bool = flag("Allow TF32 on Ampere and newer GPUs.", False)
    adam_beta1: float = flag("β1 of AdamW.", 0.9)
    adam_beta2: float = flag("β2 of AdamW.", 0.999)
    adam_weight_decay: float = flag("Weight decay of AdamW.", 1e-2)
    adam_epsilon: float = flag("ε of AdamW.", 1e-8)
    max_grad_norm: float = flag("Gradients are clipped to this norm.", 1.0)
    skip_nonfinite_steps: bool = flag(
        "Leave out steps whose gradient is not finite, with a warning, instead of stopping the run. Looking at it waits"
        " for the device at every step.",
        False,
    )
    noise_offset: float = flag("Scale of the noise offset, on target rows.", 0.0)
    mixed_precision: str | None = flag(
        "no, fp16 or bf16. Default: what `accelerate config` says.", choices=["no", "fp16", "bf16"]
    )
    enable_xformers_memory_efficient_attention: bool = flag("Use the attention of xformers.", False)
    local_rank: int = flag("Set by older launchers; the LOCAL_RANK variable wins.", -1)
    checkpointing_steps: int = flag("Write a checkpoint every this many optimiser steps.", 500)
    checkpoints_total_limit: int | None = flag("Keep at most this many checkpoints.")
    resume_from_checkpoint: str | None = flag("A checkpoint folder, or latest.")
    logging_dir: str = flag("Tracker logs go to OUTPUT_DIR/LOGGING_DIR.", "logs")
    report_to: str = flag("tensorboard, wandb, comet_ml, trackio …, all, or none.", "tensorboard")
    push_to_hub: bool = flag("Upload the result to the Hub.", False)
    hub_strategy: str = flag(
        "When to upload: end; every_save, the weights of every checkpoint, too, in the background; checkpoint, the newest"
        " checkpoint as well, as last-checkpoint/, to go on from.",
        "end",
        choices=["end", "every_save", "checkpoint"],
    )
    hub_token: str | None = flag("Token for the Hub. Default: the one you logged in with.")
    hub_model_id: str | None = flag("Repository on the Hub. Default: the name of output_dir.")

    # No flags: the names of those that were given, and what is to be said about how they were read.
    given = frozenset[str]()
    notes = tuple[str, ...]()


@dataclass
class EmaFlags:
    """The moving average of a model that trains whole."""

    use_ema: bool = flag("Keep an exponential moving average of the weights, and save that.", False)
    ema_decay: float | None = flag(
        "Highest decay of the moving average; with --ema_warmup none, the decay of every step. Default: 0.9999."
    )
    ema_warmup: str = flag(
        "ramp, as in diffusers' scripts: the decay rises from 0, and the pretrained weights are forgotten. none: it is"
        " constant from the first step, and they stay a part of the average.",
        "ramp",
        choices=["ramp", "none"],
    )
    offload_ema: bool = flag("Keep the moving average on the CPU during training steps.", False)
    foreach_ema: bool = flag("Use the foreach implementation of the moving average.", False)


@dataclass
class FullFineTuningConfig(EmaFlags):
    """What only full fine-tuning has."""

    _argument_group_name = "full fine-tuning"

    input_perturbation: float = flag("Scale of the input perturbation, on target rows; 0.1 is recommended.", 0.0)
    dream_training: bool = flag("DREAM training, on target rows: one more forward pass per step.", False)
    dream_detail_preservation: float = flag("p of DREAM, above 0.", 1.0)
    non_ema_revision: str | None = flag("Revision of the weights to start from when revision holds moving averages.")
    validation_prompts: list[str] | None = flag("Prompts to make validation images for.", nargs="+")
    validation_epochs: int = flag("Make validation images every this many epochs.", 5)
    validation_steps: int | None = flag("Make validation images every this many steps instead.")
    tracker_project_name: str = flag("Name of the project in the tracker.", "text2image-fine-tune")


@dataclass
class AdapterFlags:
    """What trains: everything, unless one of the first or the last of these flags is given."""

    _argument_group_name = "what trains"

    adapter: str | None = flag(
        "Freeze the model and train an adapter, which is saved in place of the model.",
        choices=["lora", "dora", "loha", "lokr", "oft", "boft", "difffit", "bitfit"],
    )
    rank: int | None = flag(
        "Rank of the matrices of lora, dora, loha and lokr; of oft and boft the side of the rotated blocks. Default: 4."
    )
    lora_alpha: float | None = flag(
        "Scale numerator of lora, dora, loha and lokr. Default: the rank, so that the scale is 1."
    )
    lora_dropout: float = flag("Dropout on the input of the layers of lora and dora.", 0.0)
    lora_target_modules: list[str] | None = flag(
        "Names of the modules that get layers of lora, dora, loha, lokr, oft or boft. Default: the attention projections.",
        nargs="+",
    )
    train_parameters: list[str] | None = flag(
        "Train the model's parameters of these names alone, such as *.attn2.*, and save those in place of the model.",
        nargs="+",
    )


@dataclass
class LoraValidationConfig:
    """The validation images of LoRA fine-tuning."""

    _argument_group_name = "validation"

    validation_prompt: str | None = flag("Prompt to make validation images for.")
    num_validation_images: int = flag("How many validation images to make.", 4)
    validation_epochs: int = flag("Make validation images every this many epochs.", 1)
    validation_steps: int | None = flag("Make validation images every this many steps instead.")


@dataclass
class ClassConditionalFlags(EmaFlags):
    """What only class-conditional fine-tuning has."""

    _argument_group_name = "class-conditional fine-tuning"

    class_embeddings: str = flag(
        "What the new classes start from, in the rows of the class tables from 0: keep, what those rows held; reset,"
        " small random numbers.",
        "keep",
        choices=["keep", "reset"],
    )
    variance_loss: str = flag(
        "What a learned variance is trained on: both, target and source rows, each under its own law of noise levels;"
        " target, target rows; unskewed, both, weighted so that the laws make no difference.",
        "both",
        choices=["both", "target", "unskewed"],
    )
    validation_classes: list[str] | None = flag("Names of classes to make validation images for.", nargs="+")
    validation_epochs: int = flag("Make validation images every this many epochs.", 5)
    validation_steps: int | None = flag("Make validation images every this many steps instead.")
    tracker_project_name: str = flag("Name of the project in the tracker.", "class-conditional-fine-tune")


@dataclass
class ClassDiffTuningConfig(DiffTuningConfig):
    """What Diff-Tuning adds, where classes stand for prompts."""

    _argument_group_name = "Diff-Tuning"

    retention_prompts: str = flag(
        "empty: source rows carry the null class; sampled: the class they were made with, unless a new class has its row.",
        "empty",
        choices=["sampled", "empty"],
    )
    bank_prompts: str = flag(
        "classes (all of the pretrained model's), empty (the null class), or a text file with an id or a name a line.",
        "classes",
    )


@dataclass
class EvaluationConfig:
    """Measuring while a run trains."""

    _argument_group_name = "evaluation"

    evaluation_data: str | None = flag(
        "A folder of held-out data, like the target data. Samples for its captions are compared with its images by FID,"
        " KID, precision and recall before the first step, while training and after the last."
    )
    evaluation_steps: int | None = flag("Measure every so many steps. Default: --checkpointing_steps.")
    evaluation_samples: int = flag("How many samples, and held-out images, are compared.", 256)
    evaluation_features: str = flag(
        "What images are compared by: inception, dinov2, clip, efficientnet, a vision model of transformers (a folder or"
        " an id on the Hub), or the .safetensors file of a projection.",
        "dinov2",
    )
    evaluation_guidance_scale: float = flag("Classifier-free guidance of the samples that are measured.", 3.0)
    evaluation_inference_steps: int = flag("Sampling steps of the samples that are measured.", 20)


@dataclass
class TextEvaluationConfig(EvaluationConfig):
    """Measuring while a text-to-image model is trained."""

    _argument_group_name = "evaluation"

    evaluation_clip_model: str | None = flag(
        "Measure the CLIP score, too, by this CLIP model of transformers: a folder or an id on the Hub, such as"
        " openai/clip-vit-large-patch14."
    )


@dataclass
class ControlNetFlags:
    """What only ControlNet training has."""

    _argument_group_name = "ControlNet"

    controlnet_model_name_or_path: str | None = flag(
        "A ControlNet to train on: a folder or a model id on the Hub. Default: a copy of the denoiser's first half."
    )
    tokenizer_name: str | None = flag(
        "A tokenizer in place of the model's own: a folder or an id on the Hub. The run's bank is sampled with it."
    )
    lr_num_cycles: int = flag("Restarts of the cosine_with_restarts schedule.", 1)
    lr_power: float = flag("Power of the polynomial schedule.", 1.0)
    set_grads_to_none: bool = flag("Free gradients between steps instead of setting them to zero.", False)
    validation_prompt: list[str] | None = flag("Prompts to make validation images for.", nargs="+")
    validation_image: list[str] | None = flag("Files of control images to make validation images from.", nargs="+")
    num_validation_images: int = flag("How many images to make of each prompt and control image.", 4)
    validation_steps: int = flag("Make validation images every this many steps.", 100)
    tracker_project_name: str = flag("Name of the project in the tracker.", "train_controlnet")


@dataclass
class ControlConditionConfig:
    """Where control images come from that are not in the target data: extracted from images."""

    _argument_group_name = "control conditions"

    condition_kind: str | None = flag(
        "What the control images are, so that they can be extracted from other images, too.",
        choices=["edge", "sketch", "depth", "normal", "segmentation"],
    )
    condition_model: str | None = flag(
        "What extracts depth, normal or segmentation: a folder, a model id on the Hub, or drawing (no model; for"
        " drawings on white). Default: a model of each kind on the Hub."
    )
    condition_revision: str | None = flag(
        "Revision of the condition model on the Hub. Default: the newest; of a default model, a fixed commit."
    )
    retention_condition: str | None = flag(
        "The control images of source rows: blank (black), which holds the pair to the bare model, or extracted from the"
        " samples themselves as --condition_kind says. Default: blank.",
        choices=["extracted", "blank"],
    )
    control_evaluation_data: str | None = flag(
        "A folder of held-out data, like the target data. Images are made for its control images while training, and"
        " the conditions found in them compared with those. Needs --condition_kind."
    )
    control_evaluation_steps: int | None = flag(
        "Measure this every so many steps, and after the last. Default: --validation_steps."
    )
    control_evaluation_samples: int = flag("How many held-out rows are measured, the first ones.", 32)
    control_evaluation_guidance_scale: float = flag("Classifier-free guidance of the images that are measured.", 7.5)
    control_evaluation_inference_steps: int = flag("Sampling steps of the images that are measured.", 20)
