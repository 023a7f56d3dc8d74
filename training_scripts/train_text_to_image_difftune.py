# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
r"""Fine-tunes a text-to-image diffusion model with Diff-Tuning, every weight of the denoiser or an adapter on it.

Takes the flags of diffusers' examples/text_to_image/train_text_to_image.py, and those of Diff-Tuning.
`difftune train text-to-image` runs this file, and so does `accelerate launch training_scripts/train_text_to_image_difftune.py`.

    difftune train text-to-image \
      --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
      --dataset_name lambdalabs/naruto-blip-captions --resolution 512 --center_crop --random_flip \
      --train_batch_size 4 --gradient_accumulation_steps 4 --gradient_checkpointing --mixed_precision fp16 \
      --learning_rate 1e-5 --max_train_steps 15000 --use_ema --output_dir sd-naruto

On two CPU cores, with the pipeline and the images in this repository (about three minutes):

    difftune train text-to-image \
      --pretrained_model_name_or_path examples/icons/pipeline --resolution 32 \
      --train_data_dir examples/icons/data/flat_color_icons_train.parquet \
      --train_batch_size 32 --max_train_steps 200 --bank_samples 128 --output_dir outputs/flat-color-icons

`--objective standard` is plain fine-tuning, through the same code. With `--adapter` or `--train_parameters` the result is
small: `diffusers_difftune.load_adapter(pipe, OUTPUT_DIR)` loads it.
"""

from diffusers_difftune.config import TextToImageConfig, check_flags, parse_config
from diffusers_difftune.mistakes import reports_mistakes


@reports_mistakes
def main(argv: list[str] | None = None) -> None:
    """Runs the script with the given arguments, or with those of the process."""
    config = parse_config(TextToImageConfig, argv, __doc__)
    check_flags(config)

    from diffusers_difftune import TextToImageTrainer  # imports torch: not before the flags are known to be right

    trainer = TextToImageTrainer(config)
    trainer.check()  # everything that can be wrong without weights
    trainer.sample_bank()  # once, from the untouched model
    trainer.prepare_data()  # encoded once
    trainer.build()  # what trains, its optimiser and schedule, and where a checkpoint left them
    trainer.train()
    trainer.finish()  # the result, the model card, the upload


if __name__ == "__main__":
    main()
