# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import DiTTransformer2DModel, UNet2DConditionModel

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.backbones.fingerprint import weights_fingerprint
from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.cli import main
from tests.tiny import save_tiny_pipeline


@pytest.fixture
def flags(tiny_pipeline: Path, tiny_images: Path, tmp_path: Path) -> list[str]:
    return [
        "bank", "build",
        "--pretrained_model_name_or_path", str(tiny_pipeline),
        "--train_data_dir", str(tiny_images),
        "--cache_dir", str(tmp_path / "cache"),
        "--output_dir", str(tmp_path / "bank"),
        "--resolution", "16", "--bank_samples", "7", "--bank_batch_size", "4", "--bank_steps", "2",
    ]  # fmt: skip


def test_build_and_inspect(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*flags, "--bank_solver", "dpm++", "--bank_guidance_scale", "3", "--seed", "5"]) == 0
    told = [record.getMessage() for record in caplog.records]
    (block,) = [message for message in told if message.startswith("What this command does")]
    assert "  samples   7 of 16 × 16 pixels, 6 different prompts (captions)\n" in block
    assert "  sampler   dpm++, 2 steps, guidance 3\n" in block and len(block.splitlines()) <= 8
    assert any(re.fullmatch(r"The first 4 took \S+ s; the rest takes about \S+ s\.", message) for message in told)
    bank = KnowledgeBank.load(tmp_path / "bank").check()
    assert sorted(bank.prompts()[:6]) == sorted(f"a {name}, number {k}" for k, name in enumerate(
        f"{color} square" for color in ("red", "green", "blue", "yellow", "purple", "pink")
    ))  # fmt: skip
    manifest = bank.manifest
    assert (manifest.solver, manifest.steps, manifest.guidance_scale, manifest.seed) == ("dpm++", 2, 3.0, 5)
    capsys.readouterr()
    assert main(["bank", "inspect", str(tmp_path / "bank")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert lines["sampler"] == "dpm++ (DPMSolverMultistepScheduler), 2 steps"
    assert lines["samples"] == "7 in 2 shards of 4"
    assert lines["images"] == "16 × 16, latents [4, 8, 8]"
    assert lines["prompts"] == "captions" and lines["guidance"] == "3.0" and lines["seed"] == "5"
    assert lines["state"] == "complete, and every shard is as it was written"


def test_another_vae_counts_as_other_weights(
    flags: list[str], tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    vae = save_tiny_pipeline(tmp_path / "other", seed=1) / "vae"
    flags += ["--bank_samples", "1", "--bank_prompts", "empty", "--pretrained_vae_model_name_or_path"]
    assert main([*flags, str(vae)]) == 0
    found = KnowledgeBank.load(tmp_path / "bank").manifest.weights_fingerprint
    assert found == load_backbone(tiny_pipeline, vae=vae).fingerprint() != load_backbone(tiny_pipeline).fingerprint()
    capsys.readouterr()
    assert main([*flags, "user/nowhere"]) == 2
    refused = "difftune: --pretrained_vae_model_name_or_path: user/nowhere is neither a folder nor a VAE"
    assert capsys.readouterr().err.startswith(refused)


def test_a_bank_that_is_there_is_said_to_be_and_another_refused_before_weights_are_loaded(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture, monkeypatch
) -> None:
    one = [*flags, "--bank_samples", "1", "--bank_prompts", "empty"]
    assert main(one) == 0
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert "  samples   1 of 16 × 16 pixels, 1 different prompt (empty)\n" in told and "there already" not in told
    assert "has 1 sample; preview.png" in capsys.readouterr().out
    assert main(one) == 0
    assert f"{tmp_path / 'bank'} is there already, with 1 sample." in [
        record.getMessage() for record in caplog.records
    ]
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", None)
    assert main([*one, "--bank_steps", "3"]) == 2
    assert "holds a knowledge bank of other settings: --bank_steps is 3, not 2; delete" in capsys.readouterr().err


def test_inspect_says_what_is_wrong(bank: KnowledgeBank, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    damaged = shutil.copytree(bank.folder, tmp_path / "damaged")
    (damaged / "data" / "shard-00001.parquet").write_bytes(b"")
    assert main(["bank", "inspect", str(damaged)]) == 1
    assert "is damaged: data/shard-00001.parquet" in capsys.readouterr().out
    half = shutil.copytree(damaged, tmp_path / "half")
    manifest = bank.manifest.to_bytes().split(b'"shards"')[0] + b'"shards": {}}'
    (half / "manifest.json").write_bytes(manifest)
    (half / "data" / "shard-00002.parquet").unlink()
    assert main(["bank", "inspect", str(half)]) == 1
    assert "is half built (8 of 10 samples)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, message",
    [
        (["--bank_samples", "0"], "--bank_samples is 0"),
        (["--bank_prompts", "absent.txt"], "--bank_prompts: there is no file 'absent.txt'"),
        (["--train_data_dir", "absent"], "absent"),
        (["--resolution", "17"], "--resolution is 17; this model's VAE needs a multiple of 2"),
        (["--resolution", "0"], "--resolution is 0; it must be at least 1."),
        (
            ["--bank_prompts", "classes"],
            "--bank_prompts: there is no file 'classes'; give captions, empty",
        ),
        (["--pretrained_model_name_or_path", "absent"], "--pretrained_model_name_or_path"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, changes: list[str], message: str
) -> None:
    assert main([*flags, *changes]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("difftune: ")]
    assert len(error) == 1 and message in error[0]
    assert not (tmp_path / "bank").exists()


def test_captions_need_target_data(tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--pretrained_model_name_or_path", str(tiny_pipeline), "--output_dir", str(tmp_path / "bank")]
    assert main(["bank", "build", *flags]) == 2
    assert "--bank_prompts captions needs the target data" in capsys.readouterr().err


@pytest.fixture
def of_classes(tiny_dit: Path, tmp_path: Path) -> list[str]:
    return [
        "bank", "build",
        "--pretrained_model_name_or_path", str(tiny_dit),
        "--cache_dir", str(tmp_path / "cache"),
        "--output_dir", str(tmp_path / "bank"),
        "--bank_samples", "7", "--bank_batch_size", "4", "--bank_steps", "2",
    ]  # fmt: skip


def test_a_bank_of_a_class_conditional_model_is_of_all_its_classes(
    of_classes: list[str], tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([*of_classes, "--bank_guidance_scale", "1.5"]) == 0
    bank = KnowledgeBank.load(tmp_path / "bank")
    backbone = load_backbone(tiny_dit)
    assert bank.check(weights_fingerprint(tiny_dit, backbone.weight_components), backbone.latent_shape(16)) is bank
    assert sorted(bank.prompts()) == sorted(["207", "5", "7"] * 2 + bank.prompts()[-1:])
    assert (bank.manifest.pipeline_class, bank.manifest.prompt_source) == ("DiTPipeline", "classes")
    assert bank.manifest.resolution == 16, "the model's own"
    capsys.readouterr()
    assert main(["bank", "inspect", str(tmp_path / "bank")]) == 0
    assert "DiTPipeline in float32" in capsys.readouterr().out


def test_a_bank_of_some_classes_by_name_and_number_or_of_none(of_classes: list[str], tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("house cat\n007\n999\n")
    assert main([*of_classes, "--bank_prompts", str(file)]) == 0
    assert set(KnowledgeBank.load(tmp_path / "bank").prompts()) == {"5", "7", "999"}
    empty = [*of_classes, "--bank_prompts", "empty", "--output_dir", str(tmp_path / "empty"), "--bank_samples", "1"]
    assert main(empty) == 0
    assert KnowledgeBank.load(tmp_path / "empty").prompts() == [""]


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            ["--bank_prompts", "captions"],
            "--bank_prompts is captions, and a DiTPipeline is conditioned on classes; give",
        ),
        (["--bank_prompts", "absent.txt"], "--bank_prompts: there is no file 'absent.txt'"),
        (["--bank_prompts", "FILE"], "--bank_prompts: 'a green bar' is no class of"),
        (["--resolution", "32"], "--resolution is 32; this model makes images of 16 pixels only."),
    ],
)
def test_a_mistake_with_classes_is_one_sentence_before_weights_are_loaded(
    of_classes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch, changes: list[str], message: str
) -> None:
    (tmp_path / "FILE").write_text("dog\na green bar\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DiTTransformer2DModel, "from_pretrained", None)
    assert main([*of_classes, *changes]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("difftune: ")]
    assert len(error) == 1 and message in error[0]
    assert not (tmp_path / "bank").exists()


def test_abbreviated_flags_are_refused(flags: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main([*flags, "--bank_sample", "3"]) == 2
    assert capsys.readouterr().err == "difftune: Unrecognized arguments: --bank_sample 3.\n"


def test_help_comes_without_loading_torch() -> None:
    code = "import sys; from diffusers_difftune.cli import main\ntry: main(['bank', 'build', '--help'])\n"
    code += "except SystemExit: assert not {'torch', 'diffusers', 'numpy', 'datasets'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "--bank_guidance_scale" in run.stdout
