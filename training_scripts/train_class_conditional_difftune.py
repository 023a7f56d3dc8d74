# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes a class-conditional DiT on labelled images with Diff-Tuning, or with plain fine-tuning.

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

from diffusers_difftune.config import ClassConditionalConfig
from diffusers_difftune.config.parse import parse_config
from diffusers_difftune.mistakes import reports_mistakes
from diffusers_difftune.training.adapter import find_adapter, load_trained
from diffusers_difftune.training.bank import make_bank, make_batches, open_bank, open_target, run_settings
from diffusers_difftune.training.checkpoint import TrainingState
from diffusers_difftune.training.class_conditional import use_classes
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
    config = parse_config(ClassConditionalConfig, argv, __doc__)

    # Everything that can go wrong without weights goes wrong here.
    run = start_run(config)
    backbone = find_backbone(run)
    adapter = find_adapter(run, backbone)
    objective = make_objective(run, backbone)
    target = open_target(run)
    backbone, validation_prompts = use_classes(run, backbone, target)
    quality = open_quality_evaluation(run, backbone, target)
    bank = open_bank(run, backbone, target)
    total_steps = run.total_steps(len(target))
    state = TrainingState(run, run_settings(run, backbone, target, bank, quality), total_steps)
    publisher = begin_publishing(run)
    classes = dict(enumerate(target.class_names or []))
    summary = tell_summary(run, backbone, adapter, objective, target, bank, state)
    begin_records(run, total_steps=total_steps, settings=state.settings, id2label=classes, summary=summary)

    # Sampled once, encoded once.
    if bank is None and run.source_share:
        bank = make_bank(run, backbone, target, total_steps)
    batches = make_batches(run, backbone, objective, target, bank)

    # What trains.
    trained = load_trained(run, backbone, adapter)
    optimizer, lr_scheduler = make_optimizer(run, trained.parameters(), total_steps)
    state.prepare(trained, optimizer, lr_scheduler)

    steps_per_epoch = run.steps_per_epoch(len(target))
    titles = config.validation_classes or []
    validation = Validation(run, backbone, trained, validation_prompts, steps_per_epoch, titles=titles)
    evaluation = quality and quality.while_training(trained)
    train(run, backbone, objective, batches, state, validation, evaluation, publisher)
    finish_run(run, backbone, state, batches, validation, publisher)


if __name__ == "__main__":
    main()
