# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The flags that tasks share. Flags of diffusers' own scripts keep their names, defaults and meaning."""

import importlib.util
from dataclasses import dataclass
from typing import ClassVar, Literal

from .base import Config, fixed, flag


Interpolation = Literal["bicubic", "bilinear", "box", "hamming", "lanczos", "nearest", "nearest_exact"]
AdapterKind = Literal["lora", "dora", "loha", "lokr", "oft", "boft", "difffit", "bitfit"]
# The flags of a bank's sampling, and what its manifest calls them.
BANK_FLAGS = {
    "bank_samples": "num_samples",
    "bank_prompts": "prompt_source",
    "bank_steps": "steps",
    "bank_solver": "solver",
    "bank_guidance_scale": "guidance_scale",
    "bank_batch_size": "shard_size",
}


@dataclass(kw_only=True)
class ModelConfig(Config):
    """The pretrained model."""

    group: ClassVar[str] = "model"

    pretrained_model_name_or_path: str = flag("The pipeline to fine-tune: a folder or a model id on the Hub.")
    revision: str | None = flag("Revision of the model on the Hub.")
    pretrained_vae_model_name_or_path: str | None = flag(
        "A VAE to use in place of the pipeline's own: a folder or a model id on the Hub."
    )
    variant: str | None = flag("Variant of the weight files, for example fp16.")
    cache_dir: str | None = flag("Where downloaded models and datasets, and cached encodings, are kept.")
    prediction_type: str | None = flag(
        "What the network predicts: epsilon, v_prediction or sample. Default: as the model's scheduler says."
    )


@dataclass(kw_only=True)
class DataConfig(Config):
    """Images to train on, or to measure by, and what is read with them: captions, labels instead, or control images
    besides."""

    group: ClassVar[str] = "target data"

    dataset_name: str | None = flag("A dataset on the Hub, or a folder that `datasets` can load.")
    dataset_config_name: str | None = flag("The configuration of the dataset or of the folder, if it has several.")
    train_data_dir: str | None = flag(
        "A folder of images with a metadata.jsonl or metadata.csv that has the captions, or a .txt beside each image, or a"
        " folder of Parquet files."
    )
    image_column: str = flag("The column that holds the image.", "image")
    caption_column: str | None = flag("The column that holds a caption or a list of captions.", "text")
    label_column: str | None = fixed(None)
    conditioning_image_column: str | None = fixed(None)
    max_train_samples: int | None = flag("Train on this many rows only, drawn with the seed.", least=1)
    proportion_empty_prompts: float = flag(
        "Fraction of target rows whose caption is replaced by the empty prompt, for classifier-free guidance.",
        0.0,
        least=0,
        most=1,
    )
    resolution: int | None = flag(
        "Images are resized so that their shorter side has this many pixels, then cropped.", 512, least=1, most=2**14
    )
    center_crop: bool = flag("Crop in the centre instead of at random.", False)
    random_flip: bool = flag("Flip images horizontally at random.", False)
    image_interpolation_mode: Interpolation = flag("How images are resized.", "lanczos")
    crops_per_image: int = flag("How many seeded random crops of an image that is not square are cached.", 4, least=1)
    dataloader_num_workers: int = flag(
        "Processes that prepare batches; 0 prepares them in the main process.", 0, least=0
    )
    no_cache: bool = flag("Encode images and captions in every step instead of once (upstream's behaviour).", False)
    verify_cache: bool = flag("Hash every image again instead of trusting size, time and inode of its file.", False)
    streaming: bool = flag("Read the dataset as a stream, without caching or knowing its length.", False)
    skip_bad_images: bool = flag("Leave out images that cannot be read instead of stopping.", False)

    @property
    def unconditional_share(self) -> float:
        """The fraction of target rows that train without what they are conditioned on."""
        return self.proportion_empty_prompts


@dataclass(kw_only=True)
class DiffTuningConfig(Config):
    """What Diff-Tuning adds to the flags of diffusers' scripts."""

    group: ClassVar[str] = "Diff-Tuning"

    objective: Literal["difftune", "standard"] = flag(
        "difftune, or standard for plain fine-tuning (no source rows, noise levels drawn as in pretraining).",
        "difftune",
    )
    source_share: float = flag(
        "Fraction of the rows of a batch that come from the knowledge bank, in [0, 1).", 0.2, least=0, below=1
    )
    retention_weight: float = flag("Weight of the retention loss beside the reconsolidation loss.", 0.1, least=0)
    reconsolidation_power: float = flag("p: target rows draw noise levels in proportion to t^p.", 1.0, least=0)
    retention_power: float = flag("q: source rows draw noise levels in proportion to (1 - t)^q.", 1.0, least=0)
    coefficients: Literal["sampled", "weighted"] = flag(
        "sampled: draw noise levels by the coefficients; weighted: weigh the loss by them instead.", "sampled"
    )
    retention_target: Literal["noise", "pretrained"] = flag(
        "noise: source rows learn the noise, as in the paper; pretrained: the pretrained model's output"
        " (distillation).",
        "noise",
    )
    retention_prompts: Literal["sampled", "empty"] = flag(
        "sampled: source rows keep the prompt they were made with; empty: they get the empty prompt.", "sampled"
    )
    knowledge_bank: str | None = flag(
        "A knowledge bank: a folder or a dataset id on the Hub. Default: one is built into OUTPUT_DIR/knowledge_bank."
    )
    bank_samples: int | None = flag("Samples to build. Default: as many as the run will draw, at most 1000.", least=1)
    bank_prompts: str = flag(
        "captions (of the target data), empty, a text file with one prompt a line, or DATASET#COLUMN.", "captions"
    )
    bank_steps: int = flag("Sampling steps per sample.", 25, least=1)
    bank_solver: Literal["ddim", "dpm++", "unipc", "euler"] = flag("The sampler.", "dpm++")
    bank_guidance_scale: float = flag(
        "Classifier-free guidance; 1.0 samples the model's own distribution.", 1.0, least=1.0
    )
    bank_batch_size: int = flag("Samples made at once.", 16, least=1)

    @property
    def uses_bank(self) -> bool:
        """Whether a run trains on source rows."""
        return self.objective == "difftune" and self.source_share > 0


@dataclass(kw_only=True)
class AdapterConfig(Config):
    """What trains: everything, unless one of the first or the last of these flags is given."""

    group: ClassVar[str] = "what trains"

    adapter: AdapterKind | None = flag("Freeze the model and train an adapter, which is saved in place of the model.")
    rank: int | None = flag(
        "Rank of the matrices of lora, dora, loha and lokr; of oft and boft the side of the rotated blocks. Default: 4.",
        least=1,
    )
    lora_alpha: float | None = flag(
        "Scale numerator of lora, dora, loha and lokr. Default: the rank, so that the scale is 1.", above=0
    )
    lora_dropout: float = flag("Dropout on the input of the layers of lora and dora.", 0.0, least=0, below=1)
    lora_target_modules: list[str] | None = flag(
        "Names of the modules that get layers of lora, dora, loha, lokr, oft or boft. Default: the attention projections."
    )
    train_parameters: list[str] | None = flag(
        "Train the model's parameters of these names alone, such as *.attn2.*, and save those in place of the model."
    )


@dataclass(kw_only=True)
class RunConfig(Config):
    """How to train, where to write and what to report."""

    group: ClassVar[str] = "training"

    output_dir: str = flag("Where the result, checkpoints and logs go.", "sd-model-finetuned")
    overwrite_output_dir: bool = flag(
        "Remove the run that OUTPUT_DIR holds (its result, card, log, checkpoints and validation images; not its knowledge"
        " bank) and start anew.",
        False,
    )
    seed: int | None = flag(
        "Seed of every random draw. Default: a fresh one, written to run_config.json.", least=0, below=2**32
    )
    train_batch_size: int = flag("Rows per process and micro-step, target and source rows together.", 16, least=1)
    num_train_epochs: int = flag("Passes over the target data.", 100, least=1)
    max_train_steps: int | None = flag("Optimiser steps; overrides num_train_epochs.", least=1)
    gradient_accumulation_steps: int = flag("Micro-steps per optimiser step.", 1, least=1)
    gradient_checkpointing: bool = flag("Save memory by computing activations again in the backward pass.", False)
    learning_rate: float = flag("Learning rate after warm-up.", 1e-4, least=0)
    scale_lr: bool = flag("Multiply the learning rate by processes, accumulation steps and batch size.", False)
    lr_scheduler: str = flag(
        "linear, cosine, cosine_with_restarts, polynomial, constant or constant_with_warmup.", "constant"
    )
    lr_warmup_steps: int = flag("Warm-up steps of the learning rate.", 500, least=0)
    lr_num_cycles: int = fixed(1)
    lr_power: float = fixed(1.0)
    snr_gamma: float | None = flag("γ of the min-SNR loss weighting; 5.0 is recommended.", above=0)
    use_8bit_adam: bool = flag("Use the 8-bit Adam of bitsandbytes.", False)
    allow_tf32: bool = flag("Allow TF32 on Ampere and newer GPUs.", False)
    adam_beta1: float = flag("β1 of AdamW.", 0.9, least=0, below=1)
    adam_beta2: float = flag("β2 of AdamW.", 0.999, least=0, below=1)
    adam_weight_decay: float = flag("Weight decay of AdamW.", 1e-2, least=0)
    adam_epsilon: float = flag("ε of AdamW.", 1e-8, least=0)
    max_grad_norm: float = flag("Gradients are clipped to this norm.", 1.0, above=0)
    set_grads_to_none: bool = fixed(True)
    skip_nonfinite_steps: bool = flag(
        "Leave out steps whose gradient is not finite, with a warning, instead of stopping the run. Looking at it waits"
        " for the device at every step.",
        False,
    )
    noise_offset: float = flag("Scale of the noise offset, on target rows.", 0.0, least=0)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(
        "no, fp16 or bf16. Default: what `accelerate config` says."
    )
    enable_xformers_memory_efficient_attention: bool = flag("Use the attention of xformers.", False)
    local_rank: int = flag("Set by older launchers; the LOCAL_RANK variable wins.", -1)
    checkpointing_steps: int = flag("Write a checkpoint every this many optimiser steps.", 500, least=1)
    checkpoints_total_limit: int | None = flag("Keep at most this many checkpoints.", least=1)
    resume_from_checkpoint: str | None = flag("A checkpoint folder, or latest.")
    logging_dir: str = flag("Tracker logs go to OUTPUT_DIR/LOGGING_DIR.", "logs")
    report_to: str = flag("tensorboard, wandb, comet_ml, trackio …, all, or none.", "tensorboard")
    tracker_project_name: str = fixed("text2image-fine-tune")
    push_to_hub: bool = flag("Upload the result to the Hub.", False)
    hub_strategy: Literal["end", "every_save", "checkpoint"] = flag(
        "When to upload: end; every_save, the weights of every checkpoint, too, in the background; checkpoint, the newest"
        " checkpoint as well, as last-checkpoint/, to go on from.",
        "end",
    )
    hub_token: str | None = flag("Token for the Hub. Default: the one you logged in with.")
    hub_model_id: str | None = flag("Repository on the Hub. Default: the name of output_dir.")

    @property
    def tracker(self) -> str | None:
        """The tracker that a run reports to; `None` for none, also where `--report_to` was not given and its default is not
        installed: as upstream, such a run goes on without it."""
        is_missing = self.report_to == "tensorboard" and importlib.util.find_spec("tensorboard") is None
        no_tracker = self.report_to == "none" or (is_missing and not self.was_given("report_to"))
        return None if no_tracker else self.report_to


@dataclass(kw_only=True)
class TrainingConfig(ModelConfig, DataConfig, RunConfig, AdapterConfig, DiffTuningConfig):
    """What every task has."""

    @property
    def validation_images(self) -> int | None:
        """How many validation images are made at once; `None` if nothing was named to make them of."""
        return None


@dataclass(kw_only=True)
class EmaConfig(Config):
    """The moving average of a model that trains whole."""

    use_ema: bool = flag("Keep an exponential moving average of the weights, and save that.", False)
    ema_decay: float | None = flag(
        "Highest decay of the moving average; with --ema_warmup none, the decay of every step. Default: 0.9999.",
        least=0,
        below=1,
    )
    ema_warmup: Literal["ramp", "none"] = flag(
        "ramp, as in diffusers' scripts: the decay rises from 0, and the pretrained weights are forgotten. none: it is"
        " constant from the first step, and they stay a part of the average.",
        "ramp",
    )
    offload_ema: bool = flag("Keep the moving average on the CPU during training steps.", False)
    foreach_ema: bool = flag("Use the foreach implementation of the moving average.", False)


@dataclass(kw_only=True)
class EvaluationConfig(Config):
    """Measuring while a run trains."""

    group: ClassVar[str] = "evaluation"

    evaluation_data: str | None = flag(
        "A folder of held-out data, like the target data. Samples for its captions are compared with its images by FID,"
        " KID, precision and recall before the first step, while training and after the last."
    )
    evaluation_steps: int | None = flag("Measure every so many steps. Default: --checkpointing_steps.", least=1)
    evaluation_samples: int = flag("How many samples, and held-out images, are compared.", 256, least=8)
    evaluation_features: str = flag(
        "What images are compared by: inception, dinov2, clip, efficientnet, a vision model of transformers (a folder or"
        " an id on the Hub), or the .safetensors file of a projection.",
        "dinov2",
    )
    evaluation_guidance_scale: float = flag(
        "Classifier-free guidance of the samples that are measured.", 3.0, least=1.0
    )
    evaluation_inference_steps: int = flag("Sampling steps of the samples that are measured.", 20, least=1)
    evaluation_clip_model: str | None = flag(
        "Measure the CLIP score, too, by this CLIP model of transformers: a folder or an id on the Hub, such as"
        " openai/clip-vit-large-patch14."
    )
