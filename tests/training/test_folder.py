# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A run folder in which there is a run already: it is not written over, unless a flag says so."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusers_difftune.io import locks
from diffusers_difftune.training import folder as run_folder
from tests.training.runs import FULL, LORA, SCRIPTS, arguments, environment, launch, load_script, log, run, wait_for


FLAGS = "--objective standard --max_train_steps 2 --checkpointing_steps 1 --validation_steps 1"
VALIDATION = ["--validation_prompt", "a bar"]


def start(pipeline: Path, images: Path, folder: Path, flags: str = "") -> Path:
    """A run of two steps, an adapter on the attention, with validation images."""
    load_script(LORA).main(
        [*arguments(pipeline, images, folder, f"{FLAGS} --num_validation_images 1 {flags}"), *VALIDATION]
    )
    return folder


def refused(capsys, *rest) -> str:
    with pytest.raises(SystemExit) as stopped:
        start(*rest)
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".run.lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def done(tiny_pipeline, tiny_images, tmp_path_factory) -> Path:
    """A finished run with two checkpoints. Shared: copy it before changing it."""
    return start(tiny_pipeline, tiny_images, tmp_path_factory.mktemp("done") / "run")


@pytest.fixture
def copied(done, tmp_path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


def test_a_finished_run_is_not_written_over(copied, tiny_pipeline, tiny_images, capsys, monkeypatch):
    monkeypatch.setattr("diffusers_difftune.training.task.load_backbone", None)  # it does not come as far
    before = contents(copied)
    said = refused(capsys, tiny_pipeline, tiny_images, copied)
    assert said == (
        f"error: --output_dir {copied} holds a finished run of 2 steps; go on with it by --resume_from_checkpoint latest and"
        " more --max_train_steps, take another --output_dir, or add --overwrite_output_dir to remove that run first."
    )
    assert contents(copied) == before


def test_nor_one_that_was_stopped_after_a_checkpoint(copied, tiny_pipeline, tiny_images, capsys):
    (copied / "pytorch_lora_weights.safetensors").unlink()
    record = json.loads((copied / "run_config.json").read_text())
    del record["card"]
    (copied / "run_config.json").write_text(json.dumps(record))
    before = contents(copied)
    said = refused(capsys, tiny_pipeline, tiny_images, copied)
    assert (
        f"{copied} holds a run that stopped after checkpoint-2; go on with it by --resume_from_checkpoint latest,"
        in said
    )
    assert contents(copied) == before


def test_nor_a_result_without_checkpoints(copied, tiny_pipeline, tiny_images, capsys):
    for name in ("checkpoint-1", "checkpoint-2"):
        shutil.rmtree(copied / name)
    before = contents(copied)
    said = refused(capsys, tiny_pipeline, tiny_images, copied)
    assert "holds a finished run of 2 steps, without checkpoints; take another --output_dir, or add" in said
    said = refused(capsys, tiny_pipeline, tiny_images, copied, "--resume_from_checkpoint latest")
    assert "holds a finished run of 2 steps, and no checkpoint to go on from; take another" in said
    assert contents(copied) == before


def test_a_checkpoint_from_elsewhere_does_not_open_the_folder(copied, done, tiny_pipeline, tiny_images, capsys):
    before = contents(copied)
    said = refused(capsys, tiny_pipeline, tiny_images, copied, f"--resume_from_checkpoint {done / 'checkpoint-1'}")
    assert f"checkpoint-1 is not of the run in --output_dir {copied}, which holds a finished run of 2 steps;" in said
    assert contents(copied) == before


def test_a_finished_run_goes_on_with_more_steps(copied, tiny_pipeline, tiny_images):
    start(tiny_pipeline, tiny_images, copied, "--max_train_steps 3 --resume_from_checkpoint latest")
    assert [line["step"] for line in log(copied)] == [1, 2, 3]


def test_files_that_no_run_wrote_are_not_written_over(tiny_pipeline, tiny_images, tmp_path, capsys):
    """Such as the pretrained pipeline itself, with whatever flag."""
    model = shutil.copytree(tiny_pipeline, tmp_path / "model")
    before = contents(model)
    for flags in ("", "--overwrite_output_dir"):
        said = refused(capsys, model, tiny_images, model, flags)
        assert (
            f"--output_dir {model} holds model_index.json, which no run wrote there and this one would overwrite;"
            in said
        )
    assert contents(model) == before
    (tmp_path / "cloned").mkdir()
    (tmp_path / "cloned" / "README.md").write_text("mine")
    assert "holds README.md, which no run wrote" in refused(capsys, tiny_pipeline, tiny_images, tmp_path / "cloned")


def test_overwriting_leaves_nothing_of_the_old_run_and_all_else(tiny_pipeline, tiny_images, tmp_path, caplog):
    """The old run trained the whole model, longer, with a bank; the new one is an adapter of one step."""
    flags = "--checkpointing_steps 2 --source_share 0.5 --bank_samples 4 --report_to tensorboard"
    old = run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", flags)
    bank = contents(old / "knowledge_bank")
    mine = {
        "notes.txt": "1",
        "validation/mine.png": "2",
        "checkpoint-best/w": "3",
        "logs/mine/x": "4",
        "figures/a.png": "5",
    }
    for name, text in mine.items():
        (old / name).parent.mkdir(exist_ok=True)
        (old / name).write_text(text)
    assert {"unet", "vae", "logs", "checkpoint-4", "README.md"} <= {path.name for path in old.iterdir()}

    new = "--checkpointing_steps 9 --source_share 0.5 --bank_samples 4 --max_train_steps 1"
    run(LORA, tiny_pipeline, tiny_images, old, f"{new} --overwrite_output_dir")
    assert (
        "--overwrite_output_dir: " in caplog.text
        and "held a finished run of 4 steps, which is removed." in caplog.text
    )
    left = set(contents(old)) - {f"knowledge_bank/{name}" for name in bank}
    wanted = {"run_config.json", "training_log.jsonl", "README.md", "pytorch_lora_weights.safetensors"}
    assert left - {f"figures/{name}" for name in ("noise_levels.png", "losses.png")} == wanted | set(mine)
    assert contents(old / "knowledge_bank") == bank and "Knowledge bank: 4 samples in " in caplog.text
    assert caplog.text.count("Knowledge bank: 4 samples in ") == 1, "it is used again"
    assert len(log(old)) == 1


def test_a_bank_that_does_not_fit_is_refused_before_the_old_run_goes(tiny_pipeline, tiny_images, tmp_path, capsys):
    """Told by its numbers; its samples are worth more than a flag."""
    flags = "--max_train_steps 2 --source_share 0.5 --checkpointing_steps 2"
    old = run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", flags)
    before = contents(old)
    with pytest.raises(SystemExit):
        run(FULL, tiny_pipeline, tiny_images, old, f"{flags} --max_train_steps 4 --overwrite_output_dir")
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "knowledge_bank holds a knowledge bank of other settings: --bank_samples is 8, not 4 (by default a run" in said
    )
    assert "samples as many as it draws); delete that folder" in said and "hash" not in said
    assert contents(old) == before


def test_overwriting_and_resuming_contradict_each_other(copied, tiny_pipeline, tiny_images, capsys):
    said = refused(
        capsys, tiny_pipeline, tiny_images, copied, "--overwrite_output_dir --resume_from_checkpoint latest"
    )
    assert "leave one of them out." in said and contents(copied)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_of_an_older_version_is_known_by_its_files(damaged, copied, tiny_pipeline, tiny_images, capsys):
    """Its record has not the names of the result; or nothing can be read in it any more."""
    record = json.loads((copied / "run_config.json").read_text())
    del record["card"]["files"]
    (copied / "run_config.json").write_text("{" if damaged else json.dumps(record))
    assert "holds " in refused(capsys, tiny_pipeline, tiny_images, copied)
    (copied / "config.json").write_text("mine")
    run_folder.clear(copied)
    left = {name for name in contents(copied) if not (damaged and name.startswith(("README", "figures")))}
    assert left == {"config.json"}


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(tiny_pipeline, tiny_images, tmp_path, caplog):
    """Its bank is kept, its validation images are not: those of another prompt would stay among the new ones."""
    whole = start(tiny_pipeline, tiny_images, tmp_path / "whole", "--objective difftune --source_share 0.5")
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    for path in (*folder.glob("checkpoint-*"), folder / "README.md", folder / "pytorch_lora_weights.safetensors"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "validation" / "step-2").rename(folder / "validation" / "step-7")
    record = json.loads((folder / "run_config.json").read_text())
    del record["card"]
    (folder / "run_config.json").write_text(json.dumps(record))
    start(tiny_pipeline, tiny_images, folder, "--objective difftune --source_share 0.5")
    assert "has no checkpoint, so its validation images go" in caplog.text
    assert set(contents(folder)) == set(contents(whole))


def test_a_run_that_another_is_writing_to_is_refused_at_once(
    done, copied, tiny_pipeline, tiny_images, tmp_path, monkeypatch, capsys, caplog
):
    """Where it would be refused after waiting, too; and with --overwrite_output_dir, which was not meant for it."""
    monkeypatch.setattr(locks, "LAST_MOMENTS", 600)
    hold = "import sys, time; from pathlib import Path; from diffusers_difftune.io.locks import keep_for_this_run\n"
    hold += "keep_for_this_run(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(copied)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert holder.stdout.readline() == "held\n"
        began = time.monotonic()
        assert "holds a finished run" in refused(capsys, tiny_pipeline, tiny_images, copied)
        said = refused(capsys, tiny_pipeline, tiny_images, copied, "--overwrite_output_dir")
        assert (
            f"another run (process {holder.pid}, begun at " in said and "is writing to it; wait for that one" in said
        )
        assert time.monotonic() - began < 60
        assert contents(copied) == contents(done)

        monkeypatch.setattr(locks, "LAST_MOMENTS", 0.2)
        refused(capsys, tiny_pipeline, tiny_images, copied, "--resume_from_checkpoint latest")
        assert f"is being written to by another run (process {holder.pid}, begun" in caplog.text
        assert "; this one waits for it to end, 0 s at most." in caplog.text
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.slow
def test_a_second_run_does_not_write_over_what_the_first_one_left_while_it_waited(
    tiny_pipeline, tiny_images, tmp_path, capsys, caplog
):
    folder = tmp_path / "run"
    flags = "--objective standard --max_train_steps 200 --checkpointing_steps 1000"
    command = [sys.executable, str(SCRIPTS / f"{LORA}.py"), *arguments(tiny_pipeline, tiny_images, folder, flags)]
    first = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for((folder / ".run.lock").exists)
        said = refused(capsys, tiny_pipeline, tiny_images, folder)
        assert first.wait(200) == 0
    finally:
        first.kill()
    assert f"is being written to by another run (process {first.pid}, begun at" in caplog.text
    assert f"--output_dir {folder} holds a finished run of 200 steps, without checkpoints;" in said
    assert json.loads((folder / "run_config.json").read_text())["total_steps"] == 200


@pytest.mark.slow
def test_all_processes_hear_of_it(copied, tiny_pipeline, tiny_images):
    command = launch(2, LORA, *arguments(tiny_pipeline, tiny_images, copied, "--objective standard"))
    before = contents(copied)
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
    assert run.returncode != 0 and "holds a finished run of 2 steps; go on with it" in run.stderr
    assert contents(copied) == before
