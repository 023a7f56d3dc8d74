# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints are kept, and what a run does that finds some."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from diffusers_difftune.io import locks
from diffusers_difftune.training import checkpoint_files
from diffusers_difftune.training.checkpoint import checksum
from diffusers_difftune.training.checkpoint_files import STATE_FILE, list_checkpoints, what_is_missing
from tests.training.runs import FULL, LORA, log, run, same_weights


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoint-*")}


def test_the_limit_removes_later_checkpoints_first_where_a_run_went_back(tiny_pipeline, tiny_images, tmp_path):
    flags = "--objective standard --checkpointing_steps 1 --max_train_steps 4"
    run(FULL, tiny_pipeline, tiny_images, tmp_path, flags)
    assert checkpoints(tmp_path) == {f"checkpoint-{step}" for step in (1, 2, 3, 4)}
    back = f"{flags} --checkpoints_total_limit 2 --resume_from_checkpoint checkpoint-1"
    run(FULL, tiny_pipeline, tiny_images, tmp_path, f"{back} --max_train_steps 2")
    assert checkpoints(tmp_path) == {"checkpoint-2", "checkpoint-1"}


def test_a_kill_before_the_last_rotation_leaves_none_too_many(tiny_pipeline, tiny_images, tmp_path):
    """No later checkpoint is written, whose rotation would make up for it."""
    flags = "--objective standard --checkpointing_steps 1 --max_train_steps 3"
    run(FULL, tiny_pipeline, tiny_images, tmp_path, flags)
    assert checkpoints(tmp_path) == {
        "checkpoint-1",
        "checkpoint-2",
        "checkpoint-3",
    }  # as if killed before it removed any
    run(
        FULL,
        tiny_pipeline,
        tiny_images,
        tmp_path,
        f"{flags} --checkpoints_total_limit 1 --resume_from_checkpoint latest",
    )
    assert checkpoints(tmp_path) == {"checkpoint-3"}


def test_a_checkpoint_that_was_put_aside_is_left_alone(tmp_path):
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-5-good", "checkpoint-best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training_state.json").touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10"]


def test_a_finished_run_that_is_resumed_in_another_folder_has_nothing_to_do(tiny_pipeline, tiny_images, tmp_path):
    done = run(FULL, tiny_pipeline, tiny_images, tmp_path / "done", "--objective standard --checkpointing_steps 4")
    flags = f"--objective standard --resume_from_checkpoint {done / 'checkpoint-4'}"
    again = run(FULL, tiny_pipeline, tiny_images, tmp_path / "again", flags)
    assert (again / "model_index.json").is_file() and (again / "training_log.jsonl").read_text() == ""


def test_a_run_that_would_end_before_its_checkpoint_is_refused(tiny_pipeline, tiny_images, tmp_path, capsys):
    flags = "--objective standard --checkpointing_steps 4"
    run(FULL, tiny_pipeline, tiny_images, tmp_path, flags)
    with pytest.raises(SystemExit):
        run(FULL, tiny_pipeline, tiny_images, tmp_path, f"{flags} --max_train_steps 3 --resume_from_checkpoint latest")
    assert "has done 4 steps and the run ends after 3; give more --max_train_steps" in capsys.readouterr().err
    assert len((tmp_path / "training_log.jsonl").read_text().splitlines()) == 4


FLAGS = "--objective standard --checkpointing_steps 2"
RESUME = f"{FLAGS} --resume_from_checkpoint latest"


@pytest.fixture(scope="module")
def finished(tiny_pipeline, tiny_images, tmp_path_factory) -> Path:
    """A run with checkpoints of steps 2 and 4, of 4 steps. Shared: copy it before changing it."""
    return run(FULL, tiny_pipeline, tiny_images, tmp_path_factory.mktemp("finished"), f"{FLAGS} --use_ema")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def turn_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["optimizer.safetensors", "unet/diffusion_pytorch_model.safetensors", STATE_FILE])
@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
def test_a_checkpoint_that_is_not_whole_is_passed_over(
    name, damage, finished, tiny_pipeline, tiny_images, tmp_path, caplog
):
    shutil.copytree(finished, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoint-4" / name)
    run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", f"{RESUME} --use_ema")
    assert ("checkpoint-4 is passed over" in caplog.text) == (damage is cut_short or name != STATE_FILE)
    assert what_is_missing(tmp_path / "run" / "checkpoint-4") is None
    assert log(tmp_path / "run")[-1]["step"] == 4 and len(log(tmp_path / "run")) == 4
    same_weights(tmp_path / "run", finished)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("optimizer.safetensors", "optimizer.safetensors"),
        ("unet/diffusion_pytorch_model.safetensors", "weights"),
        ("unet_ema/diffusion_pytorch_model.safetensors", "weights"),
    ],
)
def test_what_was_read_is_what_was_written(name, what, finished, tiny_pipeline, tiny_images, tmp_path, capsys):
    """A changed bit leaves the file's size as it was. Optimiser moments have no checksum: a lying header is noticed."""
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint-4" / name
    if what == "weights":
        turn_a_bit(file)
    else:
        data = bytearray(file.read_bytes())
        data[0] ^= 64  # the length of the header
        file.write_bytes(data)
    with pytest.raises(SystemExit) as stopped:
        run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", f"{RESUME} --use_ema --max_train_steps 6")
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "checkpoint-4 is damaged (" in said and "resume from another checkpoint." in said
    assert ("its weights are not those that were written" in said) == (what == "weights")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_checksum_knows_every_bit_and_the_order_of_tensors(place):
    tensors = [torch.randn(5, 3), torch.randn(4).half(), torch.randn(2)]
    found = checksum(tensors)
    assert found == checksum([tensor.clone() for tensor in tensors])
    assert found not in (checksum(tensors[::-1]), checksum(tensors[:2]))
    tensors[place].view(torch.int8).view(-1)[1] ^= 16
    assert checksum(tensors) != found


def test_other_threads_are_told(finished, tiny_pipeline, tiny_images, tmp_path, caplog):
    shutil.copytree(finished, tmp_path / "run")
    state = tmp_path / "run" / "checkpoint-4" / STATE_FILE
    state.write_text(json.dumps(json.loads(state.read_text()) | {"threads": 77, "seconds": 31.0}))
    run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", f"{RESUME} --use_ema")
    assert "was written with threads 77 and this run has" in caplog.text
    assert "took 31 seconds to write; launchers kill processes 30 seconds after" in caplog.text


def test_what_a_killed_run_left_is_removed(finished, tiny_pipeline, tiny_images, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.copytree(folder / "checkpoint-2", folder / ".checkpoint-6.tmp")
    (folder / "checkpoint-2").rename(folder / ".checkpoint-2.old")  # killed while it was replaced
    (folder / "checkpoint-5").mkdir()  # somebody else's: it has no training_state.json
    run(FULL, tiny_pipeline, tiny_images, folder, f"{RESUME} --use_ema")
    assert {path.name for path in folder.glob("*checkpoint*")} == {"checkpoint-2", "checkpoint-4", "checkpoint-5"}
    assert ".checkpoint-6.tmp was not written to its end and is removed" in caplog.text


def full_disk_after(step: int, largest: int):
    """From an optimiser step on no file may be larger than so many bytes, as on a disk that is full."""
    seen = 0

    def count(*_) -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

    return register_optimizer_step_post_hook(count)


@pytest.mark.parametrize(("script", "largest"), [(FULL, 60_000), (LORA, 4_000), (FULL, 10)])
def test_a_full_disk_leaves_the_last_checkpoint(script, largest, tiny_pipeline, tiny_images, tmp_path, capsys):
    """10 bytes: already the line in the log is too much."""
    flags = f"{FLAGS} --checkpoints_total_limit 1 --max_train_steps 6"
    whole = run(script, tiny_pipeline, tiny_images, tmp_path / "whole", flags)
    hook = full_disk_after(4, largest)
    try:
        with pytest.raises(SystemExit) as stopped:
            run(script, tiny_pipeline, tiny_images, tmp_path / "run", flags)
    finally:
        hook.remove()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and said.startswith("error: ") and "cannot be written (file too large)" in said
    assert largest == 10 or f"{tmp_path / 'run' / 'checkpoint-4'} cannot" in said
    assert {path.name for path in (tmp_path / "run").glob("*checkpoint*")} == {"checkpoint-2"}
    assert what_is_missing(tmp_path / "run" / "checkpoint-2") is None
    again = run(script, tiny_pipeline, tiny_images, tmp_path / "run", f"{flags} --resume_from_checkpoint latest")
    same_weights(again, whole)


def test_too_little_room_is_told_before_anything_is_trained(tiny_pipeline, tiny_images, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint_files.shutil, "disk_usage", lambda _: usage._replace(free=1_000))
    with pytest.raises(SystemExit):
        run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", FLAGS)
    said = capsys.readouterr().err
    assert "error: --output_dir: a checkpoint takes " in said and " has 1 KB left; make room" in said
    assert not (tmp_path / "run" / "training_log.jsonl").exists()


HOLD = """
import sys, time
from pathlib import Path
from diffusers_difftune.io.locks import keep_for_this_run
keep_for_this_run(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2, 600])
def test_two_runs_do_not_write_to_one_folder(
    seconds, tiny_pipeline, tiny_images, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.setattr(locks, "LAST_MOMENTS", 100 if seconds == 2 else 0.5)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), str(seconds)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert holder.stdout.readline() == "held\n"
        if seconds == 2:
            assert len(log(run(FULL, tiny_pipeline, tiny_images, tmp_path, FLAGS))) == 4
            assert f"is being written to by another run (process {holder.pid}, begun at" in caplog.text
        else:
            with pytest.raises(SystemExit):
                run(FULL, tiny_pipeline, tiny_images, tmp_path, FLAGS)
            assert "is writing to it; wait for that one to end" in capsys.readouterr().err
    finally:
        holder.kill()
        holder.wait()
