# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune train`: the scripts in this process, or several of them by the launcher of accelerate."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diffusers_difftune.cli import main
from diffusers_difftune.cli.train import SCRIPTS, needs_launcher, split_words
from tests.training.runs import (
    MANY,
    arguments,
    assert_same_run,
    environment,
    log,
    losses,
    same_weights,
    timeless,
    wait_for,
)
from tests.training.runs import run as run_script


DIFFTUNE = [sys.executable, "-m", "diffusers_difftune"]
FULL = "train_text_to_image_difftune"
# What `accelerate config` writes for one GPU.
ONE_GPU = {
    "compute_environment": "LOCAL_MACHINE",
    "debug": False,
    "distributed_type": "NO",
    "downcast_bf16": "no",
    "enable_cpu_affinity": False,
    "gpu_ids": "all",
    "machine_rank": 0,
    "main_training_function": "main",
    "mixed_precision": "bf16",
    "num_machines": 1,
    "num_processes": 1,
    "rdzv_backend": "static",
    "same_network": True,
    "tpu_env": [],
    "tpu_use_cluster": False,
    "tpu_use_sudo": False,
    "use_cpu": False,
}


def test_every_script_is_a_task() -> None:
    scripts = Path(__file__).parents[2] / "training_scripts"
    assert sorted(SCRIPTS.values()) == sorted(path.stem for path in scripts.glob("train_*.py"))


def test_flags_of_the_launcher_stand_before_the_task() -> None:
    assert split_words(["--num_processes", "2", "lora", "--rank", "8"]) == (
        ["--num_processes", "2"],
        "lora",
        ["--rank", "8"],
    )
    assert split_words(["controlnet"]) == ([], "controlnet", [])
    assert split_words(["--help"]) == (["--help"], None, [])


def test_one_process_needs_no_launcher() -> None:
    assert not needs_launcher({})
    assert not needs_launcher(ONE_GPU)
    assert not needs_launcher({"num_processes": 1, "cpu": True, "mixed_precision": "fp16"})


@pytest.mark.parametrize(
    "asked",
    [
        {"num_processes": 2},
        {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}},
        {"distributed_type": "DEEPSPEED"},
        {"num_machines": 2},
        {"gpu_ids": "1"},
        {"dynamo_config": {"dynamo_backend": "INDUCTOR"}},
        {"compute_environment": "AMAZON_SAGEMAKER"},
    ],
    ids=str,
)
def test_whatever_else_is_asked_for_needs_the_launcher(asked: dict) -> None:
    assert needs_launcher(ONE_GPU | asked)


def test_one_process_is_this_one(
    tiny_pipeline: Path, tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run as the script's, with the precision of accelerate's file, and nothing is left behind."""
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    before, argv = dict(os.environ), sys.argv
    (tmp_path / "one_gpu.yaml").write_text(yaml.safe_dump(ONE_GPU))
    words = ["train", "--config_file", str(tmp_path / "one_gpu.yaml"), "text-to-image"]
    assert main([*words, *arguments(tiny_pipeline, tiny_images, tmp_path / "run")]) == 0
    assert (dict(os.environ), sys.argv) == (before, argv)
    expected = run_script(FULL, tiny_pipeline, tiny_images, tmp_path / "script", "--mixed_precision bf16")
    assert losses(tmp_path / "run") == losses(expected)
    same_weights(tmp_path / "run", expected)


def test_the_file_that_accelerate_config_writes_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.config import config_args

    from diffusers_difftune.cli.train import default_config_file, read_launch_settings

    assert default_config_file() is None and read_launch_settings(None) == {}
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    file = tmp_path / Path(config_args.default_yaml_config_file).relative_to(config_args.hf_cache_home)
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(ONE_GPU | {"num_processes": 4}))
    assert needs_launcher(read_launch_settings(None))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "A task is missing"),
        ("text_to_image --resolution 16", "is not one of text-to-image, lora, controlnet, class-conditional"),
        ("lora --num_processes 2", "--num_processes is a flag of the launcher and stands before the task"),
        ("--config_file nowhere.yaml lora", "--config_file nowhere.yaml cannot be read"),
        ("--config_file list.yaml lora", "is not a file that `accelerate config` wrote"),
        ("--use_fsdp --use_deepspeed lora", "You can only use one of"),
        ("--mixed_precision half lora", "Argument --mixed_precision: invalid choice: 'half'"),
        ("--nothing 2 lora", "Unrecognized arguments: --nothing"),
    ],
)
def test_a_mistake_before_the_script_is_one_sentence(
    words: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("- 1")
    assert main(["train", *words.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("difftune: ") and sentence in said and said.count("\n") == 1


def test_a_mistake_in_the_scripts_flags_is_the_scripts_sentence(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "lora", "--train_data_dir", "nowhere", "--resolution", "-3"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1


def test_help_of_train_and_of_a_task(capsys: pytest.CaptureFixture) -> None:
    for words, expected in (
        (["--help"], "usage: difftune train [LAUNCH FLAGS] TASK [FLAGS]"),
        (["lora", "--help"], "usage: difftune train lora "),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["train", *words])
        assert ended.value.code in (0, None)
        assert capsys.readouterr().out.startswith(expected)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("diffusers-difftune 0.")


def difftune(*words: object) -> subprocess.CompletedProcess:
    """`difftune` in a process of its own."""
    command = [*DIFFTUNE, *map(str, words)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=250)


@pytest.mark.slow
def test_two_processes_of_accelerates_file_are_launched(
    tiny_pipeline: Path, tiny_images: Path, tmp_path: Path
) -> None:
    file = tmp_path / "two.yaml"
    two = {"distributed_type": "MULTI_CPU", "num_processes": 2, "use_cpu": True, "mixed_precision": "no"}
    file.write_text(yaml.safe_dump(ONE_GPU | two))
    words = arguments(tiny_pipeline, tiny_images, tmp_path / "run", "--train_batch_size 2")
    done = difftune("train", "--config_file", file, "text-to-image", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "run_config.json").read_text())["num_processes"] == 2
    expected = run_script(FULL, tiny_pipeline, tiny_images, tmp_path / "one")
    assert_same_run(tmp_path / "run", expected)


@pytest.mark.slow
def test_of_several_processes_a_mistake_is_one_sentence_without_the_launchers_words(
    tiny_pipeline: Path, tiny_images: Path, tmp_path: Path
) -> None:
    words = arguments(tiny_pipeline, tmp_path / "nowhere", tmp_path / "run")
    done = difftune("train", "--num_processes", 2, "text-to-image", *words)
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: --train_data_dir: there is no folder {tmp_path / 'nowhere'}."


@pytest.mark.slow
def test_what_the_launcher_says_of_a_process_that_died_is_kept(
    tiny_pipeline: Path, tiny_images: Path, tmp_path: Path
) -> None:
    words = arguments(tiny_pipeline, tiny_images, tmp_path / "run", MANY.format(100000))
    launcher = started(tmp_path / "run", "train", "--num_processes", 2, "text-to-image", *words)
    workers = children(launcher.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    said = launcher.communicate(timeout=100)[1]
    assert launcher.returncode == 128 + signal.SIGKILL
    assert f"Signal {int(signal.SIGKILL)}" in said


def started(folder: Path, *words: object, steps: int = 5) -> subprocess.Popen:
    """`difftune train` with a run of many steps, so many of which are done."""
    process = subprocess.Popen([*DIFFTUNE, *map(str, words)], env=environment(), stderr=subprocess.PIPE, text=True)
    lines = folder / "training_log.jsonl"
    wait_for(lambda: process.poll() is not None or (lines.is_file() and len(lines.read_text().splitlines()) >= steps))
    assert process.poll() is None, process.communicate()[1][-3000:]
    return process


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_saves_the_step(
    processes: int, number: int, tiny_pipeline: Path, tiny_images: Path, tmp_path: Path
) -> None:
    """As of the script itself; of one process, the run goes on bit for bit."""
    stopped = tmp_path / "stopped"
    flags = MANY + f" --train_batch_size {4 // processes}"
    words = ["train", "--num_processes", processes, "text-to-image"]
    process = started(stopped, *words, *arguments(tiny_pipeline, tiny_images, stopped, flags.format(100000)))
    process.send_signal(number)
    said = process.communicate(timeout=100)[1]
    (checkpoint,) = stopped.glob("checkpoint-*")
    assert process.returncode == 128 + number, said[-3000:]
    assert f"{checkpoint.name} is saved" in said and "Traceback" not in said
    assert len(log(stopped)) == int(checkpoint.name.split("-")[1])
    if processes == 1:
        flags = flags.format(int(checkpoint.name.split("-")[1]) + 3)
        resumed = run_script(FULL, tiny_pipeline, tiny_images, stopped, f"{flags} --resume_from_checkpoint latest")
        whole = run_script(FULL, tiny_pipeline, tiny_images, tmp_path / "whole", flags)
        assert timeless(resumed) == timeless(whole)
        same_weights(resumed, whole)
