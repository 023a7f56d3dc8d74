# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How a mistake is told where a launcher started the processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from diffusers_difftune.cli import main as difftune
from diffusers_difftune.errors import DiffTuneError
from tests.training.runs import FULL, environment, launch, load_script


SENTENCE = "--pretrained_model_name_or_path is missing; give a pipeline folder or a model id on the Hub."
ARGUMENTS = ["--train_data_dir", "nowhere", "--report_to", "none"]


def fail(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(report))
    with pytest.raises(SystemExit) as caught:
        load_script(FULL).main(ARGUMENTS)
    assert caught.value.code == 2 and isinstance(caught.value.__cause__, DiffTuneError)


def test_of_several_processes_one_prints_and_the_launcher_gets_the_sentence_of_all(tmp_path, monkeypatch, capsys):
    reports = [tmp_path / "attempt_0" / str(rank) / "error.json" for rank in (0, 1)]
    for report in reports:
        fail(report, monkeypatch)
    assert capsys.readouterr().err == f"\nerror: {SENTENCE}\n\n"
    failures = {rank: ProcessFailure(rank, 1, 2, str(report)) for rank, report in enumerate(reports)}
    summary = str(ChildFailedError("train.py", failures))
    assert summary.count(f"traceback : error: {SENTENCE}") == 2, "torch can read it"
    fail(tmp_path / "attempt_1" / "0" / "error.json", monkeypatch)
    assert SENTENCE in capsys.readouterr().err, "another attempt tells again"


def test_an_error_file_that_cannot_be_written_hides_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "not" / "there" / "error.json"))
    with pytest.raises(SystemExit):
        load_script(FULL).main(ARGUMENTS)
    assert f"error: {SENTENCE}" in capsys.readouterr().err.splitlines()


def test_the_command_tells_likewise(tmp_path, monkeypatch, capsys):
    report = tmp_path / "attempt_0" / "0" / "error.json"
    report.parent.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(report))
    assert difftune(["bank", "inspect", str(tmp_path)]) == 2
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert told.startswith("difftune: ") and json.loads(report.read_text())["message"]["message"] == told


@pytest.mark.slow
@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_accelerate_launch_is_said_to_add_a_traceback(quiet):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", *quiet]
    script = launch(1, FULL)[-1]
    done = subprocess.run(
        [*command, script, *ARGUMENTS], env=environment(), capture_output=True, text=True, timeout=250
    )
    lines = done.stderr.splitlines()
    place = lines.index(f"error: {SENTENCE}")
    assert lines[place - 1] == lines[place + 1] == "", "it stands out"
    rest = "\n".join(lines[place + 2 :])
    assert rest == "" if quiet else rest.startswith("(accelerate launch adds a traceback of its own; ")
    assert ("Traceback" in rest) == (not quiet) and done.returncode != 0


@pytest.mark.slow
def test_torchs_launcher_ends_with_the_sentence():
    done = subprocess.run(
        [*launch(2, FULL), *ARGUMENTS], env=environment(), capture_output=True, text=True, timeout=250
    )
    assert done.returncode != 0
    lines = done.stderr.splitlines()
    assert lines.count(f"error: {SENTENCE}") == 1, "one of the two prints it"
    assert f"traceback : error: {SENTENCE}" in "\n".join(lines[-3:])
