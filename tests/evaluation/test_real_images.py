# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""CLIP score, and real images with their floor."""

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

from diffusers_difftune.config import ClassConditionalConfig, DataConfig
from diffusers_difftune.data.dataset import load_target_data
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.clip_score import ClipScore
from diffusers_difftune.evaluation.metrics import distances, frechet_distance, kernel_distance
from diffusers_difftune.evaluation.precision_recall import precision_recall
from diffusers_difftune.evaluation.real_images import RealImages, drawn_rows, read_images, row_prompts
from tests.tiny import save_tiny_classes, save_tiny_images, tiny_image
from tests.tiny_features import SIDE, save_clip


def normal(count: int, dimension: int, seed: int, shift: float = 0) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


# The CLIP score


def test_clip_score_is_the_mean_cosine(tmp_path):
    folder = save_clip(tmp_path / "clip")
    pixels = np.stack([np.asarray(tiny_image(index, (SIDE, SIDE))[0]) for index in range(5)])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    prompts = ["a red square", "b", "a prompt of very many letters, more than the model can read", "", "cross"]
    score = ClipScore(str(folder))
    found = score(images, prompts, batch_size=2)

    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    mean, deviation = (
        torch.tensor(values).view(3, 1, 1) for values in (score.processor.image_mean, score.processor.image_std)
    )
    cosines = []
    for image, prompt in zip(images, prompts):
        ids = tokenizer([prompt], truncation=True, max_length=24, return_tensors="pt").input_ids
        with torch.no_grad():
            output = model(input_ids=ids, pixel_values=((image / 255 - mean) / deviation)[None])
        a, b = output.image_embeds[0].double().numpy(), output.text_embeds[0].double().numpy()
        cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert min(cosines) < 0 < max(cosines), "the tiny model has an opinion of each"
    assert found == pytest.approx(100 * np.maximum(cosines, 0).mean(), abs=1e-3)
    assert found == score(images, prompts, batch_size=2)
    assert score.name == "clip"
    with pytest.raises(DiffTuneError, match="there are 4 for 5 images"):
        score(images, prompts[:4])
    with pytest.raises(DiffTuneError, match="The CLIP model .* is neither a folder with one nor one"):
        ClipScore(str(tmp_path))


# The floor


def test_every_figure_has_its_floor():
    features, others, generated = normal(30, 4, 0), normal(40, 4, 1), normal(30, 4, 2, shift=1)
    real = RealImages(features, others)
    found = real.compare(generated)
    assert found["fid"] == frechet_distance(features, generated)
    assert (found["kid"], found["kid_std"]) == kernel_distance(features, generated)
    assert (found["precision"], found["recall"]) == precision_recall(features, generated)
    assert (found["num_real"], found["num_generated"], found["num_features"], found["num_floor"]) == (30, 30, 4, 30)
    for name in ("fid", "kid", "precision", "recall"):
        assert found[f"{name}_floor"] == real.floor[name]
    assert found["fid_floor"] < found["fid"] and found["kid_floor"] < found["kid"]
    assert found["precision_floor"] > found["precision"] and found["recall_floor"] > found["recall"]
    assert RealImages(features, others).compare(generated) == found, "deterministic"

    halves = RealImages(features)
    assert halves.floor["num_real"] == halves.floor["num_generated"] == 15
    assert halves.compare(generated)["num_floor"] == 15
    assert halves.floor != RealImages(features, seed=1).floor


def test_without_enough_images_there_is_no_fid_but_all_else():
    found = distances(normal(20, 20, 0), normal(30, 20, 1))
    assert found["fid"] is None and np.isfinite(found["kid"]) and found["num_features"] == 20
    assert distances(normal(21, 20, 0), normal(30, 20, 1))["fid"] > 0
    with pytest.raises(DiffTuneError, match="7 real images are too few to measure by; use at least 8"):
        RealImages(normal(7, 2, 0))
    with pytest.raises(DiffTuneError, match="3 real images are too few"):
        RealImages(normal(8, 2, 0), normal(3, 2, 1))
    with pytest.raises(DiffTuneError, match="random halves of the images, for which 3 are too few; use at least 4"):
        distances(normal(9, 2, 0), normal(3, 2, 1))


# Real images


def test_images_are_read_as_a_pipeline_makes_them(tmp_path):
    wide = load_target_data(DataConfig(train_data_dir=str(save_tiny_images(tmp_path, 3, (40, 20)))), 0, tmp_path)
    images = read_images(wide, [2, 0], 10)
    assert images.shape == (2, 3, 10, 10) and images.dtype == torch.uint8
    resized = tiny_image(2, (40, 20))[0].resize((20, 10), 1)  # Lanczos
    expected = np.asarray(resized)[:, 5:15]
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), expected), "the centre, of row 2"


def test_a_draw_of_rows_is_always_the_same_and_of_all_kinds(tmp_path):
    classes = load_target_data(
        ClassConditionalConfig(train_data_dir=str(save_tiny_classes(tmp_path, 30))), 0, tmp_path
    )
    rows = drawn_rows(classes, 12)
    assert rows == drawn_rows(classes, 12) == drawn_rows(classes, 30)[:12] and len(set(rows)) == 12
    assert {classes.captions(row)[0] for row in rows} == {"0", "1", "2"}, "though the classes lie one after another"
    assert len(drawn_rows(classes, 100)) == 30


def test_classes_are_matched_by_their_names(tmp_path):
    classes = load_target_data(
        ClassConditionalConfig(train_data_dir=str(save_tiny_classes(tmp_path / "a", 6))), 0, tmp_path
    )
    names = [classes.class_names[int(classes.captions(row)[0])] for row in range(6)]
    ids = {"elm": 7, "oak": 2, "ash": 30, "fir": 1}
    assert row_prompts(classes, range(6), ids) == [str(ids[name]) for name in names]
    with pytest.raises(DiffTuneError, match="have the class oak, which is none of the model's 2"):
        row_prompts(classes, range(6), {"elm": 0, "ash": 1})
    texts = load_target_data(DataConfig(train_data_dir=str(save_tiny_images(tmp_path / "b", 3))), 0, tmp_path)
    assert row_prompts(texts, [2, 1]) == [tiny_image(2)[1], tiny_image(1)[1]]
