# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`make demo` from end to end, with a tiny pipeline and too few steps to learn anything."""

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from PIL import Image

from diffusers_difftune.evaluation.forgetting import LossByLevel


ICONS = Path(__file__).parents[1] / "examples" / "icons"


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(ICONS)
    import demo

    return demo


@pytest.mark.slow
def test_demo_writes_what_it_promises(demo, tiny_pipeline, tmp_path, capsys):
    demo.main(["--quick", "--target", "flat-color-icons", "--pipeline", str(tiny_pipeline), "--output", str(tmp_path)])

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["settings"]["steps"] == demo.QUICK["steps"]
    for method in ("standard", "difftune"):
        figures = summary[method]
        for name in ("images_per_second", "fid_target", "kid_target", "fid_floor", "kid_floor", "forgetting_source"):
            assert math.isfinite(figures[name]), name
        assert figures["num_generated"] == figures["num_real"] == demo.QUICK["images"] > 0
        assert figures["feature_set"] and figures["sampling_steps"] and figures["guidance_scale"]
        log = [json.loads(line) for line in (tmp_path / method / "training_log.jsonl").read_text().splitlines()]
        assert [line["samples_seen"] for line in log] == [4, 8, 12, 16]  # equal budgets
        assert any(line["loss_retention"] for line in log) == (method == "difftune")
        DiffusionPipeline.from_pretrained(tmp_path / method)
    assert summary["pretrained"]["forgetting_source"] == 0
    assert summary["standard"]["forgetting_source"] != summary["difftune"]["forgetting_source"]
    for name in ("forgetting_source", "loss_change_target"):
        difference = summary["difftune"][name] - summary["standard"][name]
        assert summary["difference"][name] == pytest.approx(difference)
        assert summary["difference"][f"{name}_standard_error"] > 0
    for name in ("samples.png", "forgetting.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 1200 and picture.height > 800

    printed = capsys.readouterr().out.strip().splitlines()
    explanation = printed[-5:]
    assert [line.split(":")[0].strip() for line in explanation][::2] == ["Learned", "Forgotten", "Details"]
    assert "samples.png" in explanation[1] and "summary.json" in explanation[4]


def test_samples_do_not_depend_on_the_batch(demo, tiny_pipeline):
    prompts = ["a red square", "a blue bar", "a green cross"]
    together, apart = (
        demo.sample_images(demo.load_pipeline(tiny_pipeline), prompts, steps=2, guidance_scale=2.0, batch_size=size)
        for size in (3, 2)
    )
    assert together.dtype == torch.uint8 and together.shape == (3, 3, 32, 32)
    assert (together.int() - apart.int()).abs().max() <= 1


@pytest.mark.slow
def test_the_controlnet_demo_writes_what_it_promises(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(ICONS)
    import demo_controlnet

    demo_controlnet.main(["--quick", "--output", str(tmp_path / "out")])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    for method in ("standard", "difftune"):
        assert list(summary[method]["condition_error"]) == ["0", "2", "4"]
        assert all(math.isfinite(errors["mse"]) for errors in summary[method]["condition_error"].values())
        ControlNetModel.from_pretrained(tmp_path / "out" / method)
    assert Image.open(tmp_path / "out" / "samples.png").height > 1000, "six rows"
    assert "Obeying" in capsys.readouterr().out


def test_plot_is_a_picture_as_wide_as_a_readme(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ICONS)
    from forgetting_plot import plot_forgetting

    def curve(*rows):
        levels = torch.linspace(0.1, 0.9, len(rows))
        return LossByLevel(torch.arange(len(rows)), levels, torch.tensor(rows, dtype=torch.float64)[:, None])

    panel = {"pretrained": curve(1.0, 0.5, 0.25), "standard": curve(1.5, 0.6, 0.2), "difftune": curve(1.1, 0.5, 0.2)}
    plot_forgetting({"target": panel, "source": panel}, tmp_path / "forgetting.png")
    with Image.open(tmp_path / "forgetting.png") as picture:
        assert picture.width > 1200 and len(picture.convert("RGB").getcolors(2**20)) > 20
