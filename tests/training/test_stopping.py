# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A run that is asked to stop: it saves its step, says how to go on, and ends as if it had never been interrupted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from diffusers_difftune.training.quality_evaluation import QualityEvaluation
from diffusers_difftune.training.stopping import is_launcher
from diffusers_difftune.training.trainer import Trainer
from diffusers_difftune.training.validation import Validation
from tests.tiny import save_tiny_images
from tests.tiny_features import save_projection_of_efficientnet
from tests.training.runs import (
    FULL,
    LORA,
    MANY,
    ROOT,
    SCRIPTS,
    arguments,
    assert_same_run,
    environment,
    launch,
    log,
    run,
    run_on_processes,
    same_weights,
    timeless,
    wait_for,
)


EMA = "--use_ema --random_flip --gradient_accumulation_steps 2 --lr_scheduler cosine"


@contextmanager
def signal_in_step(step: int, number: int) -> Iterator[None]:
    """Sends this process a signal in the middle of an optimiser step."""
    seen = 0

    def count(*_) -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), number)

    handle = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("script", "flags", "number", "code"),
    [(FULL, EMA, signal.SIGTERM, 143), (LORA, "--lora_dropout 0.2 --lora_alpha 8", signal.SIGINT, 130)],
)
def test_a_stopped_run_ends_as_if_it_had_not_been(
    script, flags, number, code, tiny_pipeline, tiny_images, tmp_path, capsys
):
    flags += " --max_train_steps 12 --checkpointing_steps 20"
    whole = run(script, tiny_pipeline, tiny_images, tmp_path / "whole", flags)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    for step in (3, 4):  # the second time within what the first has left to do
        resumed = f"{flags} --resume_from_checkpoint latest" if step == 4 else flags
        with signal_in_step(step, number), pytest.raises(SystemExit) as stopped:
            run(script, tiny_pipeline, tiny_images, tmp_path / "stopped", resumed)
        assert stopped.value.code == code
    name = signal.Signals(number).name
    assert (
        f"Stopped by {name} after step 7: checkpoint-7 is saved; go on with the same command and"
        " --resume_from_checkpoint latest." in capsys.readouterr().err
    )
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (tmp_path / "stopped" / "model_index.json").exists()
    stopped = run(script, tiny_pipeline, tiny_images, tmp_path / "stopped", f"{flags} --resume_from_checkpoint latest")
    assert timeless(stopped) == timeless(whole)
    same_weights(stopped, whole)


def test_making_images_gives_way_and_is_made_up_for(tiny_pipeline, tiny_images, tmp_path, monkeypatch, capsys):
    flags = "--validation_prompts drawing --validation_steps 2 --checkpointing_steps 20 --objective standard"
    whole = run(FULL, tiny_pipeline, tiny_images, tmp_path / "whole", flags)
    sample, calls = Validation.sample, []

    def sample_and_be_stopped(self, trained):
        calls.append(self)
        images = sample(self, trained)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)  # cut short
            raise AssertionError
        return images

    monkeypatch.setattr(Validation, "sample", sample_and_be_stopped)
    began = time.monotonic()
    with pytest.raises(SystemExit):
        run(FULL, tiny_pipeline, tiny_images, tmp_path / "stopped", flags)
    assert time.monotonic() - began < 60 and "after step 2: checkpoint-2 is saved" in capsys.readouterr().err
    assert not (tmp_path / "stopped" / "validation" / "step-2").exists()
    stopped = run(FULL, tiny_pipeline, tiny_images, tmp_path / "stopped", f"{flags} --resume_from_checkpoint latest")
    assert timeless(stopped) == timeless(whole)
    for step in (2, 4):
        image = f"validation/step-{step}/0.png"
        assert (stopped / image).read_bytes() == (whole / image).read_bytes()


def test_measuring_gives_way_and_is_made_up_for(tiny_pipeline, tiny_images, tmp_path, monkeypatch):
    projection = save_projection_of_efficientnet(tmp_path / "three.safetensors")
    held_out = save_tiny_images(tmp_path / "held-out", 9)
    flags = (
        f"--objective standard --max_train_steps 3 --checkpointing_steps 20 --evaluation_data {held_out}"
        f" --evaluation_features {projection} --evaluation_samples 8 --evaluation_steps 2 --evaluation_inference_steps 1"
    )
    whole = run(FULL, tiny_pipeline, tiny_images, tmp_path / "whole", flags)
    assert [line["step"] for line in log(whole) if "quality" in line] == [0, 2, 3]
    figures, calls = QualityEvaluation.figures, []

    def figures_and_be_stopped(self, trained):
        calls.append(trained)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            raise AssertionError
        return figures(self, trained)

    monkeypatch.setattr(QualityEvaluation, "figures", figures_and_be_stopped)
    with pytest.raises(SystemExit):
        run(FULL, tiny_pipeline, tiny_images, tmp_path / "stopped", flags)
    assert [line["step"] for line in log(tmp_path / "stopped") if "quality" in line] == [0]
    stopped = run(FULL, tiny_pipeline, tiny_images, tmp_path / "stopped", f"{flags} --resume_from_checkpoint latest")
    assert timeless(stopped) == timeless(whole)


def test_before_the_first_step_it_says_so(tiny_pipeline, tiny_images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "prepare_data", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        run(FULL, tiny_pipeline, tiny_images, tmp_path, "--objective standard")
    assert stopped.value.code == 143
    assert "Stopped by SIGTERM; the same command goes on" in capsys.readouterr().err


STOPPED_TWICE = """
import os, signal, time
from accelerate import Accelerator
from diffusers_difftune.training import stopping
stopping.ONE_REQUEST = 0.2
stop = stopping.StopRequests(Accelerator(cpu=True))
with stop:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # the same request once more
    assert stop.asked() and stop.code == 143
    time.sleep(0.3)
    print("alive", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still alive", flush=True)
"""


def test_a_second_request_ends_it_at_once():
    done = subprocess.run([sys.executable, "-c", STOPPED_TWICE], capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert (done.stdout, done.returncode) == ("alive\n", -signal.SIGTERM), done.stderr


def test_launchers_are_known_by_their_command_line():
    assert not is_launcher(os.getpid()) and not is_launcher(2**22 + 1)
    sleep = "import time; time.sleep(60)"
    for words, expected in (
        (["accelerate", "launch", "x.py"], True),
        (["python", "-m", "torch.distributed.run", "x.py"], True),
        (["difftune", "train", "--num_processes", "2", "lora"], True),
        (["python", "-m", "diffusers_difftune", "train", "lora"], True),
        (["python", "train.py", "--note", "accelerate"], False),
    ):
        process = subprocess.Popen([words[0], "-c", sleep, *words[1:]], executable=sys.executable)
        try:
            wait_for(psutil.Process(process.pid).cmdline)  # a moment after its start there is none
            assert is_launcher(process.pid) == expected
        finally:
            process.kill()
            process.wait()


def launched(command: list[str], folder: Path, steps: int = 10) -> subprocess.Popen:
    """A launcher with a run of many steps, so many of which are done."""
    launcher = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    lines = folder / "training_log.jsonl"
    wait_for(lambda: launcher.poll() is not None or (lines.is_file() and len(lines.read_text().splitlines()) >= steps))
    assert launcher.poll() is None, launcher.communicate()[1][-3000:]
    return launcher


@pytest.mark.slow
def test_a_worker_whose_launcher_was_killed_saves_its_step(tiny_pipeline, tiny_images, tmp_path):
    """`accelerate launch` of one process dies of SIGTERM and tells its worker nothing."""
    stopped = tmp_path / "stopped"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command += [str(SCRIPTS / f"{FULL}.py"), *arguments(tiny_pipeline, tiny_images, stopped, MANY.format(100000))]
    launcher = launched(command, stopped)
    (worker,) = psutil.Process(launcher.pid).children()
    launcher.terminate()
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    said = launcher.communicate()[1]
    (checkpoint,) = stopped.glob("checkpoint-*")
    steps = int(checkpoint.name.split("-")[1])
    assert f"Stopped by the death of the launcher after step {steps}: {checkpoint.name} is saved" in said
    assert len(log(stopped)) == steps
    torch.set_num_threads(1)  # as the worker had
    flags = MANY.format(steps + 5)
    resumed = run(FULL, tiny_pipeline, tiny_images, stopped, f"{flags} --resume_from_checkpoint latest")
    whole = run(FULL, tiny_pipeline, tiny_images, tmp_path / "whole", flags)
    assert timeless(resumed) == timeless(whole)
    same_weights(resumed, whole)


@pytest.mark.slow
def test_processes_stop_after_the_same_step_whichever_of_them_was_asked(tiny_pipeline, tiny_images, tmp_path):
    stopped = tmp_path / "stopped"
    flags = "--train_batch_size 2 " + MANY
    command = launch(2, FULL, *arguments(tiny_pipeline, tiny_images, stopped, flags.format(100000)))
    launcher = launched(command, stopped)
    workers = psutil.Process(launcher.pid).children()
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGINT)
    said = launcher.communicate(timeout=100)[1]
    (checkpoint,) = stopped.glob("checkpoint-*")
    steps = int(checkpoint.name.split("-")[1])
    assert f"Stopped by a signal to another process after step {steps}: {checkpoint.name} is saved" in said
    assert len(log(stopped)) == steps
    command += ["--resume_from_checkpoint", "latest"]
    launcher = launched(command, stopped, steps + 10)
    launcher.terminate()  # which torch's launcher hands on to both
    said = launcher.communicate(timeout=100)[1]
    later = max(int(path.name.split("-")[1]) for path in stopped.glob("checkpoint-*"))
    assert later > steps and f"Stopped by SIGTERM after step {later}" in said
    flags = flags.format(later + 5)
    resumed = run_on_processes(
        2, FULL, tiny_pipeline, tiny_images, stopped, f"{flags} --resume_from_checkpoint latest"
    )
    whole = run(FULL, tiny_pipeline, tiny_images, tmp_path / "whole", flags.replace("size 2", "size 4"))
    assert_same_run(resumed, whole)
