# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of the scripts with every kind of adapter: with Diff-Tuning, with distillation, resumed."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline, StableDiffusionPipeline
from safetensors.torch import load_file

from diffusers_difftune import load_adapter
from diffusers_difftune.adapters import AdapterSettings
from diffusers_difftune.adapters.files import LORA_FILE, TENSOR_FILE
from diffusers_difftune.adapters.settings import KINDS
from diffusers_difftune.training.adapter import warn_of_small_scale
from tests.tiny import save_tiny_classes
from tests.training.runs import FULL, LORA, log, losses, run

from .subjects import Subject


DIT = "train_class_conditional_difftune"
CONTROL = "train_controlnet_difftune"
ADAPTERS = {kind: f"--adapter {kind}" for kind in KINDS} | {
    "parameters": "--train_parameters *.attn1.* *.norm?.weight"
}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path, tiny_images: Path) -> Path:
    flags = "--max_train_steps 1 --bank_samples 6"
    return run(FULL, tiny_pipeline, tiny_images, tmp_path_factory.mktemp("bank"), flags) / "knowledge_bank"


@pytest.mark.parametrize("kind", ADAPTERS)
def test_it_composes_with_both_losses_and_with_distillation_and_goes_on_bit_for_bit(
    kind: str, bank: Path, tiny_pipeline: Path, tiny_images: Path, tmp_path: Path
) -> None:
    flags = f"--knowledge_bank {bank} --source_share 0.5 {ADAPTERS[kind]} --retention_target pretrained"
    flags += " --max_train_steps 3 --checkpointing_steps 2 --learning_rate 1e-2"
    if kind in ("lora", "dora"):
        flags += " --lora_dropout 0.1"
    whole = run(FULL, tiny_pipeline, tiny_images, tmp_path / "whole", flags)
    lines = log(whole)
    if "dropout" not in flags:
        # the untrained adapter is the pretrained model, so it is held to itself
        assert lines[0]["loss_retention"] == pytest.approx(0, abs=1e-9)
    assert all(line["loss_reconsolidation"] > 0 for line in lines) and all(
        0 < x["loss_retention"] < 1 for x in lines[1:]
    )

    file = LORA_FILE if kind in ("lora", "dora") else TENSOR_FILE
    assert not (whole / "unet").exists() and not (whole / "model_index.json").exists()
    assert (whole / file).stat().st_size < (tiny_pipeline / "unet/diffusion_pytorch_model.safetensors").stat().st_size

    resumed = tmp_path / "resumed"
    run(FULL, tiny_pipeline, tiny_images, resumed, f"{flags} --resume_from_checkpoint {whole / 'checkpoint-2'}")
    assert losses(resumed) == losses(whole)[2:]
    expected, found = load_file(whole / file), load_file(resumed / file)
    assert expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["dora", "oft", "difffit", "bitfit"])
def test_it_trains_and_samples_in_half_precision(
    kind: str, bank: Path, tiny_pipeline: Path, tiny_images: Path, tmp_path: Path
) -> None:
    flags = f"--knowledge_bank {bank} --source_share 0.5 --max_train_steps 2 --mixed_precision bf16 --adapter {kind}"
    flags += " --retention_target pretrained --validation_prompts red"
    folder = run(FULL, tiny_pipeline, tiny_images, tmp_path, flags)
    file = LORA_FILE if kind == "dora" else TENSOR_FILE
    assert {tensor.dtype for tensor in load_file(folder / file).values()} == {torch.float32}
    assert (folder / "validation/step-2/0.png").is_file()
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None, dtype=torch.bfloat16)
    load_adapter(pipeline, folder)
    assert {parameter.dtype for parameter in pipeline.unet.parameters()} == {torch.bfloat16}
    pipeline("red", height=16, width=16, num_inference_steps=2)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_new_classes_travel_with_the_adapter(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    images = save_tiny_classes(tmp_path / "classes")
    # the norms of a DiT have no weights of their own
    flags = ADAPTERS[kind].replace("*.norm?.weight", "*.norm?.linear.weight")
    run(DIT, folders["transformer"], images, tmp_path / "run", f"{flags} --checkpointing_steps 2")
    flags += f" --resume_from_checkpoint {tmp_path / 'run' / 'checkpoint-2'}"
    run(DIT, folders["transformer"], images, tmp_path / "again", flags)
    assert losses(tmp_path / "again") == losses(tmp_path / "run")[2:]
    first, second = (load_file(tmp_path / name / TENSOR_FILE) for name in ("run", "again"))
    assert first.keys() == second.keys() and all(torch.equal(second[name], first[name]) for name in first)
    (rows,) = {tuple(tensor.tolist()) for name, tensor in first.items() if name.endswith(".rows")}
    assert set(rows) <= {0, 1, 2, 1000} and {0, 1, 2} <= set(rows)

    pipeline = DiTPipeline.from_pretrained(folders["transformer"])
    load_adapter(pipeline, tmp_path / "run")
    assert pipeline.labels == {"ash": 0, "elm": 1, "oak": 2}
    given = {"num_inference_steps": 2, "output_type": "np"}
    image = pipeline(pipeline.get_label_ids(["oak"]), generator=torch.Generator().manual_seed(0), **given).images
    assert np.isfinite(image).all()


# The other three are in tests/training/test_controlnet.py.
@pytest.mark.parametrize("kind", [kind for kind in ADAPTERS if kind not in ("lora", "difffit", "boft")])
def test_the_adapter_of_a_controlnet_goes_on_bit_for_bit(
    kind: str, bank: Path, tiny_pipeline: Path, tiny_conditions: Path, tmp_path: Path
) -> None:
    flags = f"--knowledge_bank {bank} {ADAPTERS[kind]} --max_train_steps 3 --checkpointing_steps 2"
    whole = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "whole", flags)
    flags += f" --resume_from_checkpoint {whole / 'checkpoint-2'}"
    resumed = run(CONTROL, tiny_pipeline, tiny_conditions, tmp_path / "resumed", flags)
    assert losses(resumed) == losses(whole)[2:]
    expected, found = load_file(whole / TENSOR_FILE), load_file(resumed / TENSOR_FILE)
    assert expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


MIXED = "--lora_target_modules to_q to_k to_v to_out.0 proj_in proj_out conv1 --rank 2 --lora_alpha 6"


# That of a DiT is run in tests/test_class_card.py.
@pytest.mark.parametrize(
    ("script", "flags", "loads"),
    [
        (LORA, f"{MIXED} --prediction_type v_prediction", "pipeline.load_lora_weights("),
        (LORA, f"{MIXED} --adapter dora", "pipeline.load_lora_weights("),
        (FULL, "--adapter lokr --rank 2", "load_adapter(pipeline, "),
        (CONTROL, "--adapter lokr --rank 2", "load_adapter(pipeline, "),
        (FULL, "", "DiffusionPipeline.from_pretrained("),
        (CONTROL, "", "ControlNetModel.from_pretrained("),
    ],
    ids=["LoRA", "DoRA", "LoKr", "LoKr of a ControlNet", "whole model", "whole ControlNet"],
)
def test_the_code_on_the_model_card_makes_an_image(
    script: str,
    flags: str,
    loads: str,
    bank: Path,
    tiny_pipeline: Path,
    tiny_conditions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And loads all that was trained: its pipeline predicts what that of the run does."""
    shown = "--validation_prompts red"
    if script == CONTROL:
        condition = tiny_conditions / "condition-00.png"
        shown = f"--validation_prompt red --validation_image {condition} --num_validation_images 1"
    elif script == LORA:
        shown = "--validation_prompt red --num_validation_images 1"
    flags = f"--knowledge_bank {bank} {flags} --max_train_steps 2 --learning_rate 1e-2 {shown}"
    folder = run(script, tiny_pipeline, tiny_conditions, tmp_path / "run", flags)
    card = (folder / "README.md").read_text()
    if "lokr" in flags:
        assert "LoKr weights" in card and "| adapter | lokr |" in card
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    code = code.replace("path/to/this/folder", str(folder))
    code = code.replace(f"path/to/{tiny_pipeline.name}", str(tiny_pipeline))
    code = code.replace("width=16)", "width=16, num_inference_steps=2)")
    assert f'{loads}"{folder}"' in code
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert (tmp_path / "image.png").is_file()
    if script == LORA:
        expected = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
        load_adapter(expected, folder)
        subject = Subject("unet", tiny_pipeline)
        with torch.no_grad():
            assert torch.equal(subject.outputs(names["pipeline"].unet), subject.outputs(expected.unet))
        prediction_type = names["pipeline"].scheduler.config.prediction_type
        assert prediction_type == expected.scheduler.config.prediction_type
        assert prediction_type == ("v_prediction" if "v_prediction" in flags else "epsilon")
    if str(tiny_pipeline) in code:  # transformers loads a text encoder as it is stored, diffusers the rest in float32
        StableDiffusionPipeline.from_pretrained(tiny_pipeline).to(torch.float16).save_pretrained(tmp_path / "half")
        (tmp_path / "image.png").unlink()
        exec(code.replace(str(tiny_pipeline), str(tmp_path / "half")), {})
        assert (tmp_path / "image.png").is_file()


@pytest.mark.parametrize(
    ("kind", "rank", "alpha", "said"),
    [
        ("lokr", 100_000, 1.0, "alpha / rank = 1e-05"),
        ("lokr", 10_000, 1.0, "alpha / rank = 0.0001"),
        ("lora", 128, 1.0, "alpha / rank = 0.0078"),
        ("dora", 4, 0.001, "alpha / rank = 0.00025"),
        ("loha", 1_000, 9.0, "alpha / rank = 0.009"),
        ("lokr", 100_000, None, None),
        ("lora", 64, 1.0, None),
        ("lora", 100, 1.0, None),
        ("lora", 4, 32.0, None),
        ("oft", 256, None, None),
    ],
)
def test_a_scale_that_leaves_no_effect_is_told(
    kind: str, rank: int, alpha: float | None, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_small_scale(AdapterSettings(kind, rank=rank, alpha=alpha))
    found = [record.getMessage() for record in caplog.records]
    if said is None:
        assert not found
        return
    (sentence,) = found
    assert f"--rank {rank} --lora_alpha {alpha:g}: what a {kind} adds is multiplied by {said}" in sentence
    assert "leave --lora_alpha out for a scale of 1" in sentence


@pytest.mark.parametrize("script", [LORA, CONTROL])
def test_a_run_tells_of_such_a_scale_once(
    script: str,
    bank: Path,
    tiny_pipeline: Path,
    tiny_conditions: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    flags = f"--knowledge_bank {bank} --adapter lokr --rank 100000 --lora_alpha 1 --max_train_steps 1"
    run(script, tiny_pipeline, tiny_conditions, tmp_path, flags)
    told = [record for record in caplog.records if "alpha / rank" in record.getMessage()]
    assert len(told) == 1 and told[0].levelname == "WARNING"
