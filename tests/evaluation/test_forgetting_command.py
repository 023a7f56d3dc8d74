# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune forgetting` from end to end, on tiny models."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.backbones.dit import DiTBackbone
from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.cli import main
from diffusers_difftune.cli.forgetting_comparison import Images, features_key
from diffusers_difftune.evaluation.features import make_features
from diffusers_difftune.evaluation.finetuned import open_finetuned
from diffusers_difftune.evaluation.metrics import extract_features
from diffusers_difftune.evaluation.samples import sample_images
from tests.bank.building import small_bank
from tests.evaluation.models import LORA, save_adapter, save_classes, save_controlnet, save_full
from tests.tiny import LABELS, save_tiny_conditions
from tests.tiny_features import save_dinov2


CPU = torch.device("cpu")
QUICK = ["--rows", "3", "--fisher_rows", "2", "--percents", "50", "--steps", "4", "--guidance_scale", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images with captions, labels and control images."""
    return save_tiny_conditions(tmp_path_factory.mktemp("data"), count=12)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dinov2(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def full(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_full(tmp_path_factory.mktemp("models") / "full", tiny_pipeline)


@pytest.fixture(scope="module")
def bank(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBank:
    pipeline = load_backbone(tiny_pipeline).pipeline(None, CPU, torch.float32)
    return small_bank(pipeline, tiny_pipeline, tmp_path_factory.mktemp("bank") / "bank")


@pytest.fixture
def command(features: Path, tmp_path: Path):
    """Runs the command; returns its code, and where it wrote to."""

    def run(*arguments: object, output: str = "out") -> tuple[int, Path]:
        flags = [*QUICK, "--features", str(features), "--cache_dir", str(tmp_path / "cache")]
        out = tmp_path / output
        return main(["forgetting", *map(str, arguments), *flags, "--output_dir", str(out)]), out

    return run


def test_a_whole_model(
    command, tiny_pipeline: Path, full: Path, data: Path, features: Path, bank: KnowledgeBank, capsys, caplog
) -> None:
    code, out = command(tiny_pipeline, full, data, "--source", bank.folder, "--num_images", 10)
    assert code == 0
    printed = capsys.readouterr().out.splitlines()
    report = json.loads((out / "forgetting.json").read_text())
    (end,) = [number for number, line in enumerate(printed) if line.startswith("The figures are in")]
    assert printed[0] == "What fine-tuning did" and max(map(len, printed[:end])) <= 80
    said = " ".join("\n".join(printed[1:]).split())  # the labels, and their texts in lines of their own
    assert said.startswith(" ".join(f"{name} {text}" for name, text in report["words"].items()))
    assert "pictures in forgetting.png and samples.png beside it." in said
    (block,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("What this command does")]
    assert "  samples   10 at each of 3 points, 4 steps" in block
    assert list(report["words"]) == ["Forgotten", "Learned", "Swap", "Control", "Distance"]
    settings = report["settings"]
    assert (settings["kind"], settings["num_images"], settings["source_kind"]) == ("full", 10, "bank")
    assert report["losses"]["source"]["num_rows"] == report["losses"]["target"]["num_rows"] == 3
    assert report["distance"]["num_rows"] == 2 and report["distance"]["total"]["num_changed"] > 18_000
    points = report["swap"]["points"]
    assert [(point["end"], point["percent"], point["swapped_steps"]) for point in points] == [
        (end, percent, count) for end in ("data", "noise") for percent, count in ((0, 0), (50, 2), (100, 4))
    ]
    for point in points:
        assert point["target"]["num_generated"] == point["target"]["num_real"] == 10
        assert point["target"]["fid"] > 0 and point["source"]["kid"] is not None
    assert points[0]["target"] == points[3]["target"] and points[2]["target"] == points[5]["target"]
    assert points[0]["kid_difference"] == 0 != points[1]["kid_difference"]
    for name, size in (("forgetting.png", (1248, 912)), ("samples.png", None)):
        with Image.open(out / name) as picture:
            assert size in (None, picture.size)

    # the ends of the curve are the two pipelines, sample for sample
    (kept,) = (out / "features").iterdir()
    found = {file.stem: load_file(file)["features"] for file in kept.iterdir()}
    assert found.keys() == {"finetuned", "pretrained", "data-2", "noise-2"}
    from diffusers_difftune.config import DataConfig
    from diffusers_difftune.data.dataset import load_target_data
    from diffusers_difftune.evaluation.real_images import drawn_rows

    target = load_target_data(DataConfig(train_data_dir=str(data)), 0, out / "cache")
    prompts = [target.captions(row)[0] for row in drawn_rows(target, 10)]
    for name, folder in (("finetuned", full), ("pretrained", tiny_pipeline)):
        pipeline = load_backbone(folder).pipeline(None, CPU, torch.float32)
        images = sample_images(pipeline, prompts, steps=4, guidance_scale=2.0, height=16, width=16, batch_size=16)
        assert torch.equal(extract_features(make_features(str(features)), images, 16), found[name])

    # run again it samples nothing again, and says the same
    (kept / "data-2.safetensors").unlink()
    before = {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}
    assert command(tiny_pipeline, full, data, "--source", bank.folder, "--num_images", 10) == (0, out)
    assert capsys.readouterr().out.splitlines()[:5] == printed[:5]
    after = {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}
    assert after.keys() - before.keys() == {"data-2.safetensors"} and before.items() <= after.items()
    # with other settings it does, and does not write over the figures
    figures, other = out / "forgetting.json", (tiny_pipeline, full, data, "--source", bank.folder, "--seed", 1)
    kept_figures = figures.read_bytes()
    assert command(*other)[0] == 2 and figures.read_bytes() == kept_figures
    said = capsys.readouterr().err
    assert (
        f"--output_dir: {figures} holds the figures of another measurement (num_images was 10 and is 12; seed was 0"
        in said
    )
    figures.unlink()
    assert command(*other)[0] == 0
    assert len(list((out / "features").iterdir())) == 2


def test_an_adapter_and_new_samples_for_source_data(command, tiny_pipeline: Path, data: Path, tmp_path: Path) -> None:
    lora = save_adapter(tmp_path / "lora", tiny_pipeline)
    code, out = command(tiny_pipeline, lora, data)
    assert code == 0
    report = json.loads((out / "forgetting.json").read_text())
    assert report["settings"]["kind"] == "lora" and report["settings"]["source_kind"] == "bank"
    assert report["distance"]["num_trained"] < report["distance"]["total"]["num_changed"]
    bank = KnowledgeBank.load(out / "knowledge_bank").check()
    assert len(bank) == 8  # fewer say nothing
    assert bank.manifest.seed >= 2**31  # which no training takes


def test_a_controlnet(command, tiny_pipeline: Path, data: Path, tmp_path: Path) -> None:
    controlnet = save_controlnet(tmp_path / "controlnet", tiny_pipeline)
    code, out = command(tiny_pipeline, controlnet, data, "--source", data, "--floor_data", data)
    assert code == 0
    report = json.loads((out / "forgetting.json").read_text())
    assert report["settings"]["kind"] == "controlnet" and report["settings"]["source_kind"] == "images"
    assert "under a blank control image" in report["words"]["Forgotten"]
    assert set(report["distance"]["blocks"]) == {
        "conv_in",
        "time_embedding",
        "down_blocks.0",
        "down_blocks.1",
        "mid_block",
    }
    points = report["swap"]["points"]
    assert len({point["target"]["kid"] for point in points}) == 4  # both ends once, and a half from either


def test_new_classes(command, tiny_dit: Path, data: Path, tmp_path: Path) -> None:
    tuned = save_classes(tmp_path / "tuned", tiny_dit, sorted(LABELS))
    code, out = command(tiny_dit, tuned, data)
    assert code == 0
    report = json.loads((out / "forgetting.json").read_text())
    assert report["settings"]["same_classes"] is False
    assert KnowledgeBank.load(out / "knowledge_bank").prompts() == [""] * 8  # the null class, which both know
    assert report["losses"]["source"]["mean_change"] != 0 != report["distance"]["total"]["ewc"]


def test_an_adapter_for_new_classes(command, tiny_dit: Path, data: Path, tmp_path: Path) -> None:
    settings = replace(LORA, always_trained=DiTBackbone.always_trained)
    lora = save_adapter(tmp_path / "lora", tiny_dit, settings, classes=sorted(LABELS))
    code, out = command(tiny_dit, lora, data)
    assert code == 0
    report = json.loads((out / "forgetting.json").read_text())
    assert (report["settings"]["kind"], report["settings"]["same_classes"]) == ("lora", False)
    assert KnowledgeBank.load(out / "knowledge_bank").prompts() == [""] * 8
    assert report["losses"]["source"]["mean_change"] != 0 != report["distance"]["total"]["ewc"]
    changed = {name for name, block in report["distance"]["blocks"].items() if block["num_changed"]}
    assert changed == {"transformer_blocks.0", "transformer_blocks.1"}


def test_autocast(command, tiny_pipeline: Path, full: Path, data: Path, bank: KnowledgeBank) -> None:
    AcceleratorState._reset_state(True)  # other tests of this process have set it to full precision
    code, out = command(tiny_pipeline, full, data, "--source", bank.folder, "--mixed_precision", "bf16")
    assert code == 0 and json.loads((out / "forgetting.json").read_text())["settings"]["precision"] == "bfloat16"
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["SD", "FULL", "DATA", "--rows", "1"], "--rows is 1; it must be at least 2"),
        (["SD", "FULL", "DATA", "--percents", "110"], "--percents is 110; give numbers from 0 to 100"),
        (["SD", "FULL", "DATA", "--guidance_scale", "0"], "--guidance_scale is 0.0; it must be at least 1.0"),
        (["absent", "FULL", "DATA"], "PRETRAINED: absent is neither a folder"),
        (["SD", "absent", "DATA"], "FINETUNED: absent is neither a folder nor a model"),
        (
            ["SD", "FULL", "DATA", "--pretrained_vae_model_name_or_path", "absent"],
            "--pretrained_vae_model_name_or_path: absent is neither a folder nor a VAE",
        ),
        (["DIT", "FULL", "DATA"], "is a StableDiffusionPipeline and the pretrained pipeline a DiTPipeline"),
        (["SD", "FULL", "nowhere/at/all"], "DATA nowhere/at/all: there is no such folder or file"),
        (["SD", "FULL", "DATA", "--num_images", "13"], "--num_images is 13, and DATA"),
        (["SD", "FULL", "FEW"], "has 6 rows; figures of fewer than 8 images say nothing"),
        (["SD", "FULL", "DATA", "--source", "FEW"], "has 6 rows; figures of fewer than 8 images say nothing"),
        (
            ["SD", "FULL", "DATA", "--source", "nowhere/at/all"],
            "--source nowhere/at/all: there is no such folder or file",
        ),
        (["SD", "FULL", "DATA", "--source", "OTHER_BANK"], "was sampled from other weights than the model's"),
        (["SD", "FULL", "DATA", "--caption_column", "words"], "--caption_column"),
        (["SD", "CONTROLNET", "PLAIN"], "--conditioning_image_column"),
        (["SD", "FULL", "DATA", "--resolution", "15"], "--resolution is 15"),
        (["DIT", "CLASSES", "DATA"], "DATA: the data have the class"),
        (["SD", "FULL", "DATA", "--features", "nothing"], "--features: the features nothing"),
        (["SD", "FULL", "DATA", "--output_dir", "FILE"], "is a file; choose a folder you can write to"),
    ],
)
def test_a_mistake_is_one_sentence_before_weights_are_loaded(
    arguments: list[str], message: str, places: dict[str, Path], tmp_path: Path, capsys, monkeypatch
) -> None:
    from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel

    def too_late(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights are loaded")

    for model in (AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel):
        monkeypatch.setattr(model, "from_pretrained", too_late)
    given = [str(places.get(each, each)) for each in arguments]
    flags = {
        "--features": str(places["FEATURES"]),
        "--output_dir": str(tmp_path / "out"),
        "--cache_dir": str(tmp_path),
    }
    given += [part for flag, value in flags.items() if flag not in given for part in (flag, value)]
    assert main(["forgetting", *given]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("difftune: ")]
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def places(
    tiny_pipeline: Path, tiny_dit: Path, tiny_images: Path, data: Path, features: Path, full: Path, bank: KnowledgeBank,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:  # fmt: skip
    folder = tmp_path_factory.mktemp("places")
    other = shutil.copytree(bank.folder, folder / "bank")
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text().replace(bank.manifest.weights_fingerprint, "0" * 64))
    plain = folder / "plain"
    shutil.copytree(data, plain)
    lines = [json.loads(line) for line in (plain / "metadata.jsonl").read_text().splitlines()]
    for line in lines:
        del line["conditioning_image"]
    (plain / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "file").write_text("")
    return {
        "SD": tiny_pipeline,
        "DIT": tiny_dit,
        "FULL": full,
        "DATA": data,
        "FEW": tiny_images,
        "FEATURES": features,
        "OTHER_BANK": other,
        "PLAIN": plain,
        "FILE": folder / "file",
        "CONTROLNET": save_controlnet(folder / "controlnet", tiny_pipeline),
        "CLASSES": save_classes(folder / "classes", tiny_dit, ["beech", "birch"]),
    }


def test_features_are_kept_for_what_they_are_of(tiny_pipeline: Path, full: Path, tmp_path: Path) -> None:
    backbone = load_backbone(tiny_pipeline)
    names = ("resolution", "features", "steps", "guidance_scale", "precision", "batch_size", "seed", "difftune")
    network = tmp_path / "projection.safetensors"

    def key(
        folder: Path = full,
        data: str = "data",
        prompt: str = "",
        projection: bytes = b"",
        pretrained: str = "a",
        **settings: object,
    ) -> str:
        network.write_bytes(projection)
        target = Images(torch.zeros(1), [prompt], key=data)
        files = open_finetuned(backbone, str(folder)).files()
        return features_key(dict.fromkeys(names, 1) | settings, pretrained, files, target, network)

    assert key() == key()
    others = [key(folder=tiny_pipeline), key(data="other"), key(prompt="other"), key(projection=b"other")]
    others.append(key(pretrained="b"))
    others += [key(**{name: 2}) for name in names]
    assert len({key(), *others}) == 1 + len(others)


def test_help_comes_without_loading_torch() -> None:
    code = "import sys; from diffusers_difftune.cli import main\ntry: main(['forgetting', '--help'])\n"
    code += "except SystemExit: assert not {'torch', 'numpy', 'datasets', 'matplotlib'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "--percents" in run.stdout and "--fisher_rows" in run.stdout
