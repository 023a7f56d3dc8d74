# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A small knowledge bank of the tiny pipeline, in a moment."""

import inspect
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.backbones.fingerprint import weights_fingerprint
from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.bank.build import build_bank
from diffusers_difftune.bank.settings import BankSettings


PROMPTS = ["a red square", "a green bar", "a blue cross"]
RESOLUTION = 16


def load_pipeline(folder: Path) -> DiffusionPipeline:
    return load_backbone(folder).pipeline(None, torch.device("cpu"), torch.float32)


def small_bank(pipeline: DiffusionPipeline, pretrained: Path, folder: Path, **changes: Any) -> KnowledgeBank:
    """Builds a bank of ten samples in three shards, or whatever `changes` says."""
    backbone = load_backbone(pretrained)
    arguments = {
        "prompts": PROMPTS,
        "latent_shape": backbone.latent_shape(RESOLUTION),
        "model": "tiny",
        "weights_fingerprint": weights_fingerprint(pretrained, backbone.weight_components),
        "progress": False,
    }
    settings = {"num_samples": 10, "resolution": RESOLUTION, "batch_size": 4, "steps": 3}
    for name, value in changes.items():
        (arguments if name in inspect.signature(build_bank).parameters else settings)[name] = value
    return build_bank(pipeline, folder, settings=BankSettings(**settings), **arguments)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too, by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
