# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The summary in words and the picture, from figures that were made up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusers_difftune.evaluation.forgetting_plot import plot_chain
from diffusers_difftune.evaluation.forgetting_summary import summary


LEVELS = (np.arange(20) + 0.5) / 20
PERCENTS = [float(percent) for percent in range(0, 101, 10)]


def losses(change: np.ndarray, error: float = 0.01) -> dict[str, Any]:
    """Of 128 rows, at 20 levels."""
    thirds = {
        name: {"mean_change": float(part.mean()), "mean_change_standard_error": error}
        for name, part in zip(("near_data", "middle", "near_noise"), np.split(change, [7, 13]), strict=True)
    }
    return {
        "num_rows": 128,
        "mean_change": float(change.mean()),
        "mean_change_standard_error": error,
        "thirds": thirds,
        "noise_level": LEVELS.tolist(),
        "change": change.tolist(),
        "change_standard_error": [error] * 20,
    }


def curve(farther: dict[str, Any], fid: bool = True) -> dict[str, Any]:
    """A swap curve: for both ends, by x, by how many standard errors the KID is larger than that of the fine-tuned."""
    points = []
    for end, differences in farther.items():
        for percent in PERCENTS:
            difference = differences(percent)
            figures = {"fid": 170 + 2 * difference if fid else None, "kid": 20 + difference}
            points.append(
                {
                    "end": end,
                    "percent": percent,
                    "target": figures,
                    "source": figures,
                    "kid_difference": difference,
                    "kid_difference_standard_error": 1.0 if percent else 0.0,
                }
            )
    floor = {"fid": 74.0 if fid else None, "kid": 0.1}
    return {"steps": 20, "target_floor": floor, "source_floor": floor, "points": points}


def report(**changes: Any) -> dict[str, Any]:
    """A fine-tuning that forgot near the data, learned near the noise, and whose swap holds up to x = 40."""
    block = {"l2": 2.0, "relative_l2": 0.02, "ewc": 0.001, "ewc_standard_error": 1e-4, "num_changed": 50}
    return {
        "settings": {"kind": "full", "source_kind": "bank"},
        "losses": {"source": losses(0.2 * (1 - LEVELS)), "target": losses(-0.3 * LEVELS)},
        "swap": curve({"data": lambda x: (x - 40) / 5 if x > 40 else 0.0, "noise": lambda x: 12.0 if x else 0.0}),
        "distance": {
            "total": block | {"l2": 3.0, "ewc": 0.004, "relative_l2": 0.021},
            "num_trained": 1234567,
            "per_trained_parameter": {"rms": 1e-3, "ewc": 1e-9},
            "blocks": {"conv_in": block, "mid_block": block | {"ewc": 0.003, "relative_l2": 0.05}},
        },
    } | changes


def words(report: dict[str, Any]) -> list[str]:
    """The summary, a line for each text."""
    return [f"{name}: {text}" for name, text in summary(report).items()]


def test_a_chain_of_forgetting_in_five_lines() -> None:
    forgotten, learned, swap, control, distance = words(report())
    assert forgotten.startswith(
        "Forgotten: on 128 samples of the pretrained model the denoising loss rose by 10.0 ± 1.0 %"
    )
    assert "near the data +16.5 ± 1.0 %" in forgotten and "near the noise +3.5 ± 1.0 %" in forgotten
    assert learned.startswith("Learned: on 128 target images the denoising loss fell by 15.0 ± 1.0 %")
    assert "FID to the target is 170 at x = 0 and 194 at x = 100; real images among themselves have 74." in swap
    # x = 50 is at two errors exactly
    assert "By KID it is clearly farther from the target at x = 60, 70, 80, 90, 100." in swap
    assert (
        "FID at x = 10 is 194, where the last 10 % give 170. By KID it is clearly farther from the target at x = 10, "
        in control
    )
    assert "went 3 from the pretrained ones in L2 (2.1 % of their norm; farthest mid_block, 5 %)" in distance
    assert "0.004 ± 0.0001 weighted by the Fisher information (EWC, 75 % of it in mid_block)" in distance
    assert "per trained parameter (1,234,567)" in distance


def swap_line(data: Any, **options: Any) -> str:
    return words(report(swap=curve({"data": data, "noise": lambda x: 0.0}, **options)))[2]


@pytest.mark.parametrize("data, said", [
    (lambda x: -3.0 if 0 < x <= 30 else 5.0 if x > 60 else 0.0, "By KID it is clearly farther from the target at x = 70, 80, 90, 100,"
        " and clearly nearer to the target at x = 10, 20, 30."),
    (lambda x: -3.0 if 0 < x <= 30 else 5.0 if x > 60 else 0.0, "164 at best (x = 10)"),
    (lambda x: 5.0 if x in (30, 100) else 0.0, "By KID it is clearly farther from the target at x = 30, 100."),
    (lambda x: 1.0 if x else 0.0, "By KID no x is clearly nearer or farther than the fine-tuned model"),
    (lambda x: -5.0 if x == 30 else 0.0, "By KID it is clearly nearer to the target at x = 30."),
])  # fmt: skip
def test_what_the_swap_curve_says(data: Any, said: str) -> None:
    assert said in swap_line(data)


def test_without_enough_images_for_a_fid_the_curve_is_of_kid() -> None:
    assert "KID to the target is 20 at x = 0 and 25 at x = 100" in swap_line(lambda x: x / 20, fid=False)


def test_what_both_curves_say_is_said_once() -> None:
    level = words(report(swap=curve({"data": lambda x: 0.0, "noise": lambda x: x / 1000})))
    assert "By KID no x is clearly nearer or farther than the fine-tuned model, the pretrained" in level[2]
    assert level[3].endswith("give 170. By KID the same holds.")


def test_no_effect_is_said_to_be_none() -> None:
    unclear = report(losses={"source": losses(0.016 * (1 - LEVELS)), "target": losses(np.zeros(20), error=0.0)})
    assert "did not clearly change (+0.8 ± 1.0 % on average over the noise levels)" in words(unclear)[0]
    assert "the same, to the last digit: this is the pretrained model" in words(unclear)[1]
    still = {"l2": 0.0, "relative_l2": 0.0, "ewc": 0.0, "ewc_standard_error": 0.0, "num_changed": 0}
    distance = {"total": still, "num_trained": 0, "per_trained_parameter": {"rms": 0.0, "ewc": 0.0}, "blocks": {}}
    assert words(report(distance=distance))[4] == "Distance: not one weight differs from the pretrained model's."


def test_a_controlnet_is_measured_bare_on_source_data() -> None:
    lines = words(report(settings={"kind": "controlnet", "source_kind": "images"}))
    assert "on 128 source images under a blank control image" in lines[0]
    assert "on 128 target images under their control images" in lines[1]
    assert "the ControlNet's copy of the denoiser went 3" in lines[4]


@pytest.mark.parametrize("fid", [True, False])
def test_the_picture(fid: bool, tmp_path: Path) -> None:
    drawn = report(swap=curve({"data": lambda x: x / 10, "noise": lambda x: x / 5}, fid=fid))
    # more blocks than there is room for: the lightest are left out
    block = drawn["distance"]["blocks"]["conv_in"]
    drawn["distance"]["blocks"] |= {f"transformer_blocks.{i}": block | {"ewc": i * 1e-5} for i in range(28)}
    plot_chain(drawn, tmp_path / "chain.png")
    with Image.open(tmp_path / "chain.png") as picture:
        assert picture.width > 1200 and picture.height > 900
        assert len(picture.convert("RGB").getcolors(2**20)) > 20
