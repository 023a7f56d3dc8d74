# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes a text-to-image diffusion model with Diff-Tuning, through LoRA (or another adapter) on the denoiser.

Takes the flags of diffusers' examples/text_to_image/train_text_to_image_lora.py, and those of Diff-Tuning.
`difftune train lora` runs this file, and so does `accelerate launch training_scripts/train_text_to_image_lora_difftune.py`.

    difftune train lora \
      --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
      --dataset_name lambdalabs/naruto-blip-captions --resolution 512 --center_crop --random_flip \
      --train_batch_size 4 --mixed_precision fp16 --rank 16 --learning_rate 1e-4 --max_train_steps 15000 \
      --validation_prompt "a ninja with blue eyes" --output_dir sd-naruto-lora

On two CPU cores, with the pipeline and the images in this repository (about two minutes):

    difftune train lora \
      --pretrained_model_name_or_path examples/icons/pipeline --resolution 32 \
      --train_data_dir examples/icons/data/flat_color_icons_train.parquet \
      --train_batch_size 32 --max_train_steps 200 --bank_samples 128 --rank 16 --learning_rate 1e-3 \
      --output_dir outputs/flat-color-icons-lora

The result is `pytorch_lora_weights.safetensors`, which `pipe.load_lora_weights(OUTPUT_DIR)` loads. `--adapter` trains
another kind; `diffusers_difftune.load_adapter(pipe, OUTPUT_DIR)` loads any of them.
"""

from diffusers_difftune.config import TextToImageLoraConfig
from diffusers_difftune.config.parse import parse_config
from diffusers_difftune.mistakes import reports_mistakes
from diffusers_difftune.training.adapter import find_adapter, load_trained
from diffusers_difftune.training.bank import (
    make_bank,
    make_batches,
    open_bank,
    open_target,
    run_settings,
    tell_cut_captions,
)
from diffusers_difftune.training.checkpoint import TrainingState
from diffusers_difftune.training.finish import finish_run
from diffusers_difftune.training.publish import begin_publishing
from diffusers_difftune.training.quality_evaluation import open_quality_evaluation
from diffusers_difftune.training.run import (
    begin_records,
    find_backbone,
    make_objective,
    make_optimizer,
    start_run,
)
from diffusers_difftune.training.summary import tell_summary
from diffusers_difftune.training.trainer import train
from diffusers_difftune.training.validation import Validation


@reports_mistakes
def main(argv: list[str] | None = None) -> None:
    """Runs the script with the given arguments, or with those of the process."""
    config = parse_config(TextToImageLoraConfig, argv, __doc__)

    # Everything that can go wrong without weights goes wrong here.
    run = start_run(config)
    backbone = find_backbone(run)
    adapter = find_adapter(run, backbone)
    objective = make_objective(run, backbone)
    target = open_target(run)
    captions = tell_cut_captions(run, backbone, target)
    quality = open_quality_evaluation(run, backbone, target)
    bank = open_bank(run, backbone, target)
    total_steps = run.total_steps(len(target))
    state = TrainingState(run, run_settings(run, backbone, target, bank, quality), total_steps)
    publisher = begin_publishing(run)
    summary = tell_summary(run, backbone, adapter, objective, target, bank, state, captions)
    begin_records(run, total_steps=total_steps, settings=state.settings, summary=summary)

    # Sampled once, encoded once.
    if bank is None and run.source_share:
        bank = make_bank(run, backbone, target, total_steps)
    batches = make_batches(run, backbone, objective, target, bank)

    # What trains.
    trained = load_trained(run, backbone, adapter)
    optimizer, lr_scheduler = make_optimizer(run, trained.parameters(), total_steps)
    state.prepare(trained, optimizer, lr_scheduler)

    prompts = [config.validation_prompt] * config.num_validation_images if config.validation_prompt else []
    validation = Validation(run, backbone, trained, prompts, run.steps_per_epoch(len(target)))
    evaluation = quality and quality.while_training(trained)
    train(run, backbone, objective, batches, state, validation, evaluation, publisher)
    finish_run(run, backbone, state, batches, validation, publisher)


if __name__ == "__main__":
    main()
