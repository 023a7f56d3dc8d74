# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Convergence on curves whose crossing is known, and what is refused."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from diffusers_difftune.cli import main
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.convergence import (
    Crossing,
    Curve,
    broken_rules,
    condition_error,
    crossing,
    read_curve,
    smooth,
    threshold,
)


def curve(errors, every=10, **facts):
    facts = {"run": "run", "condition": "depth", "objective": "standard", "seed": 1, "num_conditions": None} | facts
    return Curve(**facts, steps=tuple(range(0, every * len(errors), every)), errors=tuple(errors))


def decay(rate, points=101, floor=0.0):
    """Falls from 1 towards the floor; `rate` points take it a factor of e nearer."""
    return floor + (1 - floor) * np.exp(-np.arange(points) / rate)


def write_run(folder, errors, every=10, kind="depth", objective="standard", seed=1, metric="mse", total=None, **flags):
    """A run folder with what the training script writes about its condition errors."""
    folder.mkdir(parents=True)
    flags |= {"objective": objective, "condition_kind": kind}
    (folder / "run_config.json").write_text(
        json.dumps({"flags": flags, "seed": seed} | ({"total_steps": total} if total else {}))
    )
    lines = []
    for step in range(every * (len(errors) - 1) + 1):
        line = {"step": step, "loss": 1.0}
        if step % every == 0:
            line["condition_error"] = {metric: errors[step // every]}
        lines.append(json.dumps(line) + "\n")
    (folder / "training_log.jsonl").write_text("".join(lines))
    return str(folder)


# The error of one image


def test_mse_is_of_colours_between_0_and_1_and_per_image():
    given = np.zeros((3, 32, 32, 3), np.uint8)
    found = given.copy()
    found[1, :16] = 255
    found[2] = 51
    expected = [0, 0.5, 0.04]
    assert condition_error("depth", given, found) == {"mse": pytest.approx(expected)}
    pictures = [[Image.fromarray(image) for image in images] for images in (given, found)]
    assert condition_error("depth", *pictures) == {"mse": pytest.approx(expected)}


def wang_ssim(x, y):
    """Structural similarity as the paper has it: Gaussian windows of 11 pixels, over an image that is mirrored at its borders."""

    def mean(image):
        return gaussian_filter(image, 1.5, truncate=3.5, mode="mirror")

    c1, c2 = 0.01**2, 0.03**2
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    found = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return found.mean()


def test_edges_are_also_compared_by_their_structure():
    generator = np.random.default_rng(0)
    given = np.repeat((generator.random((4, 32, 32, 1)) < 0.1).astype(np.uint8) * 255, 3, axis=3)
    found = np.stack([given[0], np.roll(given[1], 1, 1), given[2] * 0, 255 - given[3]])
    errors = condition_error("edge", given, found)
    assert set(errors) == {"mse", "ssim"} and len(errors["ssim"]) == 4
    expected = [1 - wang_ssim(*(image[..., 0] / 255 for image in pair)) for pair in zip(given, found)]
    assert errors["ssim"] == pytest.approx(expected, abs=1e-9)
    assert errors["ssim"][0] == pytest.approx(0, abs=1e-9) and min(errors["ssim"][1:]) > 0.5


@pytest.mark.parametrize(
    ("kind", "given", "found", "message"),
    [
        ("depth", (2, 32, 32, 3), (3, 32, 32, 3), "equal size and number"),
        ("depth", (2, 32, 32, 3), (2, 32, 16, 3), "equal size and number"),
        ("depth", (2, 32, 32), (2, 32, 32), "RGB"),
        ("depth", (0, 32, 32, 3), (0, 32, 32, 3), "equal size and number"),
        ("edge", (2, 8, 32, 3), (2, 8, 32, 3), "11 pixels; these images have 32 × 8"),
    ],
)
def test_images_that_cannot_be_compared_are_refused(kind, given, found, message):
    with pytest.raises(DiffTuneError, match=message):
        condition_error(kind, np.zeros(given, np.uint8), np.zeros(found, np.uint8))


def test_pictures_of_unequal_size_are_refused():
    pictures = [Image.new("RGB", (32, 32)), Image.new("RGB", (32, 16))]
    with pytest.raises(DiffTuneError, match="equal size"):
        condition_error("depth", pictures, pictures)


# The crossing


@pytest.mark.parametrize("errors", [decay(20), np.where(np.arange(101) < 50, 1, 0.1), [0.5] * 7, [3, 2], [1.0]])
def test_smoothing_leaves_a_curve_that_only_falls_as_it_is(errors):
    assert smooth(errors) == list(errors)


def test_smoothing_takes_out_what_is_off_at_two_points():
    errors = decay(20)
    off = errors.copy()
    off[[30, 31, 60]] = 0.001, 0.002, 5
    assert np.abs(np.array(smooth(off)) - errors).max() < 0.06
    assert smooth(off)[0] == 1 and smooth(off)[-1] == errors[-1]


def test_crossing_is_interpolated_between_two_points():
    falling = curve([1.0, 0.8, 0.6, 0.4, 0.2])
    assert crossing(falling, 0.5) == Crossing(pytest.approx(25), True)
    assert crossing(falling, 0.6) == Crossing(pytest.approx(20), True)
    assert crossing(falling, 0.45) == Crossing(pytest.approx(27.5), True)
    assert crossing(falling, 1.0) == Crossing(0, True)
    assert crossing(curve([1.0, 0.5, 0.5]), 0.5) == Crossing(pytest.approx(10), True)  # it need not go below
    uneven = Curve("run", "depth", "standard", 1, None, (0, 10, 50), (1.0, 0.8, 0.4))
    assert crossing(uneven, 0.6) == Crossing(pytest.approx(30), True)


def test_a_run_that_never_crosses_counts_as_its_budget_and_is_marked():
    assert crossing(curve([1.0, 0.8, 0.6]), 0.5) == Crossing(20, False)


def test_the_budget_is_what_the_run_was_to_take():
    assert crossing(curve([1.0, 0.8, 0.6], total_steps=25), 0.5) == Crossing(25, False)  # measured every 10 steps
    assert crossing(curve([1.0, 0.8, 0.6], total_steps=25), 0.8) == Crossing(10, True)


def test_the_first_crossing_counts():
    assert crossing(curve([4, 4, 4, 1, 1, 1, 1, 4, 4, 4, 4, 1, 1]), 2).step == pytest.approx(20 + 10 * 2 / 3)


@pytest.mark.parametrize("shape", ["slow", "sudden"])
def test_noise_does_not_move_the_crossing_systematically(shape):
    points = np.arange(101)
    errors = 0.1 + 0.9 * np.exp(-points / 40) if shape == "slow" else 0.2 + 0.8 / (1 + np.exp((points - 50) / 2))
    level = threshold(errors[0], [errors[-1]])
    true = crossing(curve(errors, every=1), level).step
    assert 30 < true < 70
    generator = np.random.default_rng(0)
    noisy = [errors * np.exp(0.05 * generator.standard_normal(101)) for _ in range(300)]
    found = np.array([crossing(curve(noise, every=1), level).step for noise in noisy])
    spread = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - true) < max(0.3, 3 * spread)
    if shape == "slow":  # without the smoothing, noise alone makes a slow curve cross early
        first = [np.argmax(noise <= level) for noise in noisy]
        assert true - np.mean(first) > 0.8


# The threshold


def test_threshold_is_the_midpoint_on_a_log_scale():
    assert threshold(0.9, [0.1, 0.1]) == pytest.approx(0.3)
    assert threshold(0.9, [0.5, 0.1, 0.001]) == pytest.approx(0.3)  # of the median
    assert threshold(1.0, [0.01], 0.25) == pytest.approx(10**-0.5)


@pytest.mark.parametrize("final", [0.9, 1.5, 0.0])
def test_no_threshold_without_a_fall(final):
    with pytest.raises(DiffTuneError, match="below the 0.9 of step 0"):
        threshold(0.9, [final])


def test_final_error_is_the_median_of_three_points():
    assert curve([9, 5, 3, 4]).final_error == 4
    assert curve([9, 5]).final_error == 7


def test_too_few_conditions_or_points_are_told():
    fine = curve(decay(20), num_conditions=32)
    level = threshold(1.0, [fine.errors[-1]])
    assert broken_rules([fine], level) == []
    few = curve(decay(20), num_conditions=31)
    assert re.match("The error is a mean over 31 held-out conditions", *broken_rules([few], level))
    coarse = curve(decay(20)[::2], every=20, num_conditions=32)
    assert re.match("There are 25 points before the median crossing.* step 500", *broken_rules([coarse], level))


# The log of a run


def test_curve_is_read_from_the_log(tmp_path):
    run = write_run(
        tmp_path / "run", [0.5, 0.4, 0.2], kind="edge", metric="ssim", seed=7, control_evaluation_samples=40
    )
    with open(tmp_path / "run" / "training_log.jsonl", "a") as file:
        file.write('{"step": 21, "condition_er')  # killed while it wrote
    expected = Curve(run, "edge", "standard", 7, 40, (0, 10, 20), (0.5, 0.4, 0.2))
    assert read_curve(run) == read_curve(run, "ssim") == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: (run / "run_config.json").unlink(), "is not a run folder"),
        (lambda run: (run / "run_config.json").write_text("[]"), "is not a run folder"),
        (lambda run: (run / "training_log.jsonl").unlink(), "training_log.jsonl cannot be read"),
        (lambda run: (run / "training_log.jsonl").write_text("nonsense\n"), "training_log.jsonl cannot be read"),
        (lambda run: (run / "training_log.jsonl").write_text('{"step": 1}\n'), "has no condition errors; train with"),
        (lambda run: keep(run, [0]), "a single condition error"),
        (lambda run: keep(run, [10, 20]), "no condition error of step 0"),
        (lambda run: keep(run, [0, 10], "ssim"), "has no mse at step 0, only ssim"),
        (lambda run: keep(run, [0, 10], value=float("nan")), "negative or not finite"),
    ],
)
def test_bad_runs_are_refused_in_a_sentence(tmp_path, capsys, change, message):
    run = tmp_path / "run"
    write_run(run, [0.5, 0.4, 0.2])
    change(run)
    assert main(["convergence", str(run)]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and "Traceback" not in told


def keep(run, steps, metric="mse", value=0.5):
    lines = [json.dumps({"step": step, "condition_error": {metric: value}}) + "\n" for step in steps]
    (run / "training_log.jsonl").write_text("".join(lines))


# The command


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of each method on two conditions, in which Diff-Tuning is faster by a fifth and by two fifths."""
    folder = tmp_path_factory.mktemp("runs")
    named = []
    for kind, metric, saved in (("edge", "ssim", 0.2), ("depth", "mse", 0.4)):
        for seed in (1, 2):
            for objective, rate in (("standard", 20 + seed), ("difftune", (20 + seed) * (1 - saved))):
                path = folder / f"{kind}-{objective}-{seed}"
                named.append(write_run(path, decay(rate).tolist(), 10, kind, objective, seed, metric))
    return named


def test_command_reports_when_each_run_obeys(runs, tmp_path, capsys):
    files = ["--json", str(tmp_path / "found.json"), "--plot", str(tmp_path / "curves.png")]
    assert main(["convergence", *runs, *files]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    final = (decay(21)[99] + decay(22)[99]) / 2  # the medians of the last three points
    edge, depth = (found["conditions"][kind] for kind in ("edge", "depth"))
    assert edge["threshold"] == depth["threshold"] == pytest.approx(math.sqrt(final))
    first = found["runs"][0]
    assert (first["run"], first["objective"], first["crossed"]) == (runs[0], "standard", True)
    steps = [-10 * fall * math.log(edge["threshold"]) for fall in (21, 21.5)]  # of the first run, and the median
    assert first["step"] == pytest.approx(steps[0], rel=0.01)
    assert edge["median_steps"]["standard"] == pytest.approx(steps[1], rel=0.01)
    assert edge["median_steps"]["difftune"] == pytest.approx(0.8 * steps[1], rel=0.01)
    assert found["notes"] == [] and "note:" not in printed
    row = next(line for line in printed.splitlines() if line.startswith(runs[0]))
    assert re.search(rf"standard\s+edge\s+1\s+0\.00\d+\s+{first['step']:.0f}$", row)
    assert re.search(
        r"^edge: threshold [\d.]+ \(ssim\); median of standard \d+ steps, difftune \d+ steps", printed, re.M
    )
    assert "(20 % fewer with Diff-Tuning)" in printed and "(40 % fewer with Diff-Tuning)" in printed
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1200 and len(picture.convert("RGB").getcolors(2**20)) > 20


def test_given_threshold_and_a_run_that_never_crosses(runs, capsys):
    one = [run for run in runs if "depth-difftune" in run][:1]
    assert main(["convergence", *one, "--threshold", "1e-9"]) == 0
    printed = capsys.readouterr().out
    assert "never (1,000)" in printed and "threshold 1e-09 (mse)" in printed and "fewer" not in printed


def test_a_run_that_was_killed_is_refused(tmp_path, capsys):
    whole = write_run(tmp_path / "whole", decay(20).tolist(), total=1000)
    killed = write_run(tmp_path / "killed", [1.0] * 11, objective="difftune", total=1000)
    assert main(["convergence", whole, killed]) == 2
    told = capsys.readouterr().err
    assert f"{killed} ends at step 100 of 1000; finish that run, or leave it out." in told and told.count("\n") == 1
    assert main(["convergence", whole]) == 0


def test_a_run_that_was_not_measured_at_its_end_counts_as_its_budget(tmp_path):
    run = tmp_path / "run"
    write_run(run, [1.0, 0.9, 0.8], total=25)
    with open(run / "training_log.jsonl", "a") as file:
        file.writelines(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(21, 26))
    assert read_curve(run).steps[-1] == 20 and read_curve(run).budget == 25


def test_rules_that_are_not_kept_are_told(tmp_path, capsys):
    run = write_run(tmp_path / "run", decay(4, 21).tolist(), control_evaluation_samples=8)
    assert main(["convergence", run]) == 0
    printed = capsys.readouterr().out
    assert "a mean over 8 held-out conditions" in printed and "before the median crossing" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["depth-difftune-1"], "no run of standard training is named"),
        (["depth-standard-1", "edge-standard-1", "--threshold", "0.1"], "one kind of condition"),
        (["depth-standard-1", "--threshold", "-1"], "above 0"),
        (["depth-standard-1", "--metric", "ssim"], "has no ssim at step 0, only mse; choose with --metric"),
        (["depth-standard-1", "depth-standard-1"], "named twice"),
        (["depth-standard-1", "--plot", "missing/curves.png"], "--plot missing/curves.png cannot be written"),
        (["depth-standard-1", "--plot", "curves.txt"], "--plot curves.txt cannot be drawn"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(runs, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(Path(runs[0]).parent)
    assert main(["convergence", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
