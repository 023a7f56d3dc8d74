# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelines as they are found in the wild: variants of the weights, halves of them, and what the result loads as."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from diffusers_difftune.backbones import load_backbone
from tests.hub_server import HubServer, Repo
from tests.tiny import tiny_pipeline as make_pipeline
from tests.training.runs import FULL, run


DOWNLOAD = """
    import sys
    import torch
    from diffusers_difftune.backbones import load_backbone, pipeline_folder
    from diffusers_difftune.errors import DiffTuneError
    try:
        backbone = load_backbone(pipeline_folder("user/tiny", variant="fp16", cache_dir=sys.argv[1]), "fp16")
        backbone.load_encoders(torch.device("cpu"), torch.float32)
        print(backbone.load_denoiser().dtype)
    except DiffTuneError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def half_precision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that has the variant fp16 of its weights only."""
    folder = tmp_path_factory.mktemp("half-precision")
    make_pipeline().to(torch.float16).save_pretrained(folder, variant="fp16")
    return folder


def test_a_part_that_lacks_the_variant_is_loaded_without_it(
    half_precision: Path, tiny_pipeline: Path, tiny_images: Path, tmp_path: Path
) -> None:
    """As pipelines do: of many models on the Hub only the UNet has a variant, such as non_ema."""
    mixed = shutil.copytree(tiny_pipeline, tmp_path / "mixed")
    file = "unet/diffusion_pytorch_model.fp16.safetensors"
    shutil.copyfile(half_precision / file, mixed / file)
    backbone = load_backbone(mixed, "fp16")
    backbone.load_encoders(torch.device("cpu"), torch.float32)
    assert backbone.encoders
    flags = "--variant fp16 --max_train_steps 1 --validation_prompts x"
    assert (run(FULL, mixed, tiny_images, tmp_path / "run", flags) / "validation/step-1/0.png").is_file()


def test_the_result_of_half_precision_weights_loads_in_one_precision(
    half_precision: Path, tiny_images: Path, tmp_path: Path
) -> None:
    """transformers loads in the precision that a config names, diffusers in float32."""
    result = run(FULL, half_precision, tiny_images, tmp_path, "--variant fp16 --max_train_steps 1")
    pipeline = DiffusionPipeline.from_pretrained(result)
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    assert pipeline("x", num_inference_steps=1, height=16, width=16, output_type="np").images.shape == (1, 16, 16, 3)


@pytest.mark.slow
def test_of_a_model_on_the_hub_only_what_is_used_is_downloaded(
    hub_server: HubServer, half_precision: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    model: dict[str, bytes] = {}
    for folder in (half_precision, tiny_pipeline):
        model |= {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub_server.repos["models/user/tiny"] = Repo("models", "user/tiny", [model])
    run = hub_server.run(DOWNLOAD, tmp_path / "cache")
    assert run.stdout.strip() == "torch.float32", run.stderr[-2000:]
    weights = [name for name in map(str, (tmp_path / "cache").rglob("*.safetensors")) if "snapshots" in name]
    assert len(weights) == 3 and all("fp16" in name for name in weights)

    hub_server.requests.clear()
    model["model_index.json"] = json.dumps({"_class_name": "UnCLIPPipeline"}).encode()
    hub_server.repos["models/user/tiny"] = Repo("models", "user/tiny", [model])
    run = hub_server.run(DOWNLOAD, tmp_path / "another-cache")
    assert "The pipeline is a UnCLIPPipeline; supported pipelines are" in run.stdout, run.stderr[-2000:]
    assert not [request for request in hub_server.requests if "safetensors" in request]


FROM_THE_HUB = """
    import sys
    from diffusers_difftune.backbones import pipeline_folder
    from diffusers_difftune.errors import DiffTuneError
    for name in sys.argv[1:]:
        try:
            print(pipeline_folder(name))
        except DiffTuneError as error:
            print(error)
"""


@pytest.mark.slow
def test_neither_pickles_nor_code_come_from_the_hub(hub_server: HubServer, tiny_pipeline: Path) -> None:
    """They are refused before anything of them is downloaded."""
    plain = {str(p.relative_to(tiny_pipeline)): p.read_bytes() for p in tiny_pipeline.rglob("*") if p.is_file()}
    index = json.loads(plain["model_index.json"])
    weights = "unet/diffusion_pytorch_model.safetensors"
    pickles = {name.replace(weights, weights.replace("safetensors", "bin")): data for name, data in plain.items()}
    own_unet = plain | {
        "model_index.json": json.dumps(index | {"unet": ["mine", "UNet"]}).encode(),
        "unet/mine.py": b"",
    }
    own = plain | {"model_index.json": json.dumps(index | {"_class_name": ["mine", "Mine"]}).encode(), "mine.py": b""}
    for name, files in (("plain", plain), ("pickles", pickles), ("own-unet", own_unet), ("own", own)):
        hub_server.repos[f"models/org/{name}"] = Repo("models", f"org/{name}", [files], ["first"])
    done = hub_server.run(FROM_THE_HUB, "org/plain", "org/pickles", "org/own-unet", "org/own")
    fine, pickled, code, pipeline = done.stdout.splitlines()
    assert "models--org--plain" in fine, done.stderr[-2000:]
    assert pickled.startswith("org/pickles: its weights are a pickle"), pickled
    assert "The unet of " in code and "has code of its own" in code
    assert pipeline.startswith("The pipeline is a ['mine', 'Mine']; supported pipelines are")
    assert not [request for request in hub_server.requests if request.endswith((".bin", ".py"))]
