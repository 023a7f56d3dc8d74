# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
r"""Trains a ControlNet with Diff-Tuning: it learns the control images and leaves the model's own ways alone.

Takes the flags of diffusers' examples/controlnet/train_controlnet.py, and those of Diff-Tuning.
`difftune train controlnet` runs this file, and so does `accelerate launch training_scripts/train_controlnet_difftune.py`.

    hf download fusing/fill50k --repo-type dataset --revision refs/convert/parquet --local-dir fill50k
    hf download huggingface/documentation-images --repo-type dataset \
      --include "diffusers/controlnet_training/conditioning_image_*.png" --local-dir .
    difftune train controlnet \
      --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
      --train_data_dir fill50k --resolution 512 --learning_rate 1e-5 --train_batch_size 4 \
      --validation_image diffusers/controlnet_training/conditioning_image_1.png \
      diffusers/controlnet_training/conditioning_image_2.png \
      --validation_prompt "red circle with blue background" "cyan circle with brown floral background" \
      --output_dir controlnet-fill50k

On two CPU cores, with the pipeline and the images in this repository (about five minutes):

    difftune conditions build examples/icons/data/fluent_emoji_train.parquet outputs/edges --kind edge
    difftune train controlnet \
      --pretrained_model_name_or_path examples/icons/pipeline --resolution 32 \
      --train_data_dir outputs/edges --condition_kind edge \
      --train_batch_size 32 --max_train_steps 500 --learning_rate 1e-3 --bank_samples 256 \
      --output_dir outputs/controlnet-edges

`--condition_kind` says what the control images are, so that the samples of the knowledge bank can get theirs, too. The
result is what `ControlNetModel.from_pretrained(OUTPUT_DIR)` loads; with `--adapter`, what
`diffusers_difftune.load_adapter(pipeline, OUTPUT_DIR)` loads.
"""

from diffusers_difftune.config import ControlNetConfig, check_flags, parse_config
from diffusers_difftune.mistakes import reports_mistakes


@reports_mistakes
def main(argv: list[str] | None = None) -> None:
    """Runs the script with the given arguments, or with those of the process."""
    config = parse_config(ControlNetConfig, argv, __doc__)
    check_flags(config)

    from diffusers_difftune import ControlNetTrainer  # imports torch: not before the flags are known to be right

    trainer = ControlNetTrainer(config)
    trainer.check()  # everything that can be wrong without weights
    trainer.sample_bank()  # once, from the untouched model
    trainer.prepare_data()  # encoded once
    trainer.build()  # what trains, its optimiser and schedule, and where a checkpoint left them
    trainer.train()
    trainer.finish()  # the result, the model card, the upload


if __name__ == "__main__":
    main()
