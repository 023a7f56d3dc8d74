# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of `test_flags_effect.py` about measuring while a run trains."""

import torch
from safetensors.torch import save_file

from diffusers_difftune.evaluation.sample_quality import Measurement
from tests.flag_lab import CLASS, FULL, LORA, Lab, Result, row
from tests.tiny import save_tiny_conditions
from tests.tiny_features import save_clip, save_projection_of_efficientnet


@row(
    *("evaluation_data", "evaluation_steps", "evaluation_samples", "evaluation_features"),
    *("evaluation_guidance_scale", "evaluation_inference_steps"),
    scripts=(FULL, LORA, CLASS),
)
def held_out_images(lab: Lab) -> None:
    def figures(result: Result) -> dict[int, dict[str, float]]:
        return {line["step"]: line["quality"] for line in result.log if "quality" in line}

    assert not figures(lab.plain)
    held_out = save_tiny_conditions(lab.tmp_path / "held-out", 9)
    three = save_projection_of_efficientnet(lab.tmp_path / "three.safetensors")
    two = save_projection_of_efficientnet(lab.tmp_path / "two.safetensors", 2)
    given = {
        "evaluation_data": held_out,
        "evaluation_samples": 8,
        "evaluation_features": three,
        "evaluation_inference_steps": 2,
    }
    measured = lab.spy(Measurement, "measure")
    found = lab.run(**given, evaluation_steps=3, max_train_steps=4)
    assert [*figures(found)] == [0, 3, 4], "before the first step, when it is due, and at the end"
    assert len(measured) == 3 and len(measured[0][0][2]) == 8
    for at_step in figures(found).values():
        assert (at_step["num_real"], at_step["num_generated"], at_step["num_features"]) == (8, 8, 3)
        assert {"fid", "kid", "precision", "recall", "fid_floor", "kid_floor", "num_floor"} <= at_step.keys()
    assert figures(found)[0] != figures(found)[4]
    by_default = lab.run(**given, checkpointing_steps=1)
    assert [*figures(by_default)] == [0, 1, 2], "when checkpoints are due"
    assert by_default.moved(lab.plain) == 0, "measuring changes nothing"
    changes = {
        "evaluation_samples": 9,
        "evaluation_features": two,
        "evaluation_guidance_scale": 1.0,
        "evaluation_inference_steps": 3,
    }
    for flag, value in changes.items():
        other = lab.run(**given | {flag: value}, max_train_steps=1)
        assert figures(other)[0] != figures(found)[0], flag
    save_file({"mean": torch.zeros(2)}, lab.tmp_path / "none.safetensors")
    assert "--evaluation_features: the features " in lab.refused(
        **given | {"evaluation_features": lab.tmp_path / "none.safetensors"}
    )
    assert "--evaluation_samples is 10; give more rows" in lab.refused(**given | {"evaluation_samples": 10})


@row("evaluation_clip_model", scripts=(FULL, LORA))
def clip_score(lab: Lab) -> None:
    given = {
        "evaluation_data": save_tiny_conditions(lab.tmp_path / "held-out", 9),
        "evaluation_samples": 8,
        "evaluation_features": save_projection_of_efficientnet(lab.tmp_path / "three.safetensors"),
        "evaluation_inference_steps": 2,
        "max_train_steps": 1,
    }
    plain = lab.run(**given)
    found = [lab.run(**given, evaluation_clip_model=save_clip(lab.tmp_path / f"clip{n}", n)) for n in range(2)]
    measured = [[line["quality"] for line in result.log if "quality" in line] for result in (plain, *found)]
    for without, one, other in zip(*measured, strict=True):
        assert one["clip_score"] != other["clip_score"] and one["clip_score_real"] != other["clip_score_real"]
        assert 0 <= one["clip_score"] <= 100 and without["fid"] == one["fid"] and "clip_score" not in without
    assert found[0].moved(plain) == 0, "measuring changes nothing"
