# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
r"""Fine-tunes a class-conditional DiT on labelled images with Diff-Tuning, or with plain fine-tuning.

diffusers has no script for this; the flags are those of its other ones where they mean the same.
`difftune train class-conditional` runs this file, and so does `accelerate launch training_scripts/train_class_conditional_difftune.py`.

    difftune train class-conditional \
      --pretrained_model_name_or_path DiT-XL-2-256 --dataset_name ethz/food101 \
      --learning_rate 1e-4 --max_train_steps 24000 --use_ema --random_flip --mixed_precision bf16 \
      --bank_samples 1000 --output_dir dit-food101

DiT-XL-2-256 being facebook/DiT-XL-2-256 saved anew as safetensors; see docs/class_conditional.md.

The data have an image and a label column, or are folders of images named for their classes. New classes take the rows of
the model's class tables from 0; what is saved is a pipeline that `DiTPipeline.from_pretrained(OUTPUT_DIR)` loads, with
their names. Source rows, samples of the pretrained model, carry the null class: the label spaces have nothing in common.

`--objective standard` is plain fine-tuning, through the same code.
"""

from diffusers_difftune.config import ClassConditionalConfig, check_flags, parse_config
from diffusers_difftune.mistakes import reports_mistakes


@reports_mistakes
def main(argv: list[str] | None = None) -> None:
    """Runs the script with the given arguments, or with those of the process."""
    config = parse_config(ClassConditionalConfig, argv, __doc__)
    check_flags(config)

    from diffusers_difftune import ClassConditionalTrainer  # imports torch: not before the flags are known to be right

    trainer = ClassConditionalTrainer(config)
    trainer.check()  # everything that can be wrong without weights
    trainer.sample_bank()  # once, from the untouched model
    trainer.prepare_data()  # encoded once
    trainer.build()  # what trains, its optimiser and schedule, and where a checkpoint left them
    trainer.train()
    trainer.finish()  # the result, the model card, the upload


if __name__ == "__main__":
    main()
