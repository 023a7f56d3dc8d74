# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Accepted is not enough: every flag of diffusers' scripts, and each of ours, does something or says why it cannot.

Each row below is a flag, or a few, and what can be observed when it is given, in short runs of the scripts on a tiny
pipeline. The plain run that rows compare with is standard fine-tuning for two steps; rows of Diff-Tuning's own flags
compare with a Diff-Tuning run on a small knowledge bank.
"""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch

from diffusers_difftune import KnowledgeBank
from diffusers_difftune.config.base import flags_of
from diffusers_difftune.publishing import client
from diffusers_difftune.trainables import full
from diffusers_difftune.training import trainer
from tests import class_flags, control_flags, evaluation_flags  # noqa: F401 (have rows)
from tests.flag_lab import CLASS, CONTROL, FULL, LORA, ROWS, SCRIPTS, Lab, Result, Room, images, is_close, row, same
from tests.tiny import save_tiny_conditions, tiny_condition, tiny_image, tiny_label


WITH_CAPTIONS = (FULL, LORA, CONTROL)
WITH_CROPS = (FULL, LORA, CLASS)
WITH_AVERAGE = (FULL, CLASS)


@pytest.fixture(scope="module")
def room(tmp_path_factory, tiny_pipeline, tiny_conditions) -> Room:
    return Room(tmp_path_factory.mktemp("flags"), tiny_pipeline, tiny_conditions)


@pytest.fixture(scope="module")
def class_room(tmp_path_factory, tiny_dit, tiny_conditions) -> Room:
    return Room(tmp_path_factory.mktemp("class-flags"), tiny_dit, tiny_conditions, CLASS)


@pytest.fixture
def lab(request, tmp_path, monkeypatch, capsys) -> Lab:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    room = request.getfixturevalue("class_room" if request.param == CLASS else "room")
    return Lab(request.param, room, tmp_path, monkeypatch, capsys)


# The model


@row("pretrained_model_name_or_path")
def another_model(lab: Lab) -> None:
    other = lab.run(pretrained_model_name_or_path=lab.room.other_pipeline)
    assert not same(other, lab.plain)
    assert "model_index.json" in lab.refused(pretrained_model_name_or_path=lab.room.images)
    assert "--pretrained_model_name_or_path is missing" in lab.refused(pretrained_model_name_or_path=None)


@row("revision")
def a_branch_of_the_model(lab: Lab) -> None:
    given = {"pretrained_model_name_or_path": "user/tiny", "cache_dir": lab.room.hub_cache}
    assert same(lab.run(**given), lab.plain)
    branch = lab.run(**given, revision="v2")
    assert same(branch, lab.run(pretrained_model_name_or_path=lab.room.other_pipeline))
    assert not same(branch, lab.plain)
    assert "user/tiny" in lab.refused(**given, revision="v3")


@row("variant")
def a_variant_of_the_weights(lab: Lab) -> None:
    both = shutil.copytree(lab.room.pipeline, lab.tmp_path / "both")
    for file in lab.room.other_pipeline.rglob("*.safetensors"):
        relative = file.relative_to(lab.room.other_pipeline)
        shutil.copy(file, (both / relative).with_suffix(".fp16.safetensors"))
    assert same(lab.run(pretrained_model_name_or_path=both), lab.plain)
    variant = lab.run(pretrained_model_name_or_path=both, variant="fp16")
    assert same(variant, lab.run(pretrained_model_name_or_path=lab.room.other_pipeline))


@row("pretrained_vae_model_name_or_path")
def another_vae(lab: Lab) -> None:
    assert not same(lab.run(pretrained_vae_model_name_or_path=lab.room.other_pipeline / "vae"), lab.plain)
    refused = lab.refused(pretrained_vae_model_name_or_path="user/nowhere")
    assert "--pretrained_vae_model_name_or_path: user/nowhere is neither a folder nor a VAE" in refused


@row("non_ema_revision", scripts=(FULL,))
def the_denoiser_of_another_branch(lab: Lab) -> None:
    given = {"pretrained_model_name_or_path": "user/tiny", "cache_dir": lab.room.hub_cache}
    mixed = lab.run(**given, non_ema_revision="v2")
    assert not same(mixed, lab.plain) and not same(mixed, lab.run(**given, revision="v2"))
    assert "--non_ema_revision v3" in lab.refused(**given, non_ema_revision="v3")


@row("cache_dir")
def where_encodings_are_kept(lab: Lab) -> None:
    lab.run(cache_dir=lab.tmp_path / "here")
    assert any(path.suffix == ".arrow" for path in (lab.tmp_path / "here").rglob("*"))


@row("prediction_type", scripts=WITH_CROPS)
def what_the_network_predicts(lab: Lab) -> None:
    velocity = lab.run(prediction_type="v_prediction")
    assert not same(velocity, lab.plain)
    if lab.script != LORA:
        config = json.loads((velocity.folder / "scheduler" / "scheduler_config.json").read_text())
        assert config["prediction_type"] == "v_prediction", "so that sampling agrees with training"
    assert "--prediction_type is 'noise'" in lab.refused(prediction_type="noise")


# The target data


def dataset_folder(folder: Path) -> Path:
    """Two configurations, `plain` (the tiny images) and `other`, as Parquet files with a README that names them."""
    for name, captions in (("plain", None), ("other", "another caption")):
        (folder / name).mkdir(parents=True)
        pairs = [tiny_image(index) for index in range(6)]
        columns = {
            "image": [p[0] for p in pairs],
            "text": [captions or p[1] for p in pairs],
            "label": [tiny_label(index + (name == "other")) for index in range(6)],
            "conditioning_image": [tiny_condition(index) for index in range(6)],
        }
        datasets.Dataset.from_dict(columns).to_parquet(folder / name / "train-00000-of-00001.parquet")
    lines = ["---", "configs:"]
    for name in ("plain", "other"):
        lines += [f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {name}/*.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


@row("dataset_name", "dataset_config_name")
def a_dataset_and_its_configuration(lab: Lab) -> None:
    folder = dataset_folder(lab.tmp_path / "dataset")
    given = {"train_data_dir": None, "dataset_name": folder}
    assert same(lab.run(**given, dataset_config_name="plain"), lab.plain)
    assert not same(lab.run(**given, dataset_config_name="other"), lab.plain)
    assert "--dataset" in lab.refused(**given, dataset_config_name="none")


@row("train_data_dir")
def another_folder(lab: Lab) -> None:
    assert not same(lab.run(train_data_dir=lab.room.other_images), lab.plain)
    assert "--train_data_dir" in lab.refused(train_data_dir=lab.tmp_path / "nowhere")
    assert "--dataset_name or --train_data_dir" in lab.refused(train_data_dir=None)


@row("image_column", "caption_column", scripts=WITH_CAPTIONS)
def other_columns(lab: Lab) -> None:
    pairs = [tiny_image(index) for index in range(6)]
    columns = {
        "image": [tiny_image(index + 9)[0] for index in range(6)],
        "text": ["something else"] * 6,
        "drawing": [pair[0] for pair in pairs],
        "title": [pair[1] for pair in pairs],
        "conditioning_image": [tiny_condition(index) for index in range(6)],
    }
    (lab.tmp_path / "columns").mkdir()
    datasets.Dataset.from_dict(columns).to_parquet(lab.tmp_path / "columns" / "train.parquet")
    data = {"train_data_dir": lab.tmp_path / "columns"}
    neither = lab.run(**data)
    assert same(lab.run(**data, image_column="drawing", caption_column="title"), lab.plain)
    one = lab.run(**data, image_column="drawing")
    assert not same(one, lab.plain) and not same(one, neither)
    assert "--image_column" in lab.refused(**data, image_column="photo")
    assert "--caption_column" in lab.refused(**data, caption_column="alt")


@row("max_train_samples")
def fewer_rows(lab: Lab) -> None:
    epoch = {"max_train_steps": None, "num_train_epochs": 1}
    assert len(lab.shared(**epoch).log) == 3  # six rows in batches of two
    assert len(lab.run(**epoch, max_train_samples=4).log) == 2


@row("resolution", scripts=WITH_CAPTIONS)
def another_resolution(lab: Lab) -> None:
    assert not same(lab.run(resolution=8), lab.plain)
    assert "--resolution is 17" in lab.refused(resolution=17)


@row("center_crop", scripts=WITH_CROPS)
def a_crop_in_the_centre(lab: Lab) -> None:
    wide = {"train_data_dir": lab.room.wide_images}
    assert not same(lab.run(**wide, center_crop=True), lab.shared(**wide))
    assert not same(lab.run(**wide, center_crop=True, no_cache=True), lab.shared(**wide, no_cache=True))
    assert same(lab.run(center_crop=True), lab.plain), "square images have one crop"


@row("random_flip", scripts=WITH_CROPS)
def flips(lab: Lab) -> None:
    flipped = lab.run(random_flip=True)
    assert not same(flipped, lab.plain)
    assert is_close(lab.run(random_flip=True, no_cache=True), flipped)


@row("image_interpolation_mode", scripts=WITH_CROPS)
def interpolation(lab: Lab) -> None:
    wide = {"train_data_dir": lab.room.wide_images}
    for cache in ({}, {"no_cache": True}):
        assert not same(lab.run(**wide, **cache, image_interpolation_mode="nearest"), lab.shared(**wide, **cache))
    assert "--image_interpolation_mode" in lab.refused(image_interpolation_mode="sinc").replace("Argument ", "")


@row("dataloader_num_workers")
def workers(lab: Lab) -> None:
    calls = lab.spy(trainer, "DataLoader")
    assert same(lab.run(dataloader_num_workers=1), lab.plain)
    assert calls[0][1]["num_workers"] == 1


# Training


@row("output_dir")
def where_results_go(lab: Lab) -> None:
    lab.monkeypatch.chdir(lab.tmp_path)
    lab.run(output_dir="here", max_train_steps=1)
    assert Path("here/training_log.jsonl").is_file()
    (lab.tmp_path / "file").touch()
    assert "--output_dir" in lab.refused(output_dir=lab.tmp_path / "file")


@row("seed")
def seeds(lab: Lab) -> None:
    again, other = lab.run(), lab.run(seed=1)
    assert again.losses == lab.plain.losses and again.moved(lab.plain) == 0
    assert not same(other, lab.plain)
    drawn = lab.run(seed=None, max_train_steps=1)
    assert json.loads((drawn.folder / "run_config.json").read_text())["seed"] >= 0


@row("train_batch_size")
def rows_of_a_batch(lab: Lab) -> None:
    result = lab.run(train_batch_size=3)
    assert [line["samples_seen"] for line in result.log] == [3, 6]
    assert "--train_batch_size is 0" in lab.refused(train_batch_size=0)


@row("num_train_epochs", "max_train_steps")
def length_of_the_run(lab: Lab) -> None:
    assert len(lab.shared(max_train_steps=None, num_train_epochs=1).log) == 3
    assert len(lab.run(max_train_steps=None, num_train_epochs=2).log) == 6
    assert len(lab.run(max_train_steps=1, num_train_epochs=2).log) == 1


@row("gradient_accumulation_steps")
def accumulation(lab: Lab) -> None:
    whole, parts = lab.run(train_batch_size=4), lab.run(gradient_accumulation_steps=2)
    assert [line["samples_seen"] for line in parts.log] == [4, 8]
    assert is_close(whole, parts) and whole.moved(parts) < 1e-4


@row("gradient_checkpointing")
def activations_computed_again(lab: Lab) -> None:
    calls = lab.spy(torch.utils.checkpoint, "checkpoint")
    assert is_close(lab.run(gradient_checkpointing=True), lab.plain)
    assert len(calls) > 2


@row("learning_rate")
def learning_rate(lab: Lab) -> None:
    result = lab.run(learning_rate=5e-3)
    assert result.lrs == [5e-3, 5e-3] and result.moved(lab.plain) > 1e-3


@row("scale_lr")
def scaled_learning_rate(lab: Lab) -> None:
    result = lab.run(scale_lr=True, train_batch_size=3, gradient_accumulation_steps=2)
    assert result.lrs == pytest.approx([1e-3 * 3 * 2] * 2)


@row("lr_scheduler", "lr_warmup_steps")
def schedule_of_the_learning_rate(lab: Lab) -> None:
    given = {"max_train_steps": 4}
    assert lab.run(**given, lr_scheduler="constant_with_warmup", lr_warmup_steps=2).lrs == pytest.approx(
        [0, 5e-4, 1e-3, 1e-3]
    )
    # The schedule ends with the run, whatever accumulation or the number of processes are.
    linear = lab.run(**given, lr_scheduler="linear", lr_warmup_steps=0, gradient_accumulation_steps=2)
    assert linear.lrs == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert "--lr_scheduler is 'cubic'" in lab.refused(lr_scheduler="cubic")


@row("snr_gamma")
def min_snr(lab: Lab) -> None:
    assert not same(lab.run(snr_gamma=0.05), lab.plain)
    assert "--snr_gamma is 0.0" in lab.refused(snr_gamma=0.0)


@row("use_8bit_adam")
def eight_bit_adam(lab: Lab) -> None:
    assert "bitsandbytes" in lab.refused(use_8bit_adam=True)
    plain = lab.plain  # made now: PEFT looks once whether bitsandbytes is there, and must not find the stand-in
    package = lab.tmp_path / "packages" / "bitsandbytes"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import torch\nclass optim:\n    class AdamW8bit(torch.optim.SGD):\n"
        "        def __init__(self, p, lr, betas, weight_decay, eps): super().__init__(p, lr)\n"
    )
    lab.monkeypatch.syspath_prepend(package.parent)
    try:
        assert lab.run(use_8bit_adam=True).moved(plain) > 1e-4, "the optimiser is that of bitsandbytes"
    finally:
        sys.modules.pop("bitsandbytes", None)


@row("allow_tf32")
def tf32(lab: Lab) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for asked in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = False
            lab.run(max_train_steps=1, allow_tf32=asked)
            assert torch.backends.cuda.matmul.allow_tf32 == asked
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@row("adam_beta1", "adam_beta2", "adam_weight_decay", "adam_epsilon")
def settings_of_adam(lab: Lab) -> None:
    given = {"adam_beta1": 0.5, "adam_beta2": 0.9, "adam_weight_decay": 0.5, "adam_epsilon": 1e-3}
    for flag, value in given.items():
        assert lab.run(**{flag: value}).moved(lab.plain) > 1e-6, flag
    assert "--adam_beta1 is 1.0" in lab.refused(adam_beta1=1.0)


@row("max_grad_norm")
def gradient_clipping(lab: Lab) -> None:
    # With a large epsilon AdamW's first step is in proportion to the gradient, so that clipping shows.
    given = {"adam_epsilon": 1.0, "adam_weight_decay": 0.0, "max_train_steps": 1, "learning_rate": 1.0}
    start = Result(lab.tmp_path / "start")
    still = lab.run(**given | {"learning_rate": 0.0, "output_dir": start.folder})
    free, clipped = lab.run(**given, max_grad_norm=1e6), lab.run(**given, max_grad_norm=1e-4)
    assert free.moved(still) > 50 * clipped.moved(still) > 0


@row("skip_nonfinite_steps")
def steps_that_are_not_finite(lab: Lab) -> None:
    given = {"learning_rate": 1e38, "max_train_steps": 3}  # after the first step the weights are no numbers
    assert "the loss is not finite" in lab.refused(**given)
    assert lab.run(**given, skip_nonfinite_steps=True).losses[1:] == [None, None]


@row("noise_offset")
def noise_offset(lab: Lab) -> None:
    assert not same(lab.run(noise_offset=0.1), lab.plain)


@row("input_perturbation", scripts=(FULL,))
def input_perturbation(lab: Lab) -> None:
    assert not same(lab.run(input_perturbation=0.1), lab.plain)


@row("mixed_precision")
def mixed_precision(lab: Lab) -> None:
    assert lab.run(mixed_precision="no").losses == lab.plain.losses
    half = lab.run(mixed_precision="bf16")
    assert half.losses != lab.plain.losses
    assert half.losses == pytest.approx(lab.plain.losses, rel=0.05)
    assert {tensor.dtype for tensor in half.weights().values()} == {torch.float32}, "what trains stays float32"


@row("enable_xformers_memory_efficient_attention")
def xformers(lab: Lab) -> None:
    assert "xformers" in lab.refused(enable_xformers_memory_efficient_attention=True)


@row("local_rank")
def local_rank(lab: Lab) -> None:
    lab.monkeypatch.setenv("LOCAL_RANK", "0")  # set first, so that it is unset again
    lab.monkeypatch.delenv("LOCAL_RANK")
    plain = lab.plain  # a run of this process that comes first joins no others, and neither do those after it
    assert same(lab.run(local_rank=0), plain)
    assert os.environ["LOCAL_RANK"] == "0"
    lab.run(local_rank=3, max_train_steps=1)
    assert os.environ["LOCAL_RANK"] == "0", "the variable wins"


# DREAM and the moving average


@row("dream_training", "dream_detail_preservation", scripts=(FULL,))
def dream(lab: Lab) -> None:
    first, second = lab.run(dream_training=True), lab.run(dream_training=True, dream_detail_preservation=5.0)
    assert not same(first, lab.plain) and not same(first, second)
    assert "--dream_detail_preservation" in lab.refused(dream_training=True, dream_detail_preservation=0.0)


@row("use_ema", scripts=WITH_AVERAGE)
def moving_average(lab: Lab) -> None:
    average = lab.run(use_ema=True, checkpointing_steps=2)
    assert average.losses == lab.plain.losses, "what trains is the same"
    assert average.moved(lab.plain) > 1e-6, "what is saved is the average"
    denoiser = "transformer" if lab.script == CLASS else "unet"
    assert f"checkpoint-2/{denoiser}_ema/diffusion_pytorch_model.safetensors" in average.files


@row("ema_decay", "ema_warmup", scripts=WITH_AVERAGE)
def decay_of_the_moving_average(lab: Lab) -> None:
    ramp, constant = lab.run(use_ema=True), lab.run(use_ema=True, ema_warmup="none")
    assert ramp.moved(constant) > 1e-6, "which is nearly the pretrained model"
    assert lab.run(use_ema=True, ema_decay=0.0).moved(lab.plain) < 1e-6, "nothing is averaged"
    assert lab.run(use_ema=True, ema_decay=0.5, ema_warmup="none").moved(constant) > 1e-6
    assert "--ema_decay needs --use_ema" in lab.refused(ema_decay=0.9)
    assert "--ema_warmup needs --use_ema" in lab.refused(ema_warmup="none")
    assert "--ema_decay is 1.0; it must be at least 0 and below 1" in lab.refused(use_ema=True, ema_decay=1.0)


@row("offload_ema", "foreach_ema", scripts=WITH_AVERAGE)
def kinds_of_moving_average(lab: Lab) -> None:
    average = lab.run(use_ema=True)
    moves = lab.spy(full.EMAModel, "to")
    made = lab.spy(full, "EMAModel")
    for flag in ("offload_ema", "foreach_ema"):
        result = lab.run(use_ema=True, **{flag: True})
        assert result.moved(average) < 1e-6, "the average is the same"
    assert [kwargs["foreach"] for _, kwargs in made] == [False, True]
    assert sum("cpu" in args[1:] for args, _ in moves) == 2, "after each of the two steps of the offloaded run"


# Checkpoints


@row("checkpointing_steps", "checkpoints_total_limit", "resume_from_checkpoint")
def checkpoints(lab: Lab) -> None:
    whole = lab.run(checkpointing_steps=1, max_train_steps=3)
    assert {p.name for p in whole.folder.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
    limited = {"checkpointing_steps": 1, "checkpoints_total_limit": 1}
    cut = lab.run(**limited)
    assert {p.name for p in cut.folder.glob("checkpoint-*")} == {"checkpoint-2"}
    resumed = lab.run(**limited, max_train_steps=3, resume_from_checkpoint="latest", output_dir=cut.folder)
    assert [line["step"] for line in resumed.log] == [1, 2, 3] and resumed.losses == whole.losses
    assert resumed.moved(whole) == 0
    again = lab.run(max_train_steps=3, resume_from_checkpoint=whole.folder / "checkpoint-1")
    assert [line["step"] for line in again.log] == [2, 3] and again.moved(whole) == 0
    assert "--resume_from_checkpoint checkpoint-9" in lab.refused(resume_from_checkpoint="checkpoint-9")


# Reports and validation


@row("report_to", "logging_dir")
def trackers(lab: Lab) -> None:
    assert not any("tfevents" in name for name in lab.plain.files)
    result = lab.run(report_to="tensorboard", logging_dir="journal")
    events = [name for name in result.files if "tfevents" in name]
    assert events and all(name.startswith("journal/") for name in events)
    assert "wandb" in lab.refused(report_to="wandb")


@row("tracker_project_name", scripts=(FULL, CONTROL, CLASS))
def name_of_the_project(lab: Lab) -> None:
    result = lab.run(report_to="tensorboard", tracker_project_name="mine", max_train_steps=1)
    assert any(name.startswith("logs/mine/") for name in result.files)


@row("validation_prompts", "validation_epochs", scripts=(FULL,))
def validation(lab: Lab) -> None:
    assert not images(lab.plain)
    given = {"validation_prompts": ["a red square", "a blue bar"], "train_batch_size": 6, "max_train_steps": 4}
    two = {"0.png", "1.png"}
    often = lab.run(**given, validation_epochs=2)  # one step an epoch: after epochs 1 and 3, as upstream, and the end
    assert images(often) == {f"step-{step}/{name}" for step in (1, 3, 4) for name in two}
    assert images(lab.run(**given)) == {f"step-{step}/{name}" for step in (1, 4) for name in two}  # every 5 epochs


@row("validation_prompt", "num_validation_images", "validation_epochs", scripts=(LORA,))
def lora_validation(lab: Lab) -> None:
    assert not images(lab.plain)
    given = {"validation_prompt": "a red square", "train_batch_size": 6, "max_train_steps": 3}
    often = lab.run(**given, num_validation_images=1)
    assert images(often) == {f"step-{step}/0.png" for step in (1, 2, 3)}
    seldom = lab.run(**given, validation_epochs=3)
    assert images(seldom) == {f"step-{step}/{i}.png" for step in (1, 3) for i in range(4)}


@row("validation_steps", scripts=(FULL, LORA))
def validation_by_steps(lab: Lab) -> None:
    prompt = {"validation_prompts": ["a red square"]} if lab.script == FULL else {"validation_prompt": "a red square"}
    count = {} if lab.script == FULL else {"num_validation_images": 1}
    result = lab.run(**prompt, **count, validation_steps=2, max_train_steps=3)
    assert images(result) == {"step-2/0.png", "step-3/0.png"}


# What trains


def ranks(result: Result) -> set[int]:
    return {tensor.shape[0] for name, tensor in result.weights().items() if "lora_A" in name}


@row("rank", scripts=(LORA,))
def rank(lab: Lab) -> None:
    assert (ranks(lab.plain), ranks(lab.run(rank=2))) == ({4}, {2})


@row("rank", scripts=(FULL,))
def rank_of_an_adapter(lab: Lab) -> None:
    assert (ranks(lab.run(adapter="lora")), ranks(lab.run(adapter="lora", rank=2))) == ({4}, {2})
    assert "--rank needs --adapter" in lab.refused(rank=2)


@row("lora_alpha", "lora_dropout", "lora_target_modules", scripts=(FULL, LORA))
def lora_settings(lab: Lab) -> None:
    given = {"adapter": "lora"} if lab.script == FULL else {}
    plain = lab.shared(**given)
    assert not same(lab.run(**given, lora_alpha=40.0), plain)
    assert not same(lab.run(**given, lora_dropout=0.5), plain)
    assert not any("ff.net" in name for name in plain.weights())
    assert all("ff.net" in name for name in lab.run(**given, lora_target_modules=["ff.net.0.proj"]).weights())
    assert "--lora_target_modules nothing" in lab.refused(**given, lora_target_modules=["nothing"])


@row("adapter", scripts=(FULL, LORA))
def kinds_of_adapters(lab: Lab) -> None:
    """What each kind is, is in tests/adapters."""
    parts = {"loha": ".hada_w1_a", "oft": ".oft_R.weight", "difffit": ".difffit_scale", "bitfit": ".bias"}
    for kind, part in parts.items():
        found = lab.run(adapter=kind).weights()
        assert any(name.endswith(part) for name in found) and len(found) < 150, kind
    assert "--adapter: invalid choice" in lab.refused(adapter="prefix")


@row("train_parameters", scripts=(FULL, LORA))
def named_parameters(lab: Lab) -> None:
    if lab.script == LORA:  # which has an adapter
        assert "--train_parameters says what trains, and so does" in lab.refused(train_parameters=["*.bias"])
        return
    named = lab.run(train_parameters=["*.attn2.to_?.weight", "conv_in.bias"]).weights()
    assert {name.split(".attn2.")[-1] for name in named} == {f"to_{x}.weight" for x in "qkv"} | {"conv_in.bias"}
    assert "--train_parameters nothing" in lab.refused(train_parameters=["nothing"])


# The Hub


@row("push_to_hub", "hub_token", "hub_model_id", "hub_strategy")
def the_hub(lab: Lab) -> None:
    """What reaches the client; that the client reaches the Hub is tested over HTTP elsewhere."""
    done: list = []
    messages: list[str] = []

    class Api:
        endpoint = "https://hub.invalid"

        def __init__(self, token: str | None = None) -> None:
            self.token = token

        def create_repo(self, name: str, **_):
            done.append(("create_repo", name, self.token))
            return type("Url", (), {"repo_id": f"user/{name}"})

        def preupload_lfs_files(self, *_, **__) -> None:
            pass

        def auth_check(self, *_, **__) -> None:
            pass

        def create_commit(self, repo_id: str, operations: list, commit_message: str, **_):
            done.append(("create_commit", repo_id, self.token))
            messages.append(commit_message)
            done.append({operation.path_in_repo for operation in operations})
            return type("Commit", (), {"commit_url": "https://hub.invalid/commit"})

    lab.monkeypatch.setattr(client, "HfApi", Api)
    assert "--push_to_hub" in lab.refused(push_to_hub=True) and not done, "there is no token"
    given = {"push_to_hub": True, "hub_token": "hf_secret", "max_train_steps": 1}
    result = lab.run(**given, hub_model_id="mine")
    assert done[:2] == [("create_repo", "mine", "hf_secret"), ("create_commit", "user/mine", "hf_secret")]
    assert any(name.endswith(".safetensors") for name in done[2]) and "README.md" in done[2]
    assert "hf_secret" not in (result.folder / "run_config.json").read_text()
    done.clear()
    lab.run(**given, output_dir=lab.tmp_path / "my-folder")
    assert done[0] == ("create_repo", "my-folder", "hf_secret")
    done.clear()
    lab.run(max_train_steps=1)
    assert not done

    assert messages == ["End of training"] * 2
    saves = given | {"checkpointing_steps": 1, "max_train_steps": 2}
    for strategy in ("every_save", "checkpoint"):
        messages.clear()
        done.clear()
        lab.run(**saves, hub_strategy=strategy)
        assert messages == ["Training in progress, step 1", "End of training"]
        for names in (found for found in done if isinstance(found, set)):
            assert ("last-checkpoint/optimizer.safetensors" in names) == (strategy == "checkpoint")
    assert "--hub_strategy needs --push_to_hub, because it says when to upload" in lab.refused(
        hub_strategy="checkpoint"
    )


@row("overwrite_output_dir")
def overwriting(lab: Lab) -> None:
    folder = lab.run(checkpointing_steps=1).folder
    assert f"--output_dir {folder} holds a finished run of 2 steps" in lab.refused(
        output_dir=folder, max_train_steps=1
    )
    again = lab.run(output_dir=folder, max_train_steps=1, overwrite_output_dir=True)
    assert len(again.log) == 1 and not list(folder.glob("checkpoint-*"))


# Diff-Tuning's own flags


@row("objective", "knowledge_bank")
def objective(lab: Lab) -> None:
    assert {line["loss_retention"] for line in lab.plain.log} == {0}
    tuned = lab.half
    assert all(line["loss_retention"] > 0 for line in tuned.log), "every batch of two has its source row"
    assert not same(tuned, lab.plain)
    assert "--knowledge_bank has no use" in lab.refused(knowledge_bank=lab.room.bank)
    assert "--knowledge_bank" in lab.refused(objective="difftune", knowledge_bank=lab.tmp_path / "nowhere")
    other = lab.refused(
        objective="difftune",
        knowledge_bank=lab.room.bank,
        pretrained_model_name_or_path=lab.room.other_pipeline,
    )
    assert "bank" in other


@row("source_share")
def source_share(lab: Lab) -> None:
    default = lab.tuned(max_train_steps=5)
    assert [line["loss_retention"] > 0 for line in default.log] == [False, False, True, False, True], "rows 5 and 10"
    assert all(line["loss_retention"] > 0 for line in lab.half.log)
    assert "--source_share is 1.0" in lab.refused(objective="difftune", source_share=1.0)


@row("retention_weight")
def retention_weight(lab: Lab) -> None:
    heavy = lab.tuned(source_share=0.5, retention_weight=0.5)
    assert heavy.moved(lab.half) > 1e-5
    first = heavy.log[0]
    assert first["loss"] == pytest.approx(first["loss_reconsolidation"] + 0.5 * first["loss_retention"], rel=1e-6)
    assert "--retention_weight is -1.0" in lab.refused(objective="difftune", retention_weight=-1.0)


@row("reconsolidation_power", "retention_power", "coefficients", "retention_target", "retention_prompts")
def forms_of_the_objective(lab: Lab) -> None:
    def changed(**given) -> set[str]:
        first, other = lab.half.log[0], lab.tuned(source_share=0.5, **given).log[0]
        names = ("loss_reconsolidation", "loss_retention")
        return {name for name in names if first[name] != pytest.approx(other[name], rel=1e-6)}

    assert changed(reconsolidation_power=3.0) == {"loss_reconsolidation"}
    assert changed(retention_power=3.0) == {"loss_retention"}
    assert changed(coefficients="weighted") == {"loss_reconsolidation", "loss_retention"}
    assert changed(retention_prompts="sampled" if lab.script == CLASS else "empty") == {"loss_retention"}
    assert changed(retention_target="pretrained") == {"loss_retention"}
    distilled = lab.tuned(source_share=0.5, retention_target="pretrained").log[0]
    assert distilled["loss_retention"] == pytest.approx(0, abs=1e-9), "untrained, it answers as the pretrained model"
    assert "--retention_target" in lab.refused(retention_target="pretrained")


@row("bank_samples", "bank_prompts", "bank_steps", "bank_solver", "bank_guidance_scale", "bank_batch_size")
def a_bank_of_its_own(lab: Lab) -> None:
    prompt, kept = ("dog", "7") if lab.script == CLASS else ("a green bar", "a green bar")
    (lab.tmp_path / "prompts.txt").write_text(f"{prompt}\n")
    given = {"bank_samples": 3, "bank_steps": 2, "bank_solver": "euler", "bank_guidance_scale": 2.0}
    result = lab.run(
        objective="difftune", **given, bank_batch_size=2, bank_prompts=lab.tmp_path / "prompts.txt", max_train_steps=1
    )
    bank = KnowledgeBank.load(result.folder / "knowledge_bank")
    facts = dataclasses.asdict(bank.manifest)
    assert len(bank) == 3 and {bank.prompt(i) for i in range(3)} == {kept}
    assert (facts["num_inference_steps"] if "num_inference_steps" in facts else facts["steps"]) == 2
    assert facts["guidance_scale"] == 2.0 and "euler" in str(facts).lower()
    assert len(list((result.folder / "knowledge_bank").rglob("*.parquet"))) == 2, "shards of two"
    empty = lab.run(objective="difftune", **given | {"bank_prompts": "empty", "bank_samples": 1}, max_train_steps=1)
    assert KnowledgeBank.load(empty.folder / "knowledge_bank").prompt(0) == ""


# Our flags about data


@row("no_cache", "streaming", scripts=WITH_CAPTIONS)
def without_caches(lab: Lab) -> None:
    cache = lab.tmp_path / "cache"
    uncached = lab.run(no_cache=True, cache_dir=cache)
    assert is_close(uncached, lab.plain), "the same batches"
    assert not any(path.parent.parent.name in ("images", "prompts") for path in cache.rglob("*.arrow"))
    assert len(lab.run(streaming=True).log) == 2
    assert "--max_train_steps" in lab.refused(streaming=True, max_train_steps=None)


@row("proportion_empty_prompts", scripts=WITH_CAPTIONS)
def emptied_prompts(lab: Lab) -> None:
    assert not same(lab.run(proportion_empty_prompts=1), lab.plain), "other prompts than the captions"
    unmoved = lab.run(proportion_empty_prompts=1e-9)
    assert same(unmoved, lab.plain), "no other draw moves"
    assert "--proportion_empty_prompts" in lab.refused(proportion_empty_prompts=1.5)


@row("crops_per_image", scripts=WITH_CROPS)
def crops(lab: Lab) -> None:
    wide = {"train_data_dir": lab.room.wide_images}
    assert not same(lab.run(**wide, crops_per_image=1), lab.shared(**wide))


@row("verify_cache")
def an_edit_with_the_old_time_and_size(lab: Lab) -> None:
    folder = lab.tmp_path / "images"
    save_tiny_conditions(folder)
    file = folder / "00.bmp"
    tiny_image(0)[0].save(file)  # uncompressed: the same size whatever is drawn
    (folder / "00.png").unlink()
    metadata = folder / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace('"00.png"', '"00.bmp"'))
    epoch = {"train_data_dir": folder, "train_batch_size": 6, "max_train_steps": 1}
    first, before = lab.run(**epoch), file.stat()
    pixels = tiny_image(3)[0].tobytes()
    with open(file, "r+b") as opened:  # in place: the same inode
        opened.seek(-len(pixels), os.SEEK_END)
        opened.write(pixels)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert same(lab.run(**epoch), first)
    assert not same(lab.run(**epoch, verify_cache=True), first)


@row("skip_bad_images")
def files_that_are_no_images(lab: Lab) -> None:
    folder = save_tiny_conditions(lab.tmp_path / "images")
    (folder / "00.png").write_bytes(b"no image")
    assert "00.png" in lab.refused(train_data_dir=folder)
    epoch = {"max_train_steps": None, "num_train_epochs": 1, "train_batch_size": 1}
    assert len(lab.run(train_data_dir=folder, skip_bad_images=True, **epoch).log) == 5


CHECKS = list(dict.fromkeys((script, check) for (script, _), check in ROWS.items()))
# One script shows what a flag does; that the others do it too is for the slow tests.
OWNERS: dict[Callable, str] = {}
for script, check in CHECKS:
    OWNERS.setdefault(check, script)
PARAMETERS = [
    pytest.param(script, check, marks=[] if OWNERS[check] == script else [pytest.mark.slow])
    for script, check in CHECKS
]


@pytest.mark.parametrize(
    ("lab", "check"), PARAMETERS, indirect=["lab"], ids=lambda part: getattr(part, "__name__", part)
)
def test_flag_has_an_effect(lab: Lab, check: Callable) -> None:
    check(lab)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_has_a_row(script: str) -> None:
    table = Path(__file__).parent / "config" / "upstream_flags" / f"{script}.json"
    upstream = json.loads(table.read_text())["flags"] if script != CLASS else {}  # of which there is none
    ours = set(flags_of(SCRIPTS[script][1]))
    rows = {flag for name, flag in ROWS if name == script}
    assert set(upstream) - rows == set(), "flags of diffusers' script without a row"
    assert ours - rows == set(), "flags of ours without a row"
    assert rows - ours == set(), "rows without a flag"
