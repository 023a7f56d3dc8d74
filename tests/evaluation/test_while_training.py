# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What is measured by while a run trains: which real images, how many, and how they are resized."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from diffusers_difftune.config import DataConfig
from diffusers_difftune.data.dataset import load_target_data
from diffusers_difftune.data.stream import StreamedTarget
from diffusers_difftune.evaluation.features import make_features
from diffusers_difftune.evaluation.metrics import extract_features
from diffusers_difftune.evaluation.real_images import RealImages, drawn_rows, read_images
from diffusers_difftune.training.quality_evaluation import QualityEvaluation
from tests.tiny import save_tiny_images
from tests.tiny_features import save_projection_of_efficientnet


SIZE = (40, 24)  # so that resizing matters


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_projection_of_efficientnet(tmp_path_factory.mktemp("features") / "three.safetensors")


def data_flags(folder: Path, count: int, **flags: object) -> DataConfig:
    return DataConfig(train_data_dir=str(save_tiny_images(folder, count, SIZE)), **flags)


def evaluation(features: Path, tmp_path: Path, target: int, streaming: bool = False, **flags: object):
    """What a run measures with that has so many target rows."""
    held_out = load_target_data(data_flags(tmp_path / "held-out", 12), 0, tmp_path / "cache")
    given = data_flags(tmp_path / f"target-{target}", target, streaming=streaming)
    rows = StreamedTarget(given, 0) if streaming else load_target_data(given, 0, tmp_path / "cache")
    config = {
        "evaluation_data": str(tmp_path / "held-out"),
        "evaluation_samples": 9,
        "evaluation_steps": 1,
        "evaluation_features": str(features),
        "evaluation_inference_steps": 1,
        "evaluation_guidance_scale": 1.0,
        "train_batch_size": 4,
        "image_interpolation_mode": "lanczos",
        "cache_dir": None,
        "hub_token": None,
        "evaluation_clip_model": None,
    }
    run = SimpleNamespace(config=SimpleNamespace(**config | flags), accelerator=Accelerator(cpu=True))
    return QualityEvaluation(run, SimpleNamespace(resolution=16), rows, held_out)


@pytest.mark.parametrize("mode", ["lanczos", "bicubic", "nearest"])
def test_real_images_are_resized_as_those_that_are_trained_on(mode, features, tmp_path):
    found = evaluation(features, tmp_path, 9, image_interpolation_mode=mode)
    extractor = make_features(str(features))
    real, others = (
        extract_features(extractor, read_images(data, drawn_rows(data, 9), 16, mode))
        for data in (found.held_out, found.target)
    )
    assert torch.allclose(found.measurement.real.features, real, atol=1e-9)
    assert found.measurement.real.floor == pytest.approx(RealImages(real, others).floor)
    other_mode = read_images(found.held_out, drawn_rows(found.held_out, 9), 16, "box")
    assert (extract_features(extractor, other_mode) - real).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("target", "streaming", "floor"),
    [(12, False, 9), (9, False, 9), (8, False, 8), (4, False, 4), (3, False, 4), (12, True, 4)],
)
def test_the_floor_is_of_as_many_target_images_as_there_are(target, streaming, floor, features, tmp_path):
    found = evaluation(features, tmp_path, target, streaming).measurement.real
    assert len(found.features) == 9
    compared = (found.floor["num_real"], found.floor["num_generated"])
    assert compared == (floor, floor)
    halves = RealImages(found.features).floor
    assert (found.floor == halves) == (streaming or target < 4), "where there are no target images, it is of halves"
