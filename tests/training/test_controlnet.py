# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""ControlNet training: the branch learns, the rest stays, each row meets its own control image."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from safetensors.torch import load_file

from diffusers_difftune import controls as conditions
from diffusers_difftune import load_adapter, merge_adapter
from diffusers_difftune.adapters import AdapterSettings
from diffusers_difftune.adapters.files import TENSOR_FILE
from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.backbones.stable_diffusion import StableDiffusionControlNet
from diffusers_difftune.controls import make_extractor
from diffusers_difftune.data.images.decode import ImageTransform, control_image
from diffusers_difftune.evaluation.convergence import read_curve
from diffusers_difftune.trainables.control import ControlBranch
from diffusers_difftune.training.controlnet import ControlNetTrainer
from tests.tiny import tiny_condition

from .runs import log, losses, run, run_on_processes


CONTROL = "train_controlnet_difftune"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def backbone(tiny_pipeline):
    return load_backbone(tiny_pipeline)


def inputs(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    condition = {
        "encoder_hidden_states": torch.randn(rows, 32, 32, generator=generator),
        "control": torch.rand(rows, 3, 16, 16, generator=generator),
    }
    return torch.randn(rows, 4, 8, 8, generator=generator), torch.tensor([1, 500, 999][:rows]), condition


def test_a_new_controlnet_changes_nothing(backbone):
    denoiser = backbone.load_denoiser()
    trained = ControlBranch(backbone, denoiser, backbone.controlnet.new(denoiser))
    sample, timesteps, condition = inputs()
    bare = backbone.predict(denoiser, sample, timesteps, condition)
    controlled = trained.predict(trained.model, sample, timesteps, condition)
    assert (bare - controlled).abs().max() < 1e-6
    assert bare.std() > 0.01


def test_a_trained_controlnet_listens_to_each_row_s_own_control_image(backbone):
    denoiser = backbone.load_denoiser()
    controlnet = backbone.controlnet.new(denoiser)
    with torch.no_grad():
        for name in StableDiffusionControlNet.new_layers:
            for parameter in getattr(controlnet, name).parameters():
                parameter.normal_(0, 0.1)
    trained = ControlBranch(backbone, denoiser, controlnet)
    sample, timesteps, condition = inputs()
    before = trained.predict(controlnet, sample, timesteps, condition)
    changed = condition["control"].clone()
    changed[1] = 1 - changed[1]
    after = trained.predict(controlnet, sample, timesteps, condition | {"control": changed})
    moved = (before - after).abs().amax((1, 2, 3))
    assert moved[1] > 1e-3 and moved[0] == moved[2] == 0


def test_every_weight_of_the_controlnet_changes_and_nothing_else(
    tiny_pipeline, tiny_conditions, tmp_path, monkeypatch
):
    frozen, gradients = [], []
    predict = ControlBranch.predict

    def watch(trained, *args):
        frozen.append({name: tensor.clone() for name, tensor in trained.denoiser.state_dict().items()})
        return predict(trained, *args)

    step = torch.optim.AdamW.step

    def watch_step(optimizer, closure=None):
        gradients.append(
            [p.grad is not None and bool(p.grad.any()) for g in optimizer.param_groups for p in g["params"]]
        )
        return step(optimizer)

    monkeypatch.setattr(ControlBranch, "predict", watch)
    monkeypatch.setattr(torch.optim.AdamW, "step", watch_step)
    folder = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "run", "--max_train_steps 5")
    start = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "start", "--max_train_steps 1 --learning_rate 0")
    before, after = load_file(start / WEIGHTS), load_file(folder / WEIGHTS)
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert all(any(each) for each in zip(*gradients[:5], strict=True)), "a weight never had a gradient"
    pretrained = load_file(tiny_pipeline / "unet" / WEIGHTS)
    for state in frozen:
        assert all(torch.equal(state[name], tensor) for name, tensor in pretrained.items())


def test_the_result_drives_the_stock_pipeline(tiny_pipeline, tiny_conditions, tmp_path):
    flags = "--max_train_steps 5 --checkpointing_steps 5 --learning_rate 1e-2"
    folder = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path, flags)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        tiny_pipeline, controlnet=ControlNetModel.from_pretrained(folder), safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)

    def image(index: int) -> np.ndarray:
        return pipeline(
            "a thing",
            image=tiny_condition(index),
            height=16,
            width=16,
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images

    assert np.abs(image(0) - image(11)).max() > 1e-3
    checkpoint = ControlNetModel.from_pretrained(folder / "checkpoint-5", subfolder="controlnet")
    result = load_file(folder / WEIGHTS)
    assert all(torch.equal(tensor, result[name]) for name, tensor in checkpoint.state_dict().items())
    assert "StableDiffusionControlNetPipeline" in (folder / "README.md").read_text()


@pytest.mark.parametrize("flags", ["", "--no_cache", "--streaming", "--dataloader_num_workers 1"])
def test_each_row_meets_its_own_control_image(flags, tiny_pipeline, tiny_conditions, tmp_path, monkeypatch):
    """Captions and control images both carry the number of their image; source rows are blank."""
    seen = []
    training_step = ControlNetTrainer.training_step

    def watch(self, batch):
        seen.append(batch)
        return training_step(self, batch)

    monkeypatch.setattr(ControlNetTrainer, "training_step", watch)
    run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path, f"--bank_prompts empty --train_batch_size 5 {flags}")
    assert len(seen) == 4
    for batch in seen:
        assert batch.control.shape == (5, 3, 16, 16) and batch.control.dtype == torch.float32
        assert batch.is_source.sum() == 1
        for prompt, is_source, control in zip(batch.prompts, batch.is_source, batch.control, strict=True):
            if is_source:
                assert prompt == "" and not control.any()
            else:
                drawn = np.asarray(tiny_condition(int(prompt.rsplit(" ", 1)[1])))
                expected = torch.from_numpy(drawn.copy()).permute(2, 0, 1).float() / 255
                assert torch.equal(control, expected), "in [0, 1], as the inference pipeline has it"


def test_the_pipeline_prepares_control_images_as_training_does(backbone):
    denoiser = backbone.load_denoiser()
    backbone.load_encoders(torch.device("cpu"), torch.float32)
    pipeline = backbone.pipeline(denoiser, torch.device("cpu"), torch.float32, backbone.controlnet.new(denoiser))
    backbone.release_encoders()
    image = tiny_condition(4)
    theirs = pipeline.prepare_image(image, 16, 16, 1, 1, torch.device("cpu"), torch.float32)[0]
    assert torch.allclose(theirs, control_image(image, ImageTransform(16, "bilinear")), atol=1e-6)


@pytest.mark.parametrize(
    "flags", ["", "--adapter lora --rank 2 --lora_dropout 0.3", "--adapter difffit", "--adapter boft"]
)
def test_a_resumed_run_is_the_uninterrupted_one(flags, tiny_pipeline, tiny_conditions, tmp_path):
    result = TENSOR_FILE if flags else WEIGHTS
    flags += " --max_train_steps 4 --checkpointing_steps 2 --train_batch_size 3"
    whole = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "whole", flags)
    resumed = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "resumed", flags)
    for name in (result, "training_log.jsonl"):
        (resumed / name).unlink()
    (resumed / "training_log.jsonl").write_text((whole / "training_log.jsonl").read_text())
    flags += f" --resume_from_checkpoint {resumed / 'checkpoint-2'}"
    run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "resumed", flags)
    expected, found = load_file(whole / result), load_file(resumed / result)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert losses(whole) == losses(resumed)


@pytest.mark.slow
def test_layouts_of_a_batch_and_processes_do_not_change_a_run(tiny_pipeline, tiny_conditions, tmp_path):
    run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "bank", "--max_train_steps 1 --train_batch_size 10")
    flags = f"--knowledge_bank {tmp_path / 'bank' / 'knowledge_bank'}"
    layouts = [
        run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / f"{size}x{micro}",
            f"{flags} --train_batch_size {size} --gradient_accumulation_steps {micro}")
        for size, micro in ((8, 1), (4, 2))
    ]  # fmt: skip
    layouts.append(
        run_on_processes(2, CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "two", f"{flags} --train_batch_size 4")
    )
    assert json.loads((layouts[-1] / "run_config.json").read_text())["num_processes"] == 2
    for other in layouts[1:]:
        assert np.allclose(losses(layouts[0]), losses(other), rtol=1e-5)


def test_lora_trains_the_new_layers_and_the_matrices(tiny_pipeline, tiny_conditions, tmp_path):
    flags = "--adapter lora --rank 2 --lora_target_modules to_q to_v --checkpointing_steps 4 --learning_rate 1e-2"
    folder = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "run", flags)
    for place in (folder, folder / "checkpoint-4"):
        assert all(
            ".lora_" in name or name.startswith(StableDiffusionControlNet.new_layers)
            for name in load_file(place / TENSOR_FILE)
        )
    start = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "start", "--max_train_steps 1 --learning_rate 0")
    controlnet = ControlNetModel.from_pretrained(start)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        tiny_pipeline, controlnet=controlnet, safety_checker=None
    )
    load_adapter(pipeline, folder)
    merge_adapter(pipeline)
    before, merged = load_file(start / WEIGHTS), controlnet.state_dict()
    assert before.keys() == merged.keys(), "what is merged is a plain ControlNet"
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    new = {name for name in before if name.startswith(StableDiffusionControlNet.new_layers)}
    adapted = {name for name in before if "to_q" in name or "to_v" in name}
    assert changed == new | {name for name in adapted if name.endswith("weight")}


def test_distillation_holds_the_pair_to_the_bare_denoiser(tiny_pipeline, tiny_conditions, tmp_path):
    """Before the first step the pair is the bare denoiser, so its retention loss against that is 0."""
    flags = "--retention_target pretrained --train_batch_size 10"
    folder = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path, flags)
    retention = [line["loss_retention"] for line in log(folder)]
    assert retention[0] == pytest.approx(0, abs=1e-9) and retention[-1] > 0


def test_training_goes_on_from_a_controlnet(tiny_pipeline, tiny_conditions, tmp_path):
    first = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "first", "--learning_rate 1e-2")
    flags = f"--controlnet_model_name_or_path {first} --learning_rate 0"
    second = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "second", flags)
    expected, found = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_validation_images_are_made_for_each_pair(tiny_pipeline, tiny_conditions, tmp_path):
    images = [str(tiny_conditions / f"condition-0{i}.png") for i in range(2)]
    flags = (
        f"--validation_image {' '.join(images)} --validation_prompt a --num_validation_images 2 --validation_steps 4"
    )
    folder = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path, flags)
    names = sorted(path.name for path in (folder / "validation" / "step-4").iterdir())
    assert names == sorted(f"{i}{suffix}.png" for i in range(4) for suffix in ("", "-condition"))
    card = (folder / "README.md").read_text()
    assert card.count("-condition.png)") == 2, "each control image once"


def test_mixed_precision_trains_and_validates(tiny_pipeline, tiny_conditions, tmp_path):
    image = tiny_conditions / "condition-00.png"
    flags = f"--mixed_precision bf16 --validation_image {image} --validation_prompt a --num_validation_images 1"
    folder = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path, flags + " --gradient_checkpointing")
    assert all(tensor.dtype == torch.float32 for tensor in load_file(folder / WEIGHTS).values())
    assert (folder / "validation" / "step-4" / "0.png").is_file()


LORA = AdapterSettings(
    "lora", rank=2, target_modules=("to_q", "to_v"), always_trained=StableDiffusionControlNet(2).always_trained
)


@pytest.mark.parametrize("settings", [None, LORA])
def test_the_copy_in_half_precision_is_a_copy(settings, backbone):
    denoiser = backbone.load_denoiser(dtype=torch.bfloat16)
    trained = ControlBranch(backbone, denoiser, backbone.controlnet.new(backbone.load_denoiser()), settings)
    for name, parameter in trained.model.named_parameters():
        if "lora_B" in name:  # it starts at 0
            torch.nn.init.ones_(parameter)
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    backbone.load_encoders(torch.device("cpu"), torch.bfloat16)
    copied = trained.pipeline(torch.device("cpu"), torch.bfloat16).controlnet.state_dict()
    backbone.release_encoders()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.model.state_dict().items())
    plain = {name.replace(".base_layer", ""): name for name in before if "lora_" not in name}
    assert copied.keys() == plain.keys()
    for name, original in plain.items():
        merged = original.endswith(".base_layer.weight")
        assert torch.equal(copied[name], before[original].bfloat16()) != merged, name


def test_what_extracts_is_released_before_training_goes_on(tiny_pipeline, tiny_conditions, tmp_path, monkeypatch):
    calls, training_step = [], ControlNetTrainer.training_step

    def watched(*args, **kwargs):
        extractor = make_extractor(*args, **kwargs)

        def extract(images):
            calls.append("extract")
            return extractor(images)

        return dataclasses.replace(extractor, extract=extract, release=lambda: calls.append("release"))

    def watch(*args):
        calls.append("train")
        return training_step(*args)

    monkeypatch.setattr(conditions, "make_extractor", watched)
    monkeypatch.setattr(ControlNetTrainer, "training_step", watch)
    flags = f"--condition_kind sketch --control_evaluation_data {tiny_conditions} --control_evaluation_samples 2"
    flags += " --control_evaluation_steps 1 --max_train_steps 2 --bank_samples 4 --retention_condition extracted"
    run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path, flags)
    measured = ["extract", "release"]
    assert calls == [*measured, *measured, "train", *measured, "train", *measured]  # first of all, of the bank


def test_a_resumed_measurement_goes_on(tiny_pipeline, tiny_conditions, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO, "diffusers_difftune.training.evaluation")
    flags = f"--condition_kind sketch --control_evaluation_data {tiny_conditions} --control_evaluation_samples 2"
    flags += " --control_evaluation_steps 1 --objective standard --checkpointing_steps 2"
    whole = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "whole", flags)
    measured = [(line["step"], line["condition_error"]) for line in log(whole)]
    assert [step for step, _ in measured] == [0, 1, 2, 3, 4]
    assert len({tuple(errors.values()) for _, errors in measured}) > 1
    flags += f" --resume_from_checkpoint {whole / 'checkpoint-2'}"
    caplog.clear()
    resumed = run(CONTROL, tiny_pipeline, tiny_conditions, whole, flags)
    errors = [f"{errors['mse']:.5f}" for _, errors in measured]
    assert [record.getMessage() for record in caplog.records if record.name.endswith("training.evaluation")] == [
        f"Step {step}: mean squared error {errors[step]} (at the start {errors[0]})" for step in (3, 4)
    ]
    assert [(line["step"], line["condition_error"]) for line in log(resumed)] == measured
    with pytest.raises(SystemExit):
        run(CONTROL, tiny_pipeline, tiny_conditions, whole, flags + " --control_evaluation_guidance_scale 2")
    assert "--control_evaluation_guidance_scale was 7.5 and is 2.0" in capsys.readouterr().err
    run(CONTROL, tiny_pipeline, tiny_conditions, whole, f"--objective standard {flags[flags.index('--resume') :]}")


def test_the_end_is_measured_whatever_the_interval(tiny_pipeline, tiny_conditions, tmp_path):
    flags = f"--condition_kind sketch --control_evaluation_data {tiny_conditions} --control_evaluation_samples 2"
    flags += " --control_evaluation_steps 3 --objective standard --max_train_steps 4"
    folder = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path, flags)
    assert [line["step"] for line in log(folder) if "condition_error" in line] == [0, 3, 4]
    assert read_curve(folder).budget == 4


def test_a_lora_is_not_resumed_on_another_controlnet(tiny_pipeline, tiny_conditions, tmp_path, capsys):
    first = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "first", "--max_train_steps 1")
    flags = "--adapter lora --rank 2 --checkpointing_steps 2"
    started = f"{flags} --controlnet_model_name_or_path {first}"
    run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "run", started)
    with pytest.raises(SystemExit):
        run(
            CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "run", flags + " --resume_from_checkpoint checkpoint-2"
        )
    assert "controlnet_model_name_or_path was" in capsys.readouterr().err
