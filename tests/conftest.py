# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests. Nothing here reaches a network."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


# Read at import by the Hugging Face libraries, so set before any of them is imported. Child processes inherit it.
CACHES = Path(tempfile.mkdtemp(prefix="difftune-tests-"))
os.environ.update(
    HF_HOME=str(CACHES / "hf"),
    HF_HUB_CACHE=str(CACHES / "hf" / "hub"),
    HF_DATASETS_CACHE=str(CACHES / "hf" / "datasets"),
    XDG_CACHE_HOME=str(CACHES / "xdg"),
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_XET="1",
    DIFFUSERS_VERBOSITY="error",
    TRANSFORMERS_VERBOSITY="error",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    CUDA_VISIBLE_DEVICES="",
    ACCELERATE_USE_CPU="true",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    MPLBACKEND="agg",
    HYPOTHESIS_STORAGE_DIRECTORY=str(CACHES / "hypothesis"),
)
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
    os.environ.pop(name, None)

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from tests.hub_server import HubServer, running_hub_server  # noqa: E402
from tests.tiny import (  # noqa: E402
    save_tiny_classes,
    save_tiny_conditions,
    save_tiny_dit_pipeline,
    save_tiny_images,
    save_tiny_pipeline,
)


torch.set_num_threads(1)

# Few examples, and the same ones every time; `--hypothesis-profile=thorough` looks for new ones.
kept = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture]
hypothesis.settings.register_profile(
    "few", max_examples=25, derandomize=True, deadline=None, suppress_health_check=kept
)
hypothesis.settings.register_profile("thorough", max_examples=2000, deadline=None, suppress_health_check=kept)
hypothesis.settings.load_profile("few")


def pytest_sessionfinish() -> None:
    shutil.rmtree(CACHES, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Stable Diffusion pipeline. Shared by all tests: copy it before changing it."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny-pipeline"))


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of six 16 × 16 images with captions. Shared by all tests: copy it before changing it."""
    return save_tiny_images(tmp_path_factory.mktemp("tiny-images"))


@pytest.fixture(scope="session")
def tiny_conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """[`tiny_images`] with a label and a control image for each."""
    return save_tiny_conditions(tmp_path_factory.mktemp("tiny-conditions"))


@pytest.fixture(scope="session")
def tiny_dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny DiT pipeline. Shared by all tests: copy it before changing it."""
    return save_tiny_dit_pipeline(tmp_path_factory.mktemp("tiny-dit"))


@pytest.fixture(scope="session")
def tiny_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six 16 × 16 images in the folders of three classes. Shared by all tests: copy it before changing it."""
    return save_tiny_classes(tmp_path_factory.mktemp("tiny-classes"))


@pytest.fixture
def hub_server() -> Iterator[HubServer]:
    """An empty Hub of its own for the test: `hub_server.run` and `hub_server.environment()` point a client at it."""
    with running_hub_server() as server:
        yield server
