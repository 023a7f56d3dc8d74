# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Trains a ControlNet with Diff-Tuning: it learns the control images and leaves the model's own ways alone.

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

from diffusers_difftune.config import ControlNetConfig
from diffusers_difftune.config.parse import parse_config
from diffusers_difftune.mistakes import reports_mistakes
from diffusers_difftune.trainables.control import ControlBranch
from diffusers_difftune.training.bank import (
    make_bank,
    make_batches,
    open_bank,
    open_target,
    run_settings,
    tell_cut_captions,
)
from diffusers_difftune.training.checkpoint import TrainingState
from diffusers_difftune.training.control_evaluation import control_evaluation, open_control_evaluation
from diffusers_difftune.training.controlnet import (
    check_control_flags,
    control_settings,
    find_control_parts,
    find_extractor,
    find_tokenizer,
    load_controlnet,
    make_bank_conditions,
    validation_pairs,
)
from diffusers_difftune.training.finish import finish_run
from diffusers_difftune.training.publish import begin_publishing
from diffusers_difftune.training.run import (
    begin_records,
    find_backbone,
    load_denoiser,
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
    config = parse_config(ControlNetConfig, argv, __doc__)

    # Everything that can go wrong without weights goes wrong here.
    check_control_flags(config)
    run = start_run(config)
    backbone = find_backbone(run, tokenizer=find_tokenizer(config))
    adapter = find_control_parts(run, backbone)
    objective = make_objective(run, backbone)
    target = open_target(run)
    captions = tell_cut_captions(run, backbone, target)
    held_out = open_control_evaluation(run)
    bank = open_bank(run, backbone, target)
    total_steps = run.total_steps(len(target))
    extractor = find_extractor(run)
    settings = run_settings(run, backbone, target, bank) | control_settings(run, held_out, extractor)
    state = TrainingState(run, settings, total_steps)
    publisher = begin_publishing(run)
    summary = tell_summary(run, backbone, adapter, objective, target, bank, state, captions)
    begin_records(run, total_steps=total_steps, settings=settings, summary=summary)

    # Sampled once, encoded once.
    if bank is None and run.source_share:
        bank = make_bank(run, backbone, target, total_steps)
    source_controls = make_bank_conditions(run, backbone, bank, extractor)
    if held_out is None:
        extractor = None  # a model leaves memory
    batches = make_batches(run, backbone, objective, target, bank, with_control=True, source_controls=source_controls)

    # What trains.
    trained = ControlBranch(
        backbone,
        load_denoiser(run, backbone, run.weight_dtype),
        load_controlnet(run, backbone),
        adapter,
    )
    optimizer, lr_scheduler = make_optimizer(run, trained.parameters(), total_steps)
    state.prepare(trained, optimizer, lr_scheduler)

    prompts, controls = validation_pairs(config, backbone.resolution)
    validation = Validation(run, backbone, trained, prompts, run.steps_per_epoch(len(target)), controls)
    evaluation = control_evaluation(run, backbone, trained, extractor, held_out)
    train(run, backbone, objective, batches, state, validation, evaluation, publisher)
    finish_run(run, backbone, state, batches, validation, publisher)


if __name__ == "__main__":
    main()
