# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
r"""Fine-tunes a text-to-image diffusion model with Diff-Tuning, through LoRA (or another adapter) on the denoiser.

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

from diffusers_difftune.config import TextToImageLoraConfig, check_flags, parse_config
from diffusers_difftune.mistakes import reports_mistakes


@reports_mistakes
def main(argv: list[str] | None = None) -> None:
    """Runs the script with the given arguments, or with those of the process."""
    config = parse_config(TextToImageLoraConfig, argv, __doc__)
    check_flags(config)

    from diffusers_difftune import TextToImageLoraTrainer  # imports torch: not before the flags are known to be right

    trainer = TextToImageLoraTrainer(config)
    trainer.check()  # everything that can be wrong without weights
    trainer.sample_bank()  # once, from the untouched model
    trainer.prepare_data()  # encoded once
    trainer.build()  # what trains, its optimiser and schedule, and where a checkpoint left them
    trainer.train()
    trainer.finish()  # the result, the model card, the upload


if __name__ == "__main__":
    main()
