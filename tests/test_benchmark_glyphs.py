# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the glyph benchmark that its figures depend on; the runs themselves are made by hand."""

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from benchmarks.glyphs import fonts, gates, measure, pipeline, render, settings
from benchmarks.glyphs.classifiers import halves
from benchmarks.glyphs.finetune import command_line
from benchmarks.glyphs.read import class_names, read_glyphs
from benchmarks.glyphs.render import PARTS, Glyph
from benchmarks.glyphs.scripts import PACKAGES, SETS, SOURCE, TARGETS, TUNING_TARGETS, class_name, letters
from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.config.parse import parse_config


COUNTS = json.loads(settings.COUNTS.read_text())
HERE = settings.HERE
SCRIPT = settings.ROOT / "training_scripts" / "train_class_conditional_difftune.py"


def script():
    spec = importlib.util.spec_from_file_location("train_class_conditional_difftune", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def glyph(letter=0, font="one.ttf", family="one", pixels=None, seed=0):
    if pixels is None:
        pixels = np.random.default_rng([seed, letter]).integers(0, 256, (settings.SIDE, settings.SIDE), dtype=np.uint8)
    return Glyph(letter, font, family, pixels)


# Letters and fonts


def test_every_letter_is_in_one_set_once() -> None:
    every = [letter for name in SETS for letter in letters(name)]
    assert len(every) == len(set(every))
    assert all(letter.isalnum() for letter in every)
    assert len({class_name(letter) for letter in every}) == len(every)


def test_classes_of_targets_have_rows_before_those_of_the_source() -> None:
    assert max(len(letters(name)) for name in SETS if name != SOURCE) <= settings.FIRST_SOURCE_ROW


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Noto Sans Georgian", "noto sans"),
        ("Noto Sans Display", "noto sans"),
        ("Noto Serif Tamil Slanted", "noto serif"),
        ("DejaVu Sans Mono", "dejavu sans"),
        ("DejaVu Serif", "dejavu serif"),
        ("EB Garamond 12", "eb garamond"),
        ("BPG Nino Medium Cond GPL&GNU", "bpg nino"),
        ("PatchStencil", "patch"),
        ("Khmer", "khmer"),  # a name of nothing but such words is itself
    ],
)
def test_members_of_a_type_family_have_one_key(name: str, family: str) -> None:
    assert fonts.family_key(name) == family


def test_families_that_draw_the_same_letters_are_one() -> None:
    one = [glyph(letter, "one.ttf", "one") for letter in range(12)]
    clone = [glyph(letter, "clone.ttf", "clone", np.minimum(one[letter].pixels, 250)) for letter in range(12)]
    other = [glyph(letter, "other.ttf", "other", seed=1) for letter in range(12)]
    assert render.merge_clones([*one, *clone, *other]) == {"one": "clone", "clone": "clone", "other": "other"}
    few = render.merge_clones([*one[:5], *clone[:5]])
    assert few == {"one": "one", "clone": "clone"}, "five letters are too few to tell by"


def test_images_that_are_the_same_are_kept_once_for_a_letter() -> None:
    first, again = glyph(), glyph(font="two.ttf", pixels=np.minimum(glyph().pixels, 252))
    other_letter = glyph(1, pixels=first.pixels)
    kept = render.distinct([first, again, other_letter, glyph(seed=3)])
    assert [id(one) for one in kept[:2]] == [id(first), id(other_letter)] and len(kept) == 3


def test_no_family_is_both_trained_on_and_held_out() -> None:
    files = [(f"family {index % 9}", f"{index:02}.ttf") for index in range(60)] + [("alone", "alone.ttf")]
    part_of = render.assign_parts(files, "some set")
    assert set(part_of.values()) == set(PARTS) and len(part_of) == len(files)
    held_out = {family for family, font in files if part_of[font] == "families"}
    assert held_out and not held_out & {family for family, font in files if part_of[font] != "families"}
    assert render.assign_parts(files[::-1], "some set") != render.assign_parts(files, "another set")


def test_a_regime_has_every_class_as_often_as_it_can() -> None:
    labels = [0] * 50 + [1] * 50 + [2] * 3
    drawn = render.draw(labels, 23, seed=1)
    assert Counter(labels[row] for row in drawn) == {0: 10, 1: 10, 2: 3}
    assert drawn == render.draw(labels, 23, seed=1) != render.draw(labels, 23, seed=2)


def test_letters_are_drawn_in_the_middle() -> None:
    pixels = render.draw_letter(ImageFont.load_default(size=render.EM), "H")
    assert pixels.shape == (24, 24) and pixels.dtype == np.uint8
    ink = np.argwhere(pixels < 128)
    assert abs(ink.mean(0) - 11.5).max() < 1
    assert render.draw_letter(ImageFont.load_default(size=render.EM), " ") is None


def test_counts_say_that_both_regimes_and_the_splits_are_there() -> None:
    assert list(COUNTS["sets"]) == list(SETS) and sorted(COUNTS["packages"]) == PACKAGES
    for name, found in COUNTS["sets"].items():
        assert not {*found["families"]["train"]} & {*found["families"]["families"]}, name
        assert found["images"]["train"] >= settings.LARGE, name
        assert len(found["letters"]) == found["classes"] >= 25
        assert set(found["letters"]) <= set(letters(name))


def test_what_is_rendered_here_is_what_the_counts_say(tmp_path: Path) -> None:
    if fonts.package_versions(PACKAGES) != COUNTS["packages"]:
        pytest.skip("the fonts of the benchmark are not installed, or of other versions")
    assert render.make("bengali", tmp_path) == COUNTS["sets"]["bengali"]
    images, labels = read_glyphs(tmp_path / f"bengali_train_{settings.SMALL}_1.parquet")
    assert images.shape == (settings.SMALL, 1, 24, 24) and images.min() >= -1 and images.max() == 1
    assert class_names(tmp_path / "bengali_train.parquet")[labels[0]].startswith("bengali letter")


# Classifiers and measures


def test_halves_share_no_family_and_have_half_of_every_set() -> None:
    images = {"x": Counter(a=40, b=38, c=5, d=5), "y": Counter(a=10, b=12, e=2), "z": Counter(f=7, g=7)}
    half = halves(images)
    for name, of_family in images.items():
        share = sum(count for family, count in of_family.items() if half[family]) / sum(of_family.values())
        assert 0.3 < share < 0.7, name


def test_copies_are_nearer_than_real_images() -> None:
    generator = torch.Generator().manual_seed(0)
    train, held_out, fresh = torch.randn(3, 200, 1, 24, 24, generator=generator)
    assert measure.copied(train + 0.01, train, held_out) == 1
    assert measure.copied(fresh, train, held_out) < 0.06


def run(images, alpha, **figures):
    found = {
        "images": images,
        "alpha": alpha,
        "loss of source letters": {"near": 2.0},
        "loss of target letters": {"near": 1.0},
        "loss of target letters, null class": {"near": 1.1},
        "source recognised": 0.1,
        "copied": 0.01,
        "distance to other styles": [images / alpha, images / alpha + 1],
    }
    return found | figures


BEFORE = {
    "loss of source letters": {"near": 1.0},
    "loss of target letters, null class": {"near": 1.05},
    "source recognised": 0.9,
}


@pytest.mark.parametrize(
    ("gate", "source", "figures"),
    [
        ("b", {"loss of target letters, null class": {"near": 1.2}}, {}),
        ("c", {}, {"loss of source letters": {"near": 1.4}}),
        ("c", {}, {"source recognised": 0.6}),
        ("d", {}, {"copied": 0.03}),
        ("e", {}, {"distance to other styles": [1e6, 0.0]}),
    ],
)
def test_a_gate_fails_by_its_own_figure(gate: str, source: dict, figures: dict) -> None:
    def runs(**more):
        return [
            run(count, alpha, **(more if alpha == 1 and count == 100 else {}))
            for count in (1000, 100)
            for alpha in (1, 0.5)
        ]

    assert all(found["holds"] for found in gates.judged([BEFORE, *runs()]).values())
    failed = gates.judged([BEFORE | source, *runs(**figures)])
    assert [name for name, found in failed.items() if not found["holds"]] == [gate]


def test_the_picture_is_small(tmp_path: Path) -> None:
    rows = {f"row {index}": torch.rand(gates.SHOWN, 1, 24, 24) * 2 - 1 for index in range(3)}
    gates.picture(rows, tmp_path / "rows.png")
    with Image.open(tmp_path / "rows.png") as image:
        assert image.mode == "P" and image.height == 3 * 24 * gates.ZOOM


@pytest.mark.parametrize("file", sorted((HERE / "results").glob("gates_*.json")), ids=lambda file: file.stem)
def test_committed_gates_follow_from_their_figures(file: Path) -> None:
    found = json.loads(file.read_text())
    again = gates.rounded(gates.judged(found["runs"]))
    for name in "bcde":
        assert again[name]["holds"] == found[name]["holds"]
    a = found["a"]
    within = [
        one <= gates.TIMES_FLOOR * other for one, other in zip(a["distance to other families"], a["floor of it"])
    ]
    assert a["holds"] == (all(within) and a["recognised"] >= gates.RECOGNISED)


# The source model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_autoencoder_changes_no_grey_level(dtype: torch.dtype) -> None:
    images = torch.rand(6, 1, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images[0], images[1], images[2] = 1, -1, 0
    vae = pipeline.identity_autoencoder().to(dtype)
    with torch.no_grad():
        posterior = vae.encode(images.expand(-1, 3, -1, -1).to(dtype)).latent_dist
        decoded = vae.decode(posterior.mean).sample.float()
    grey = 2 / 255
    assert (posterior.mean.float() - images).abs().max() < grey
    assert (decoded - images).abs().max() < grey and decoded.shape[1] == 3
    assert posterior.std.max() < 1e-6


def test_noise_levels_are_those_of_flow_matching() -> None:
    kept = pipeline.flow_levels().alphas_cumprod.double()
    sigmas = torch.linspace(pipeline.FIRST_LEVEL, pipeline.LAST_LEVEL, pipeline.LEVELS, dtype=torch.float64)
    torch.testing.assert_close((kept / (1 - kept)).sqrt(), (1 - sigmas) / sigmas, rtol=0.01, atol=0)


def test_classes_that_are_moved_draw_what_they_drew() -> None:
    model = pipeline.new_transformer(24, 2, 2, seed=0).eval()
    for parameter in model.parameters():  # adaLN-Zero would hide the classes
        torch.nn.init.normal_(parameter, std=0.1)
    generator = torch.Generator().manual_seed(0)
    images, steps = torch.randn(5, 1, 24, 24, generator=generator), torch.full((5,), 300)

    def answer(*labels):
        with torch.no_grad():
            return model(images, steps, torch.tensor(labels), return_dict=False)[0]

    before, before_null = answer(0, 1, 2, 3, 4), answer(*[1000] * 5)
    assert not torch.allclose(before, before_null)
    pipeline.move_classes(model, first=100, count=5)
    assert torch.equal(answer(100, 101, 102, 103, 104), before)
    assert torch.equal(answer(*[1000] * 5), before_null)
    assert not torch.allclose(answer(0, 1, 2, 3, 4), before)


def test_the_training_script_trains_on_pixels(tmp_path: Path) -> None:
    glyphs = [glyph(letter, f"{letter}.ttf", "one") for letter in range(8)]
    names = [f"letter {letter}" for letter in range(8)]
    render.write(tmp_path / "train.parquet", glyphs, names, {"one": "one"})
    source = {100 + number: name for number, name in enumerate("ab")}
    pipeline.save_pipeline(tmp_path / "source", pipeline.new_transformer(24, 1, 2, seed=0), source)
    flags = settings.RECIPE | {
        "max_train_steps": 2,
        "train_batch_size": 5,
        "retention_prompts": "sampled",
        "bank_samples": 4,
        "bank_steps": 2,
        "seed": 1,
        "pretrained_model_name_or_path": tmp_path / "source",
        "train_data_dir": tmp_path / "train.parquet",
        "output_dir": tmp_path / "result",
        "cache_dir": tmp_path / "cache",
    }
    script().main(command_line(flags))
    backbone = load_backbone(tmp_path / "source")
    images = measure.sample(backbone, backbone.load_denoiser(tmp_path / "result"), [0, 100], seed=0)
    assert images.shape == (2, 1, 24, 24)
    bank = KnowledgeBank.load(tmp_path / "result" / "knowledge_bank")
    assert set(bank.prompts()) <= {"100", "101"}, "the bank is of the source's own classes"


# The plan


def test_the_plan_names_what_there_is() -> None:
    plan = (HERE / "PLAN.md").read_text()
    config = script().ClassConditionalConfig
    for flag in re.findall(r"`--(\w+) ([\w.]+)`", plan):
        parse_config(
            config, ["--pretrained_model_name_or_path", "x", "--train_data_dir", "y", f"--{flag[0]}", flag[1]], ""
        )
    for name in (*TARGETS, *TUNING_TARGETS):
        assert name.capitalize() in plan
    assert f"α in {{{', '.join(f'{alpha:g}' for alpha in settings.BLENDS)}}}" in plan
    assert f"{settings.EACH} of each of the {COUNTS['sets'][SOURCE]['classes']}" in plan
    steps, batch = settings.RECIPE["max_train_steps"], settings.RECIPE["train_batch_size"]
    assert f"{steps} steps of {batch} rows" in plan
