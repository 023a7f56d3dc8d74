# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Extractors that are models: tiny ones with random weights, through the same code as those on the Hub."""

import json
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import MarigoldNormalsPipeline
from PIL import Image
from safetensors.torch import load_file
from transformers import GLPNForDepthEstimation, SegformerForSemanticSegmentation, pipeline

from diffusers_difftune.controls import MODEL_KINDS, make_extractor
from diffusers_difftune.controls.models import CLASSES, DEFAULT_MODELS, class_palette
from diffusers_difftune.errors import DiffTuneError
from tests.controls.tiny_models import save_dpt, save_glpn, save_marigold, save_segformer
from tests.hub_server import HubServer
from tests.tiny import tiny_image


SAVE = {"depth": save_dpt, "normal": save_marigold, "segmentation": save_segformer}
IMAGES = [tiny_image(index, (64, 64))[0] for index in range(3)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: save(folder / kind) for kind, save in SAVE.items()} | {"metric": save_glpn(folder / "metric")}


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_extracting_is_exact_and_keeps_sizes(kind: str, models: dict[str, Path]) -> None:
    images = [*IMAGES, tiny_image(3, (40, 24))[0], tiny_image(4, (32, 70))[0]]
    first, again = make_extractor(kind, str(models[kind])), make_extractor(kind, str(models[kind]))
    for a, b, image in zip(first(images), again(images), images):
        assert a.mode == "RGB" and a.size == image.size and a.tobytes() == b.tobytes()
        assert len(np.unique(np.asarray(a))) > 1
    assert first.settings == again.settings
    for together, image in zip(first(IMAGES), IMAGES):  # a batch changes nothing but the last digits
        (alone,) = first([image])
        assert (abs(np.asarray(together).astype(int) - np.asarray(alone)) > 1).mean() < 0.01


def test_depth_is_what_the_pipeline_of_transformers_finds(models: dict[str, Path]) -> None:
    found = make_extractor("depth", str(models["depth"]))(IMAGES)
    expected = pipeline("depth-estimation", str(models["depth"]))(IMAGES)
    for ours, theirs in zip(found, expected):
        depth = theirs["predicted_depth"].squeeze()
        depth = (depth - depth.min()) / (depth.max() - depth.min())
        assert abs(np.asarray(ours)[..., 0] / 255 - depth.numpy()).max() < 0.005
        assert np.asarray(ours).max() == 255 and np.asarray(ours).min() == 0


def test_what_is_near_is_bright_for_models_of_distance_too(models: dict[str, Path]) -> None:
    extractor = make_extractor("depth", str(models["metric"]))
    assert extractor.settings["parameters"] == {"metric": True}
    assert make_extractor("depth", str(models["depth"])).settings["parameters"] == {"metric": False}
    network = GLPNForDepthEstimation.from_pretrained(models["metric"]).eval()
    pixels = torch.from_numpy(np.asarray(IMAGES[0]) / 255).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        distance = network(pixels).predicted_depth[0].numpy()
    (found,) = extractor(IMAGES[:1])
    found = np.asarray(found)[..., 0].astype(float)
    assert np.corrcoef(found.ravel(), distance.ravel())[0, 1] < -0.95


def test_segmentation_paints_the_likeliest_class(models: dict[str, Path]) -> None:
    found = make_extractor("segmentation", str(models["segmentation"]))(IMAGES)
    network = SegformerForSemanticSegmentation.from_pretrained(models["segmentation"]).eval()
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for ours, image in zip(found, IMAGES):
        pixels = torch.from_numpy(np.asarray(image) / 255).permute(2, 0, 1).float()
        with torch.no_grad():
            scores = network(((pixels - mean) / deviation)[None]).logits
        scores = torch.nn.functional.interpolate(scores, (64, 64), mode="bilinear", align_corners=False)
        expected = class_palette(12)[scores.argmax(1)[0].numpy()]
        assert (np.asarray(ours) == expected).all(-1).mean() > 0.99
        assert len(np.unique(expected.reshape(-1, 3), axis=0)) > 2


def test_classes_have_colours_of_their_own_and_none_is_black() -> None:
    palette = class_palette(150)
    assert len({tuple(color) for color in palette.tolist()} | {(0, 0, 0)}) == 151
    assert np.array_equal(class_palette(20), palette[:20])
    distances = np.linalg.norm(palette[:20, None].astype(int) - palette[None, :20], axis=-1)
    assert distances[~np.eye(20, dtype=bool)].min() >= 64


def test_normals_are_marigolds(models: dict[str, Path]) -> None:
    found = make_extractor("normal", str(models["normal"]))(IMAGES)
    marigold = MarigoldNormalsPipeline.from_pretrained(models["normal"])
    marigold.set_progress_bar_config(disable=True)
    for ours, image in zip(found, IMAGES):
        normals = marigold(image, generator=torch.Generator().manual_seed(0)).prediction[0]
        assert abs(np.asarray(ours) / 255 * 2 - 1 - normals).max() < 0.01


def test_a_folder_is_known_by_its_files(models: dict[str, Path], tmp_path: Path) -> None:
    def settings(folder: Path) -> dict:
        return make_extractor("segmentation", str(folder)).settings

    copy = shutil.copytree(models["segmentation"], tmp_path / "segmentation")
    assert settings(copy) == settings(models["segmentation"])
    assert settings(copy)["model"] == "segmentation"  # no path of this machine
    other = save_segformer(tmp_path / "other" / "segmentation", seed=1)
    assert settings(other)["fingerprint"] != settings(copy)["fingerprint"]


@pytest.mark.parametrize(
    "kind, other, found",
    [
        ("depth", "segmentation", "SegformerForSemanticSegmentation; it must be a depth model of transformers"),
        ("segmentation", "depth", "DPTForDepthEstimation; it must be a segmentation model of transformers"),
    ],
)
def test_a_model_for_another_task_is_refused(kind: str, other: str, found: str, models: dict[str, Path]) -> None:
    with pytest.raises(DiffTuneError, match=f"The {kind} model .* is a {found}"):
        make_extractor(kind, str(models[other]))


def test_another_pipeline_and_code_of_its_own_are_refused(tiny_pipeline: Path, models, tmp_path: Path) -> None:
    with pytest.raises(DiffTuneError, match="is a StableDiffusionPipeline; it must be a MarigoldNormalsPipeline"):
        make_extractor("normal", str(tiny_pipeline))
    custom = shutil.copytree(models["normal"], tmp_path / "custom")
    index = json.loads((custom / "model_index.json").read_text())
    index["_class_name"] = ["pipeline", "MarigoldNormalsPipeline"]  # of a file pipeline.py in the repository
    (custom / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(DiffTuneError, match="it must be a MarigoldNormalsPipeline"):
        make_extractor("normal", str(custom))
    custom = shutil.copytree(models["depth"], tmp_path / "depth")
    config = json.loads((custom / "config.json").read_text()) | {"architectures": ["MyDepth"], "model_type": "mine"}
    config["auto_map"] = {"AutoModelForDepthEstimation": "model.MyDepth"}
    (custom / "config.json").write_text(json.dumps(config))
    (custom / "model.py").write_text("raise SystemExit('the code of a repository ran')")
    with pytest.raises(DiffTuneError, match="is a MyDepth; it must be a depth model of transformers"):
        make_extractor("depth", str(custom))


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_a_model_that_cannot_be_had_is_refused(kind: str, tmp_path: Path) -> None:
    for model in (str(tmp_path), "no/such-model", "/no/such/folder", None):
        with pytest.raises(
            DiffTuneError, match=f"^The {kind} model .* is neither a folder with a model nor one that"
        ) as e:
            make_extractor(kind, model)
        assert "\n" not in str(e.value) and (model or DEFAULT_MODELS[kind][0]) in str(e.value)


def test_a_damaged_model_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(models["depth"], tmp_path / "depth")
    (copy / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DiffTuneError, match="The depth model .* is neither a folder with a model"):
        make_extractor("depth", str(copy))


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_a_model_in_a_pickle_is_refused(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Also one that transformers and diffusers would load."""
    copy = shutil.copytree(models[kind], tmp_path / "model")
    for file in list(copy.rglob("*.safetensors")):
        name = "pytorch_model.bin" if file.name == "model.safetensors" else file.with_suffix(".bin").name
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    with pytest.raises(DiffTuneError, match=f"The {kind} model .* is neither a folder with a model"):
        make_extractor(kind, str(copy))


def test_images_that_a_model_does_not_take_are_said(models: dict[str, Path]) -> None:
    with pytest.raises(DiffTuneError, match="metric does not take images of 8 × 9: "):
        make_extractor("depth", str(models["metric"]))([Image.new("RGB", (8, 9))])


def test_the_default_models_have_known_classes() -> None:
    assert set(DEFAULT_MODELS) == set(CLASSES) == set(MODEL_KINDS)
    assert "DepthAnythingForDepthEstimation" in CLASSES["depth"]
    assert "UperNetForSemanticSegmentation" in CLASSES["segmentation"]


def test_default_models_are_asked_for_at_a_fixed_commit(hub_server: HubServer) -> None:
    program = """
        from diffusers_difftune.controls import MODEL_KINDS, make_extractor
        from diffusers_difftune.errors import DiffTuneError
        for kind in MODEL_KINDS:
            for revision in (None, "v2"):
                try:
                    make_extractor(kind, None, revision)
                except DiffTuneError as error:
                    print(error)
    """
    run = hub_server.run(program)
    assert run.stdout.count("can be had from the Hub") == 2 * len(MODEL_KINDS), run.stdout + run.stderr
    asked = {request.split(" /")[1].rpartition("/")[0] for request in hub_server.requests if "/resolve/" in request}
    assert asked == {
        f"{model}/resolve/{revision}" for model, commit in DEFAULT_MODELS.values() for revision in (commit, "v2")
    }
    assert all(len(commit) == 40 for _, commit in DEFAULT_MODELS.values())


FROM_THE_HUB = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    from huggingface_hub import HfApi
    from diffusers_difftune.cli import main
    from diffusers_difftune.controls import make_extractor
    kind, folder, images, out = sys.argv[1:]
    api = HfApi()
    api.create_repo("user/model", private=False)
    commits = []
    for weight in (1, 2):
        Path(folder, "notes.json").write_text(str(weight))
        commits.append(api.upload_folder(repo_id="user/model", folder_path=folder).oid)
    print(json.dumps(commits))
    for revision in (None, commits[0], "main"):
        print(json.dumps(make_extractor(kind, "user/model", revision).settings))
    build = ["conditions", "build", images, out, "--kind", kind, "--model", "user/model"]
    print(main([*build, "--revision", commits[0]]), main([*build, "--revision", commits[0]]), main(build))
    for weights in Path(folder).rglob("*.safetensors"):
        weights.write_bytes(b"damaged")
    api.upload_folder(repo_id="user/model", folder_path=folder)
    print(main(build), main([*build, "--revision", commits[0]]))
    """
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_the_commit_on_the_hub_is_pinned(
    kind: str, hub_server: HubServer, models: dict[str, Path], tiny_images: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(models[kind], tmp_path / "model")
    run = hub_server.run(FROM_THE_HUB, kind, folder, tiny_images, tmp_path / "out", HF_HOME=str(tmp_path / "hf"))
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith(("[", "{", "0 ", "2 "))]
    commits, *settings = map(json.loads, lines[:4])
    assert [entry["commit"] for entry in settings] == [commits[1], commits[0], commits[1]]
    assert all(entry["model"] == "user/model" and entry["kind"] == kind for entry in settings)
    assert lines[4] == "0 0 2"
    assert lines[5] == "2 0"  # the weights, too, are those of the commit
    refusal = f"holds a set of control images of other settings: commit is {commits[1]}, not {commits[0]}; delete"
    assert refusal in run.stderr
    assert not [r for r in hub_server.requests if r.startswith("GET") and r.endswith(".py")]


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_a_model_is_on_its_device_from_a_call_until_it_is_released(
    kind: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    moves, move = [], torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *a, **k: moves.append(str(a[0])) or move(self, *a, **k))
    extractor = make_extractor(kind, str(models[kind]), device="cpu:0")  # the processor by another name
    assert not moves
    (first,) = extractor(IMAGES[:1])
    assert set(moves) == {"cpu:0"}
    moves.clear()
    extractor.release()
    assert set(moves) == {"cpu"}
    (again,) = extractor(IMAGES[:1])
    assert moves[-1] == "cpu:0" and first.tobytes() == again.tobytes()
