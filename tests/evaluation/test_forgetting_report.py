# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of a chain report, on real tiny models."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.finetuned import open_finetuned
from diffusers_difftune.evaluation.forgetting import LossByLevel
from diffusers_difftune.evaluation.forgetting_report import (
    Rows,
    conditions,
    distance_report,
    encode_rows,
    loss_report,
    measure_losses,
)
from diffusers_difftune.objective import DiffTuningObjective
from tests.evaluation.models import save_adapter, save_controlnet


CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a red square", "a blue bar", ""]


def opened(pretrained: Path, folder: Path):
    backbone = load_backbone(pretrained)
    backbone.load_encoders(CPU, torch.float32)
    finetuned = open_finetuned(backbone, str(folder))
    finetuned.load(CPU)
    return backbone, finetuned, DiffTuningObjective(backbone.noise_scheduler)


def test_what_was_not_changed_has_not_changed(tiny_pipeline: Path) -> None:
    backbone, same, objective = opened(tiny_pipeline, tiny_pipeline)
    rows = encode_rows(backbone, IMAGES, PROMPTS, batch_size=2)
    report = measure_losses(backbone, same, objective, rows, True, num_levels=4)
    assert report["change"] == [0] * 4 and report["mean_change"] == report["mean_change_standard_error"] == 0
    assert distance_report(backbone, same, objective, rows)["total"]["num_changed"] == 0


def test_distance_of_an_adapter_is_per_parameter_of_the_adapter(tiny_pipeline: Path, tmp_path: Path) -> None:
    backbone, lora, objective = opened(tiny_pipeline, save_adapter(tmp_path / "lora", tiny_pipeline))
    rows = encode_rows(backbone, IMAGES, PROMPTS)
    assert measure_losses(backbone, lora, objective, rows, False, num_levels=3)["mean_change"] != 0
    report = distance_report(backbone, lora, objective, rows)
    total = report["total"]
    assert total["l2"] > 0 and total["ewc"] > total["ewc_standard_error"] > 0
    assert report["num_trained"] == lora.num_trained != total["num_changed"]
    each = report["per_trained_parameter"]
    assert each == pytest.approx({"rms": total["l2"] / lora.num_trained**0.5, "ewc": total["ewc"] / lora.num_trained})
    moved = {name for name, block in report["blocks"].items() if block["num_changed"]}
    assert moved == {"down_blocks.1", "up_blocks.0", "mid_block"}  # where the attention is
    assert report["blocks"]["conv_in"]["ewc"] == 0


def test_a_controlnet_gets_its_control_images_and_source_rows_a_blank_one(tiny_pipeline: Path, tmp_path: Path) -> None:
    backbone, pair, objective = opened(tiny_pipeline, save_controlnet(tmp_path / "controlnet", tiny_pipeline))
    rows = encode_rows(backbone, IMAGES, PROMPTS, controls=IMAGES.flip(0))
    source, _ = conditions(backbone, pair, rows, is_source=True)
    target, bare = conditions(backbone, pair, rows, is_source=False)
    assert source["control"].shape == (3, 3, 16, 16) and not source["control"].any()
    torch.testing.assert_close(target["control"], IMAGES.flip(0) / 255)
    assert "control" not in bare
    losses = [measure_losses(backbone, pair, objective, rows, part, num_levels=3) for part in (True, False)]
    assert losses[0]["pretrained"] == losses[1]["pretrained"]  # the bare model, which sees none
    assert losses[0]["finetuned"] != losses[1]["finetuned"]
    assert distance_report(backbone, pair, objective, rows)["blocks"]["down_blocks.0"]["ewc"] > 0


def test_classes_that_only_one_model_knows() -> None:
    backbone = SimpleNamespace(
        sample_condition=lambda prompts, side: {"class_labels": torch.tensor([int(p or 1000) for p in prompts])}
    )
    rows = Rows(torch.zeros(2, 4, 8, 8), ["3", "7"], 16)

    def labels(knows: bool, is_source: bool) -> list[list[int]]:
        finetuned = SimpleNamespace(kind="full", knows_classes=knows)
        return [given["class_labels"].tolist() for given in conditions(backbone, finetuned, rows, is_source)]

    assert labels(True, True) == labels(True, False) == [[3, 7], [3, 7]]
    assert labels(False, False) == [[3, 7], [1000, 1000]]
    assert labels(False, True) == [[1000, 1000], [1000, 1000]]


def test_thirds_of_the_noise_scale() -> None:
    heights = (torch.arange(20) + 0.5) / 20
    before = LossByLevel(torch.arange(20), heights, torch.ones(20, 5, dtype=torch.float64))
    rise = torch.cat([torch.full((7,), 0.3), torch.full((6,), 0.1), torch.zeros(7)]).double()
    after = LossByLevel(torch.arange(20), heights, before.rows * (1 + rise[:, None]))
    report = loss_report(after, before)
    assert [report["thirds"][name]["mean_change"] for name in ("near_data", "middle", "near_noise")] == pytest.approx(
        [0.3, 0.1, 0]
    )
    assert report["change"] == pytest.approx(rise.tolist()) and report["num_rows"] == 5
    few = LossByLevel(torch.arange(2), torch.tensor([0.1, 0.9]), torch.ones(2, 5, dtype=torch.float64))
    assert loss_report(few, few)["thirds"]["middle"] is None


def test_one_row_is_not_enough() -> None:
    with pytest.raises(DiffTuneError, match="Of 1 rows there is no standard error"):
        measure_losses(None, None, None, Rows(torch.zeros(1, 4, 8, 8), [""], 16), True)
