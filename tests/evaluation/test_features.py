# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What images are compared by."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, Dinov2Model, ResNetModel, SwinModel

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.evaluation.features import make_features
from diffusers_difftune.evaluation.projection import save_projection
from tests.tiny import tiny_image
from tests.tiny_features import SIDE, save_clip, save_dinov2, save_projection_of_efficientnet, save_resnet, save_swin


SAVE = {"clip": save_clip, "dinov2": save_dinov2, "resnet": save_resnet, "swin": save_swin}
WIDTHS = {"clip": 12, "dinov2": 8, "resnet": 6, "swin": 8}
NORMALIZATION = {
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "other": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
}


def stacked(count: int, side: int = SIDE) -> torch.Tensor:
    pixels = np.stack([np.asarray(tiny_image(index, (side, side))[0]) for index in range(count)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save(folder / name) for name, save in SAVE.items()}


@pytest.fixture(scope="module")
def efficientnet() -> torch.nn.Module:
    return make_features("efficientnet")


@pytest.mark.parametrize("name", SAVE)
def test_models_of_transformers(name, models):
    extractor = make_features(str(models[name]))
    images = stacked(3)
    features = extractor(images)
    assert extractor.name == name and features.shape == (3, WIDTHS[name])
    assert torch.equal(extractor(images), features) and not features.requires_grad
    for image, row in zip(images, features):  # each by itself, and larger than the model takes it
        assert torch.allclose(extractor(image[None])[0], row, atol=1e-5)
    assert (features[0] - features[1]).abs().max() > 1e-3
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert extractor.train().training is False, "batch statistics must never move"


def test_which_part_of_a_model_describes_an_image(models):
    images = stacked(2)

    def pixels(extractor: torch.nn.Module) -> torch.Tensor:
        processor = extractor.processor
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
        return (images / 255 - mean) / deviation

    found = {name: make_features(str(models[name])) for name in SAVE}
    with torch.no_grad():
        clip = CLIPModel.from_pretrained(models["clip"]).eval()
        words = torch.tensor([[512, 513]])
        embeds = clip(input_ids=words, pixel_values=pixels(found["clip"])).image_embeds  # normalised
        ours = torch.nn.functional.normalize(found["clip"](images), dim=-1)
        assert torch.allclose(ours, embeds, atol=1e-5), "what it compares with texts"

        states = Dinov2Model.from_pretrained(models["dinov2"]).eval()(pixels(found["dinov2"])).last_hidden_state
        assert torch.allclose(found["dinov2"](images), states[:, 0], atol=1e-5), "the class token"

        maps = ResNetModel.from_pretrained(models["resnet"]).eval()(pixels(found["resnet"])).last_hidden_state
        assert torch.allclose(found["resnet"](images), maps.mean((2, 3)), atol=1e-5), "the mean of the map"

        states = SwinModel.from_pretrained(models["swin"]).eval()(pixels(found["swin"])).last_hidden_state
        assert torch.allclose(found["swin"](images), states.mean(1), atol=1e-5), "the mean: there is no class token"


def test_efficientnet(efficientnet):
    images = stacked(3, 32)
    features = efficientnet(images)
    assert efficientnet.name == "efficientnet-lite0"
    assert features.shape == (3, 1280) and features.dtype == torch.float64
    assert torch.equal(efficientnet(images), features)
    assert torch.allclose(efficientnet(images.float() / 255), features, atol=1e-4)
    assert efficientnet.train().training is False
    # a large image is made smaller as PIL does it, by averaging; single pixels of noise would be another image
    noise = np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8)
    smaller = np.asarray(Image.fromarray(noise).resize((112, 112), Image.Resampling.BICUBIC))
    large, small = (efficientnet(torch.from_numpy(image.copy()).permute(2, 0, 1)[None]) for image in (noise, smaller))
    assert (large - small).norm() < 0.1 * large.norm()


def test_a_projection_keeps_the_directions_of_largest_spread(tmp_path, efficientnet, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([9.0, 4.0, 1.0, 0.1], dtype=torch.float64)
    turned = torch.linalg.qr(torch.randn(1280, 4, generator=generator, dtype=torch.float64)).Q
    features = (torch.randn(200, 4, generator=generator, dtype=torch.float64) * spread) @ turned.T + 5
    explained = save_projection(tmp_path / "p.safetensors", "efficientnet", features, 2)

    centred = features.numpy() - features.numpy().mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    assert explained == pytest.approx(values[-2:].sum() / values.sum(), rel=1e-9)
    stored = load_file(tmp_path / "p.safetensors")
    assert abs(np.abs(vectors[:, :-3:-1].T @ stored["components"].double().numpy()) - np.eye(2)).max() < 1e-5

    extractor = make_features(str(tmp_path / "p.safetensors"))
    assert extractor.name == "efficientnet-lite0-pca2"
    images = stacked(3, 32)
    expected = (efficientnet(images) - stored["mean"].double()) @ stored["components"].double()
    assert torch.allclose(extractor(images), expected, atol=1e-9)
    with pytest.raises(DiffTuneError, match="4 images with 1280 features each have no 4 principal components"):
        save_projection(tmp_path / "q.safetensors", "efficientnet", features[:4], 4)
    with pytest.raises(DiffTuneError, match="p.safetensors is a projection already; fit another one on the features"):
        save_projection(tmp_path / "q.safetensors", str(tmp_path / "p.safetensors"), features, 2)
    assert not (tmp_path / "q.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "inception",
            "The features of inception need torch-fidelity; install it with `pip install torch-fidelity`",
        ),
        (
            "dinov2",
            "The network of the features facebook/dinov2-large cannot be downloaded: .*; take efficientnet, .*",
        ),
        ("no/such-model", "The features no/such-model are neither inception, dinov2, clip, efficientnet nor .*"),
        ("{folder}", "The features .* are neither inception, .*: Can't load image processor .*"),
        ("{folder}/no.safetensors", "The features .*/no.safetensors cannot be read: No such file or directory.*"),
        ("{folder}/text.safetensors", "The features .*/text.safetensors cannot be read: .*"),
        ("{folder}/other.safetensors", "The features .*/other.safetensors cannot be read: .*"),
        ("{folder}/unnamed.safetensors", "The features .* do not say what they are a projection of; .*"),
        (
            "{folder}/narrow.safetensors",
            "The features .* are a projection of 6 features, and efficientnet has 1280; fit .*",
        ),
        (
            "{folder}/own.safetensors",
            "The features .* are a projection of .*/own.safetensors, which is a projection, .*",
        ),
        (
            "{folder}/uneven.safetensors",
            r"The features .* have a mean of shape \(6,\) and components of shape \(5, 1\); .*",
        ),
        (
            "{folder}/flat.safetensors",
            r"The features .* have a mean of shape \(6,\) and components of shape \(6,\); .*",
        ),
        (
            "{folder}/none.safetensors",
            r"The features .* have a mean of shape \(6,\) and components of shape \(6, 0\); .*",
        ),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(name, said, tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", {"network": "efficientnet"})
    save_file({"mean": torch.zeros(2), "components": torch.zeros(2, 1)}, tmp_path / "unnamed.safetensors")
    for name_of_file, shape in (
        ("narrow", (6, 1)),
        ("own", (6, 1)),
        ("uneven", (5, 1)),
        ("flat", (6,)),
        ("none", (6, 0)),
    ):
        file = tmp_path / f"{name_of_file}.safetensors"
        network = str(file) if name_of_file == "own" else "efficientnet"
        save_file({"mean": torch.zeros(6), "components": torch.zeros(shape)}, file, {"network": network})
    with pytest.raises(DiffTuneError, match=said) as error:
        make_features(name.format(folder=tmp_path))
    assert "\n" not in str(error.value)


def test_models_with_code_of_their_own_do_not_run_it(models, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(models["dinov2"], tmp_path / "custom")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "mine", "architectures": ["Mine"]}
    config["auto_map"] = {"AutoModel": "model.Mine", "AutoConfig": "model.MineConfig"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.py").write_text("raise SystemExit('the code of a repository ran')")
    with pytest.raises(DiffTuneError, match="The features .*custom are neither"):
        make_features(str(folder))


def test_a_tiny_projection_is_one(tmp_path):
    file = save_projection_of_efficientnet(tmp_path / "tiny.safetensors")
    assert make_features(str(file))(stacked(2)).shape == (2, 3)
    assert Image.fromarray(stacked(1)[0].permute(1, 2, 0).numpy()).size == (SIDE, SIDE)
