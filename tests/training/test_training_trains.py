# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What trains gets gradients and changes, what is frozen does not, and clipping clips."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.trainables import FullDenoiser

from .runs import FULL, LORA, log, run, unet


def test_every_weight_of_the_denoiser_changes_and_nothing_else(tiny_pipeline, tiny_images, tmp_path):
    folder = run(FULL, tiny_pipeline, tiny_images, tmp_path)
    before, after = unet(tiny_pipeline), unet(folder)
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    for part in ("vae", "text_encoder"):
        for path in (tiny_pipeline / part).iterdir():
            assert (folder / part / path.name).read_bytes() == path.read_bytes(), path


def test_only_lora_changes(tiny_pipeline, tiny_images, tmp_path, monkeypatch):
    folder = run(LORA, tiny_pipeline, tiny_images, tmp_path, "--lora_target_modules to_q to_v --rank 2 --lora_alpha 6")
    first = run(
        LORA,
        tiny_pipeline,
        tiny_images,
        tmp_path / "none",
        "--learning_rate 0 --lora_target_modules to_q to_v --rank 2",
    )
    trained, untrained = (load_file(f / "pytorch_lora_weights.safetensors") for f in (folder, first))
    assert trained.keys() == untrained.keys()
    assert all("to_q" in name or "to_v" in name for name in trained)
    assert [name for name in trained if torch.equal(trained[name], untrained[name])] == []

    pipeline = DiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    pipeline.load_lora_weights(folder)
    config = next(iter(pipeline.unet.peft_config.values()))
    assert (config.r, config.lora_alpha) == (2, 6)
    base = {name: tensor for name, tensor in pipeline.unet.state_dict().items() if "lora" not in name}
    frozen = unet(tiny_pipeline)
    assert all(torch.equal(tensor, frozen[name.replace(".base_layer", "")]) for name, tensor in base.items())


@pytest.mark.parametrize("script", [FULL, LORA])
def test_all_trainable_weights_get_gradients_and_clipping_clips(
    script, tiny_pipeline, tiny_images, tmp_path, monkeypatch
):
    seen = []

    def watch(optimizer, closure=None):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        assert all(g is not None for g in gradients)
        seen.append((torch.stack([g.norm() for g in gradients]).norm().item(), [bool(g.any()) for g in gradients]))

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    run(script, tiny_pipeline, tiny_images, tmp_path / "free", "--max_grad_norm 1e9")
    free = [norm for norm, _ in seen]
    if script == FULL:
        assert all(all(some) for _, some in seen)
    else:  # with B = 0 at the start, only B has a gradient until it moves
        assert all(sum(some) * 2 == len(some) for _, some in seen)
    seen.clear()
    bound = min(free) / 2
    run(script, tiny_pipeline, tiny_images, tmp_path / "clipped", f"--max_grad_norm {bound}")
    clipped = [norm for norm, _ in seen]
    assert clipped == pytest.approx([bound] * len(clipped), rel=1e-3)


def test_the_run_folder_is_as_documented(tiny_pipeline, tiny_images, tmp_path):
    flags = (
        "--use_ema --checkpointing_steps 2 --checkpoints_total_limit 1 --validation_prompts a b --validation_steps 2"
    )
    folder = run(FULL, tiny_pipeline, tiny_images, tmp_path, flags)
    StableDiffusionPipeline.from_pretrained(folder)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"]
    for part in ("unet", "unet_ema"):
        UNet2DConditionModel.from_pretrained(folder / "checkpoint-4" / part)
    averaged = load_file(folder / "checkpoint-4" / "unet_ema" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(weight, unet(folder)[name]) for name, weight in averaged.items())
    assert not all(torch.equal(weight, averaged[name]) for name, weight in unet(folder / "checkpoint-4").items())
    assert sorted(str(p.relative_to(folder / "validation")) for p in folder.glob("validation/*/*.png")) == [
        f"step-{step}/{i}.png" for step in (2, 4) for i in (0, 1)
    ]
    assert {"flags", "seed", "libraries"} <= json.loads((folder / "run_config.json").read_text()).keys()
    assert (folder / "knowledge_bank" / "manifest.json").is_file()
    fields = {"step", "samples_seen", "loss", "loss_reconsolidation", "loss_retention", "lr", "images_per_second"}
    assert all(fields <= line.keys() for line in log(folder))
    assert [line["step"] for line in log(folder)] == [1, 2, 3, 4]
    assert log(folder)[-1]["samples_seen"] == 16
    assert len(log(folder)[-1]["loss_retention_by_level"]) == 10
    assert list(folder.glob("**/*.bin")) + list(folder.glob("**/*.pt")) + list(folder.glob("**/*.pkl")) == []


@pytest.mark.parametrize("script", [FULL, LORA])
def test_distillation_holds_source_rows_to_the_pretrained_model(script, tiny_pipeline, tiny_images, tmp_path):
    """Before the first step, the model is the pretrained one, so its retention loss against itself is 0."""
    folder = run(script, tiny_pipeline, tiny_images, tmp_path, "--retention_target pretrained --train_batch_size 10")
    retention = [line["loss_retention"] for line in log(folder)]
    assert retention[0] == pytest.approx(0, abs=1e-9)
    assert all(0 < loss < 0.5 for loss in retention[1:])


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_another_prediction_type_is_saved_with_the_result(prediction_type, tiny_pipeline, tiny_images, tmp_path):
    folder = run(FULL, tiny_pipeline, tiny_images, tmp_path, f"--prediction_type {prediction_type}")
    assert StableDiffusionPipeline.from_pretrained(folder).scheduler.config.prediction_type == prediction_type


def test_the_moving_average_starts_from_the_pipeline_s_own_weights(tiny_pipeline):
    """As upstream's does, also when --non_ema_revision gives other weights to train on from."""
    backbone = load_backbone(tiny_pipeline)
    others = backbone.load_denoiser()
    for parameter in others.parameters():
        parameter.data.zero_()
    average = FullDenoiser(backbone, others, use_ema=True).ema.shadow_params
    for tensor, expected in zip(average, backbone.load_denoiser().parameters(), strict=True):
        assert torch.equal(tensor, expected)
