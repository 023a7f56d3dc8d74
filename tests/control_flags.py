# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of `test_flags_effect.py` for flags that only the ControlNet script has."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from PIL import Image
from transformers import CLIPTokenizer

from diffusers_difftune import controls as conditions
from diffusers_difftune.backbones.stable_diffusion import StableDiffusionControlNet
from diffusers_difftune.training import control_evaluation
from diffusers_difftune.training.controlnet import ControlNetTrainer
from tests.flag_lab import CONTROL, Lab, Result, images, row, same
from tests.tiny import byte_tokenizer, save_tiny_conditions, tiny_condition


ONLY = (CONTROL,)


@row("controlnet_model_name_or_path", scripts=ONLY)
def trains_on_from_a_controlnet(lab: Lab) -> None:
    first = lab.run(learning_rate=1e-2, max_train_steps=3)
    given = {"controlnet_model_name_or_path": first.folder}
    assert lab.run(**given, learning_rate=0.0).moved(first) == 0
    assert not same(lab.run(**given), lab.plain)
    assert "user/nowhere" in lab.refused(controlnet_model_name_or_path="user/nowhere")


@row("tokenizer_name", scripts=ONLY)
def another_tokenizer(lab: Lab) -> None:
    vocab = byte_tokenizer().get_vocab()
    turned = {word: index if index > 511 else 511 - index for word, index in vocab.items()}
    CLIPTokenizer(vocab=turned, merges=[], model_max_length=32).save_pretrained(lab.tmp_path / "turned")
    byte_tokenizer().save_pretrained(lab.tmp_path / "same")
    cached = {"cache_dir": lab.tmp_path / "cache"}
    for again in range(2):  # the second time with what the other tokenizer left in the caches
        assert same(lab.run(**cached, tokenizer_name=lab.tmp_path / "same"), lab.plain), again
        assert not same(lab.run(**cached, tokenizer_name=lab.tmp_path / "turned"), lab.plain), again
        assert same(lab.run(**cached), lab.plain), again
    uncached = lab.run(no_cache=True, tokenizer_name=lab.tmp_path / "turned")
    assert not same(uncached, lab.run(no_cache=True))
    assert "--tokenizer_name user/nowhere" in lab.refused(tokenizer_name="user/nowhere")

    # a bank is sampled with the tokenizer that its prompts are trained with
    plain = lab.tuned()
    assert same(lab.tuned(tokenizer_name=lab.tmp_path / "same"), plain)
    shared = {"objective": "difftune", "knowledge_bank": lab.room.bank, "tokenizer_name": lab.tmp_path / "turned"}
    assert "/turned reads prompts otherwise than the pipeline's own tokenizer" in lab.refused(**shared)
    building = {"objective": "difftune", "bank_samples": 4, "bank_steps": 2}
    built, alike = (lab.run(**building, tokenizer_name=lab.tmp_path / name) for name in ("turned", "same"))
    banks = [lab.room.bank, alike.folder / "knowledge_bank", built.folder / "knowledge_bank"]
    own_tokenizer, same_reading, turned_samples = ((bank / "data/shard-00000.parquet").read_bytes() for bank in banks)
    assert own_tokenizer == same_reading != turned_samples
    assert same(lab.run(**shared | {"knowledge_bank": banks[-1]}), built)
    assert "or with another tokenizer" in lab.refused(objective="difftune", knowledge_bank=banks[-1])


@row("prediction_type", scripts=ONLY)
def what_the_frozen_denoiser_predicts(lab: Lab) -> None:
    assert same(lab.run(prediction_type="epsilon"), lab.plain)
    assert "--prediction_type is v_prediction" in lab.refused(prediction_type="v_prediction")


@row("lr_num_cycles", "lr_power", scripts=ONLY)
def shapes_of_the_schedule(lab: Lab) -> None:
    given = {"max_train_steps": 4, "lr_warmup_steps": 0}
    once = lab.run(**given, lr_scheduler="cosine_with_restarts").lrs
    assert once == pytest.approx([1e-3, 8.536e-4, 5e-4, 1.464e-4], rel=1e-3)
    twice = lab.run(**given, lr_scheduler="cosine_with_restarts", lr_num_cycles=2).lrs
    assert twice == pytest.approx([1e-3, 5e-4, 1e-3, 5e-4])
    squares = lab.run(**given, lr_scheduler="polynomial", lr_power=2.0).lrs
    assert squares == pytest.approx([1e-3 * (1 - step / 4) ** 2 for step in range(4)], rel=1e-2)


@row("set_grads_to_none", scripts=ONLY)
def freed_gradients(lab: Lab) -> None:
    left, zero_grad = [], AcceleratedOptimizer.zero_grad

    def watch(optimizer: AcceleratedOptimizer, set_to_none: bool | None = None) -> None:
        zero_grad(optimizer, set_to_none)
        left.append({p.grad is None for group in optimizer.param_groups for p in group["params"]})

    lab.monkeypatch.setattr(AcceleratedOptimizer, "zero_grad", watch)
    assert same(lab.run(set_grads_to_none=True), lab.plain) and left == [{True}] * 2
    left.clear()
    lab.run()
    assert left == [{False}] * 2, "zeros"


@row("conditioning_image_column", scripts=ONLY)
def another_column_of_control_images(lab: Lab) -> None:
    folder = save_tiny_conditions(lab.tmp_path / "columns")
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for index, line in enumerate(lines):
        tiny_condition(index + 6).save(folder / f"sketch-{index}.png")
        line |= {"sketch_file_name": f"sketch-{index}.png", "same": line["conditioning_image"]}
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = {"train_data_dir": folder, "max_train_steps": 3}  # so long it takes the control image to reach the output
    first = lab.run(**given)
    assert lab.run(**given, conditioning_image_column="same").moved(first) == 0
    for how in ({}, {"no_cache": True}):
        assert lab.run(**given, **how, conditioning_image_column="sketch").moved(first) > 1e-5
    assert "--conditioning_image_column" in lab.refused(**given, conditioning_image_column="depth")


@row("validation_prompt", "validation_image", "num_validation_images", "validation_steps", scripts=ONLY)
def validation_of_pairs(lab: Lab) -> None:
    assert not images(lab.plain)
    files = [lab.room.images / f"condition-0{i}.png" for i in range(2)]
    given = {"validation_prompt": ["a red square"], "validation_image": files, "max_train_steps": 3}
    result = lab.run(**given, num_validation_images=2, validation_steps=2)
    names = {f"{i}{suffix}.png" for i in range(4) for suffix in ("", "-condition")}
    assert images(result) == {f"step-{step}/{name}" for step in (2, 3) for name in names}
    default = lab.run(**given | {"validation_image": files[:1], "max_train_steps": 2})
    assert images(default) == {f"step-2/{name}" for name in names}, "four, and at the end only: 100 steps by default"

    def seen(result: Result, number: int) -> list[tuple[int, int, int]]:
        return list(Image.open(result.folder / f"validation/step-3/{number}-condition.png").getdata())

    assert [seen(result, i) for i in range(4)] == [list(Image.open(files[i // 2]).getdata()) for i in range(4)]
    wide = lab.tmp_path / "wide.png"
    Image.new("RGB", (48, 24), "white").save(wide)
    one = lab.run(**given | {"validation_image": [wide]}, num_validation_images=1)
    assert seen(one, 0) == [(255, 255, 255)] * 16 * 16, "cropped as those that are trained on"
    assert "--validation_prompt" in lab.refused(validation_prompt=["a"])
    assert "--validation_image" in lab.refused(validation_image=[wide])


# Adapters


@row("adapter", "rank", "lora_alpha", "lora_dropout", "lora_target_modules", "train_parameters", scripts=ONLY)
def an_adapter_on_the_control_branch(lab: Lab) -> None:
    # The matrices' gradients are 0 in the first step, behind zero convolutions.
    given = {"adapter": "lora", "rank": 2, "max_train_steps": 4, "learning_rate": 1e-2}
    lora = lab.run(**given)
    own = {name for name in lora.weights() if not name.startswith(StableDiffusionControlNet.new_layers)}
    assert any(".attn1.to_q.lora_A" in name for name in own) and all(".attn" in name for name in own)
    assert {
        name for name in lab.plain.weights() if name.startswith(StableDiffusionControlNet.new_layers)
    } == lora.weights().keys() - own
    assert not same(lab.run(**given | {"lora_alpha": 40.0}), lora)
    assert not same(lab.run(**given | {"lora_dropout": 0.5}), lora)
    found = lab.run(**given | {"rank": 4, "lora_target_modules": ["ff.net.0.proj"]}).weights()
    shapes = {tuple(t.shape[:1]) for name, t in found.items() if name.endswith("ff.net.0.proj.lora_A.weight")}
    assert shapes == {(4,)} and not any(".attn" in name for name in found)
    scales = lab.run(**given | {"adapter": "difffit", "rank": None}).weights()
    assert any(name.endswith("to_out.0.difffit_scale") for name in scales)
    named = lab.run(**given | {"adapter": None, "rank": None, "train_parameters": ["mid_block.*", "conv_in.bias"]})
    assert {name.split(".")[0] for name in named.weights()} == {
        *StableDiffusionControlNet.new_layers,
        "mid_block",
        "conv_in",
    }
    assert "--lora_target_modules nothing" in lab.refused(**given | {"lora_target_modules": ["nothing"]})
    assert "--lora_alpha needs --adapter" in lab.refused(lora_alpha=2.0)


# Conditions


def source_controls(lab: Lab, **given) -> torch.Tensor:
    """The control images of the source rows of a run of one step, in a batch of four of which three are source rows."""
    calls = lab.spy(ControlNetTrainer, "training_step")
    lab.tuned(source_share=0.75, train_batch_size=4, max_train_steps=1, **given)
    batch = calls[-1][0][1]
    assert batch.is_source.sum() == 3
    return batch.control[batch.is_source]


@row("condition_kind", "condition_model", "retention_condition", scripts=ONLY)
def control_images_of_source_rows(lab: Lab) -> None:
    assert not source_controls(lab).any(), "black"
    drawing = {"condition_model": "drawing"}
    extracted = {"retention_condition": "extracted"}
    found = [source_controls(lab, condition_kind=kind, **extracted) for kind in ("sketch", "edge")]
    kinds = ("depth", "normal", "segmentation")
    found += [source_controls(lab, condition_kind=kind, **drawing, **extracted) for kind in kinds]
    for i, each in enumerate(found):
        assert each.shape == (3, 3, 16, 16) and each.min() >= 0 and each.max() <= 1
        assert not any(torch.equal(each, other) for other in found[:i]), "kinds differ"
    assert not source_controls(lab, condition_kind="sketch").any(), "blank by default"
    assert "--condition_kind" in lab.refused(condition_kind="edge", **drawing)
    assert "--retention_condition" in lab.refused(retention_condition="blank")  # of a run without source rows
    assert "user/nowhere" in lab.refused(
        objective="difftune", condition_kind="depth", condition_model="user/nowhere", **extracted
    )


@row("condition_revision", scripts=ONLY)
def a_branch_of_the_condition_model(lab: Lab) -> None:
    calls = lab.spy(conditions, "make_extractor")
    given = {"objective": "difftune", "condition_kind": "depth", "condition_model": "user/nowhere"}
    given["retention_condition"] = "extracted"
    assert "user/nowhere" in lab.refused(**given, condition_revision="v2")
    assert calls[-1][0] == ("depth", "user/nowhere", "v2")
    assert "--condition_revision needs --condition_kind" in lab.refused(condition_revision="v2")


@row(
    *("control_evaluation_data", "control_evaluation_steps", "control_evaluation_samples"),
    *("control_evaluation_guidance_scale", "control_evaluation_inference_steps"),
    scripts=ONLY,
)
def held_out_control_images(lab: Lab) -> None:
    def errors(result: Result) -> dict[int, float]:
        return {line["step"]: line["condition_error"]["mse"] for line in result.log if "condition_error" in line}

    assert not errors(lab.plain)
    given = {"condition_kind": "sketch", "control_evaluation_data": lab.room.images, "control_evaluation_samples": 3}
    sampled = lab.spy(control_evaluation.ControlEvaluation, "sample")
    found = lab.run(**given, control_evaluation_steps=2, max_train_steps=4)
    assert [*errors(found)] == [0, 2, 4] and len(sampled) == 3
    assert len(sampled[0][0][0].prompts) == 3
    assert all(0 < error < 1 for error in errors(found).values())
    assert found.weights().keys() == lab.plain.weights().keys()
    by_default = lab.run(**given, validation_steps=1)
    assert [*errors(by_default)] == [0, 1, 2], "when validation is due"
    assert by_default.moved(lab.plain) == 0, "measuring changes nothing"
    fewer = lab.run(**given | {"control_evaluation_samples": 2}, max_train_steps=1)
    unguided = lab.run(**given, control_evaluation_guidance_scale=1.0, max_train_steps=1)
    quicker = lab.run(**given, control_evaluation_inference_steps=2, max_train_steps=1)
    start = errors(found)[0]
    assert all(errors(other)[0] != start for other in (fewer, unguided, quicker))
    assert "--control_evaluation_data" in lab.refused(**given | {"control_evaluation_data": Path("nowhere")})
    assert "--control_evaluation_samples is 7" in lab.refused(**given | {"control_evaluation_samples": 7})
