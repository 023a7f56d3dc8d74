# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The moving average of full fine-tuning: diffusers' ramp, and the reference's constant decay from the first step."""

import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file

from diffusers_difftune.trainables.full import moving_average
from tests.training.runs import FULL, arguments, load_script, run


CONSTANT = "--use_ema --ema_decay 0.5 --ema_warmup none"
FLAGS = "--max_train_steps 3 --checkpointing_steps 1 --objective standard"
WEIGHTS = "diffusion_pytorch_model.safetensors"
METHOD = Path(__file__).parents[2] / "docs/method.md"


def walk(steps: int) -> list[torch.Tensor]:
    """The pretrained weights, and those after each step."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(steps + 1, 5, generator=generator, dtype=torch.float64))


def averaged(weights: list[torch.Tensor], average: EMAModel) -> torch.Tensor:
    for each in weights[1:]:
        average.step([torch.nn.Parameter(each)])
    return average.shadow_params[0]


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999])
def test_a_constant_decay_is_the_closed_form(decay: float, foreach: bool) -> None:
    weights = walk(50)
    found = averaged(weights, moving_average([torch.nn.Parameter(weights[0])], decay, "none", foreach=foreach))
    count = len(weights) - 1
    expected = decay**count * weights[0]
    expected = expected + sum((1 - decay) * decay ** (count - k) * weights[k] for k in range(1, count + 1))
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def share(steps: int, decay: float, warmup: str) -> float:
    """What is left of the pretrained weights: they are one, and those after every step zero."""
    average = moving_average([torch.nn.Parameter(torch.ones(1, dtype=torch.float64))], decay, warmup)
    nothing = [torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))]
    for _ in range(steps):
        average.step(nothing)
    return average.shadow_params[0].item()


def test_what_is_left_of_the_pretrained_weights() -> None:
    assert math.isclose(share(1000, 0.9999, "none"), 0.9999**1000, rel_tol=1e-9)
    assert math.isclose(share(7, 0.25, "none"), 0.25**7, rel_tol=1e-9)
    assert [share(steps, 0.9999, "ramp") for steps in (1, 2, 1000)] == [0.0, 0.0, 0.0]


def test_the_ramp_is_diffusers_own_bit_for_bit() -> None:
    weights = walk(200)
    for decay in (0.9999, 0.5):
        own = averaged(weights, EMAModel([torch.nn.Parameter(weights[0])], decay=decay))
        assert torch.equal(averaged(weights, moving_average([torch.nn.Parameter(weights[0])], decay)), own)
    default = averaged(weights, EMAModel([torch.nn.Parameter(weights[0])]))  # as diffusers' scripts make it
    assert torch.equal(averaged(weights, moving_average([torch.nn.Parameter(weights[0])])), default)


def test_the_document_has_these_numbers() -> None:
    text = METHOD.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+) % \| 0 \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    assert [int(row[0].replace(",", "")) for row in rows] == [1000, 24000]
    for steps, remembered, constant, ramp in rows:
        count = int(steps.replace(",", ""))
        assert remembered == f"{100 * 0.9999**count:.1f}"
        assert constant == f"{age([0.9999] * count):,.0f}"
        assert ramp == f"{age([0.0] + [min(k / (9 + k), 0.9999) for k in range(2, count + 1)]):,.0f}"


def age(decays: list[float]) -> float:
    """How many steps back the average is, on average; the pretrained weights are as many steps back as there were."""
    back = 0.0
    for decay in decays:
        back = decay * (back + 1)
    return back


# In a run


@pytest.fixture(scope="module")
def finished(tiny_pipeline: Path, tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(FULL, tiny_pipeline, tiny_images, tmp_path_factory.mktemp("constant"), f"{FLAGS} {CONSTANT}")


def test_a_run_saves_the_average(finished: Path, tiny_pipeline: Path) -> None:
    steps = [tiny_pipeline, *(finished / f"checkpoint-{step}" for step in (1, 2, 3))]
    pretrained, *trained = [load_file(folder / "unet" / WEIGHTS) for folder in steps]
    result = load_file(finished / "unet" / WEIGHTS)
    for name, weight in result.items():
        first, second, third = (weights[name] for weights in trained)
        expected = pretrained[name] / 8 + first / 8 + second / 4 + third / 2
        assert torch.allclose(weight, expected, rtol=0, atol=1e-6), name
    assert any(not torch.equal(weight, trained[-1][name]) for name, weight in result.items())


def resumed(finished: Path, folder: Path, step: int = 1) -> Path:
    """A run that was stopped after a step."""
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "unet")
    for later in range(step + 1, 4):
        shutil.rmtree(folder / f"checkpoint-{later}")
    return folder


def test_resumed_it_ends_bit_for_bit_the_same(
    finished: Path, tiny_pipeline: Path, tiny_images: Path, tmp_path: Path
) -> None:
    folder = resumed(finished, tmp_path / "run")
    run(FULL, tiny_pipeline, tiny_images, folder, f"{FLAGS} {CONSTANT} --resume_from_checkpoint latest")
    for place in ("unet", "checkpoint-3/unet_ema"):
        assert (folder / place / WEIGHTS).read_bytes() == (finished / place / WEIGHTS).read_bytes()


def refused(pipeline: Path, images: Path, folder: Path, flags: str, capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as caught:
        load_script(FULL).main(arguments(pipeline, images, folder, f"{FLAGS} --resume_from_checkpoint latest {flags}"))
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_it_goes_on_as_it_began(
    finished: Path, tiny_pipeline: Path, tiny_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = resumed(finished, tmp_path / "run")
    message = refused(tiny_pipeline, tiny_images, folder, "--use_ema --ema_decay 0.9 --ema_warmup none", capsys)
    assert "belongs to another run: --ema_decay was 0.5 and is 0.9" in message
    message = refused(tiny_pipeline, tiny_images, folder, "--use_ema --ema_decay 0.5", capsys)
    assert "belongs to another run: --ema_warmup was none and is ramp" in message
