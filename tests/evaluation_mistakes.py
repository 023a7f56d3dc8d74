# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of `test_bad_input.py` about measuring while a run trains."""

from pathlib import Path

import torch
from safetensors.torch import save_file


DATA = "evaluation_data"


def projection(file: Path, network: str) -> Path:
    """A projection of six features, of which no network has so few."""
    save_file({"mean": torch.zeros(6), "components": torch.zeros(6, 2)}, file, {"network": network})
    return file


ROWS: dict[str, tuple] = {
    "steps and nothing to measure on": (
        {"evaluation_steps": 5},
        "--evaluation_steps needs --evaluation_data, the rows to measure on",
    ),
    "a CLIP model and nothing to measure on": (
        {"evaluation_clip_model": "anything"},
        "--evaluation_clip_model needs --evaluation_data, the rows to measure on",
    ),
    "a CLIP model that is nowhere": (
        lambda place: {
            DATA: place.many,
            "evaluation_samples": 8,
            "evaluation_features": "efficientnet",
            "evaluation_clip_model": "user/nowhere",
        },
        "--evaluation_clip_model: the CLIP model user/nowhere is neither a folder with one nor one that .*",
    ),
    "every zeroth step": (
        {DATA: "anything", "evaluation_steps": 0},
        "--evaluation_steps is 0; it must be at least 1",
    ),
    "no sampling steps": (
        {DATA: "anything", "evaluation_inference_steps": 0},
        "--evaluation_inference_steps is 0; it must be at least 1",
    ),
    "too few samples": ({"evaluation_samples": 7}, "--evaluation_samples is 7; it must be at least 8"),
    "guidance below 1": (
        {"evaluation_guidance_scale": 0.5},
        "--evaluation_guidance_scale is 0.5; it must be at least 1.0",
    ),
    "data that are nowhere": ({DATA: "nowhere"}, "--evaluation_data: there is no folder .*/nowhere"),
    "too few rows": (
        lambda place: {DATA: place.images, "evaluation_samples": 8},
        "--evaluation_data .* has 6 rows, and --evaluation_samples is 8; give more rows or measure fewer",
    ),
    "features that are nowhere": (
        lambda place: {DATA: place.many, "evaluation_samples": 8, "evaluation_features": "user/nowhere"},
        "--evaluation_features: the features user/nowhere are neither inception, dinov2, clip, efficientnet nor .*",
    ),
    "a projection of other features": (
        lambda place: {
            DATA: place.many,
            "evaluation_samples": 8,
            "evaluation_features": projection(place.folder / "narrow.safetensors", "efficientnet"),
        },
        "--evaluation_features: the features .* are a projection of 6 features, and efficientnet has 1280; fit one on .*",
    ),
    "a projection of a projection": (
        lambda place: {
            DATA: place.many,
            "evaluation_samples": 8,
            "evaluation_features": projection(place.folder / "own.safetensors", "own.safetensors"),
        },
        "--evaluation_features: the features .* are a projection of own.safetensors, which is a projection, too; .*",
    ),
    "features without their package": (
        lambda place: {DATA: place.many, "evaluation_samples": 8, "evaluation_features": "inception"},
        "--evaluation_features: the features of inception need torch-fidelity; install it with .*",
    ),
}
