# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What runs leave behind: no secret, and nothing that has to be unpickled.

One run of each script, with everything on, in a process whose home, caches and temporary files all lie in one folder; then
every byte of that folder, of what was printed and of what was uploaded is looked at.
"""

import io
import json
import os
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusers_difftune.bank.bank import KnowledgeBank
from tests.hub_server import running_hub_server
from tests.test_push import SEVERAL_RUNS
from tests.tiny import save_tiny_images
from tests.training.runs import CLASS, FULL, LORA, arguments, log, run


CONTROL = "train_controlnet_difftune"
SHARED = "--max_train_steps 2 --checkpointing_steps 1 --bank_samples 4 --validation_steps 1 --report_to tensorboard"
OWN = {
    FULL: "--use_ema --random_flip --validation_prompts red blue --snr_gamma 5 --retention_target pretrained",
    LORA: "--adapter dora --rank 2 --validation_prompt red --num_validation_images 1 --gradient_accumulation_steps 2",
    CONTROL: "--adapter lora --rank 2 --condition_kind edge --retention_condition extracted --validation_prompt red"
    " --num_validation_images 1",
    CLASS: "--use_ema --class_embeddings reset --validation_classes oak",
}


def is_pickle(content: bytes) -> bool:
    """Whether loading a file would unpickle something: a pickle of any protocol, torch's archives of one, or numpy's."""
    if content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(is_pickle(archive.read(name)) for name in archive.namelist())
    if content.startswith(b"\x93NUMPY"):
        return b"|O" in content[:1000]
    found = 0
    try:
        for code, _, _ in pickletools.genops(content):
            found += 1
            if code.name == "STOP":
                return found > 1  # torch's old files have several, one after another
    except Exception:  # no pickle: the operations end in the middle, or there are no such operations
        return False
    return False


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_found_by_what_they_are(protocol: int) -> None:
    assert is_pickle(pickle.dumps({"a": [1, 2.0, print]}, protocol=protocol))


def test_pickles_of_torch_and_numpy_are_found() -> None:
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        file = io.BytesIO()
        torch.save({"a": torch.zeros(2)}, file, **options)
        assert is_pickle(file.getvalue())
    for value, has_pickle in ((np.array([{}], dtype=object), True), (np.zeros(2), False)):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=True)
        assert is_pickle(file.getvalue()) is has_pickle
    assert not is_pickle(b'{"a": 1}') and not is_pickle(b"") and not is_pickle(b".")


class Left:
    """What the runs left: files by their names, what they printed, and what is on the Hub now."""

    def __init__(self, folder: Path, secrets: list[str], printed: str, uploaded: dict[str, bytes]) -> None:
        self.folder, self.secrets = folder, secrets
        self.files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        self.printed, self.uploaded = printed, uploaded


@pytest.fixture(scope="module")
def left(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_pipeline: Path,
    tiny_dit: Path,
    tiny_conditions: Path,
    tiny_classes: Path,
) -> Iterator[Left]:
    """After one run of each script, with one token in a flag and another one in the environment."""
    folder = tmp_path_factory.mktemp("left")
    for name in ("home", "tmp", "runs"):
        (folder / name).mkdir()
    with running_hub_server() as server:
        hub_token, logged_in = server.token, server.read_token
        runs = []
        for script, own in OWN.items():
            pipeline, data = (tiny_dit, tiny_classes) if script == CLASS else (tiny_pipeline, tiny_conditions)
            if script == CONTROL:
                own += f" --validation_image {tiny_conditions / 'condition-00.png'}"
            flags = f"{SHARED} {own} --cache_dir {folder / 'cache'} --push_to_hub --hub_token {hub_token}"
            runs.append((script, arguments(pipeline, data, folder / "runs" / script, flags)))
        homes = {name: str(folder / "home") for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE")}
        homes |= {"HF_HUB_CACHE": str(folder / "home" / "hub"), "TMPDIR": str(folder / "tmp"), "HF_TOKEN": logged_in}
        done = server.run(SEVERAL_RUNS, json.dumps(runs), **homes)
        assert done.returncode == 0 and "exit code" not in done.stderr, done.stderr[-3000:]
        names = [f"user/{script}" for script in OWN]
        uploaded = {f"{name}/{path}": data for name in names for path, data in server.files(name).items()}
        yield Left(folder, [hub_token, logged_in], done.stdout + done.stderr, uploaded)


def test_the_runs_did_everything(left: Left) -> None:
    for script in OWN:
        mine = [name.removeprefix(f"runs/{script}/") for name in left.files if name.startswith(f"runs/{script}/")]
        for part in ("checkpoint-1/", "checkpoint-2/", "knowledge_bank/", "validation/", "logs/", "run_config.json"):
            assert any(name.startswith(part) for name in mine), (script, part)
        assert f"user/{script}/README.md" in left.uploaded
    assert any(name.startswith("cache/difftune/encoded/images/") for name in left.files)
    assert any("unet_ema/" in name for name in left.files) and any("conditions/edge" in name for name in left.files)


def test_no_token_is_written_printed_or_uploaded(left: Left) -> None:
    for secret in left.secrets:
        told = secret.encode()
        assert [name for name, content in (left.files | left.uploaded).items() if told in content] == []
        assert secret not in left.printed


def test_nothing_that_is_written_has_to_be_unpickled(left: Left) -> None:
    assert [name for name, content in (left.files | left.uploaded).items() if is_pickle(content)] == []


def test_nothing_that_is_uploaded_names_a_path_of_this_machine(left: Left) -> None:
    for place in (Path.cwd(), left.folder, Path.home()):
        told = os.fsencode(place) + b"/"
        assert [name for name, content in left.uploaded.items() if told in content] == []


def test_captions_of_any_text_are_trained_on(tiny_pipeline: Path, tmp_path: Path) -> None:
    """Control characters, markup, templates: they are sampled with, encoded and logged as the text that they are."""
    captions = [
        "a\0b\x1b[2J",
        "<script>alert(1)</script>",
        "{{ 7*7 }} {0} %s ${HOME}",
        "\u202e[x](javascript:y)\n---\n# z",
    ]
    data = save_tiny_images(tmp_path / "images", 4, captions=captions)
    done = run(FULL, tiny_pipeline, data, tmp_path / "run", f"--max_train_steps 1 --cache_dir {tmp_path / 'cache'}")
    assert set(KnowledgeBank.load(done / "knowledge_bank").check().prompts()) <= set(captions)
    assert len(log(done)) == 1
