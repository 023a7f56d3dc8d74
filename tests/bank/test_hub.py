# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Knowledge banks on the Hub, with the real client over HTTP."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import pytest

from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.bank.hub import bank_card
from tests.bank.building import contents
from tests.hub_server import Fault, HubServer


ROUND_TRIP = """
    import sys
    from pathlib import Path
    from diffusers_difftune.bank.bank import KnowledgeBank
    from diffusers_difftune.bank.hub import push_bank
    folder, cache = sys.argv[1:]
    print(push_bank(folder, "icons-bank", private=True))
    bank = KnowledgeBank.load("user/icons-bank", cache_dir=cache).check()
    print(bank.folder)
    print((bank.latents(9) == KnowledgeBank.load(folder).latents(9)).all().item())
"""

REFUSED = """
    import sys
    from diffusers_difftune.bank.bank import KnowledgeBank
    from diffusers_difftune.bank.hub import push_bank
    from diffusers_difftune.errors import DiffTuneError
    folder, name, token = sys.argv[1:]
    for act in (lambda: push_bank(folder, name, token), lambda: KnowledgeBank.load("user/absent", token=token)):
        try:
            act()
        except DiffTuneError as error:
            print(error)
"""


def test_there_and_back(hub_server: HubServer, bank: KnowledgeBank, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bank.folder, tmp_path / "bank"))
    facts = json.loads(bank.manifest.to_bytes()) | {"model": "/home/me/models/icons", "prompt_source": "./my/p.txt"}
    (folder / "manifest.json").write_text(json.dumps(facts))
    (folder / ".hidden.tmp").touch()
    run = hub_server.run(ROUND_TRIP, folder, tmp_path / "cache")
    assert run.returncode == 0, run.stderr
    address, downloaded, equal = run.stdout.splitlines()
    assert "user/icons-bank/commit/" in address and equal == "True"

    there = hub_server.files("user/icons-bank", "datasets")
    here = contents(folder)
    public = json.loads(there["manifest.json"])
    assert public == facts | {"model": "icons", "prompt_source": "p.txt"}  # no paths of this machine
    assert set(there) - {".gitattributes"} == set(here) - {".hidden.tmp"}
    for name in ("preview.png", *bank.manifest.shard_names):
        assert there[name] == here[name]
    assert b"/home/me" not in there["README.md"] and b"# Knowledge bank of icons\n" in there["README.md"]
    for name, data in contents(Path(downloaded)).items():
        assert data == there[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, token, message",
    [
        ("user/bank", "hf_" + "x" * 34, "the Hub does not accept the token"),
        ("somebody/bank", None, "may not write to 'somebody/bank'"),
        ("no name", None, "'no name' is not a name the Hub takes"),
    ],
)
def test_what_the_hub_refuses_is_said(
    hub_server: HubServer, bank: KnowledgeBank, name: str, token: str | None, message: str
) -> None:
    run = hub_server.run(REFUSED, bank.folder, name, token or hub_server.token)
    assert run.returncode == 0, run.stderr
    push, load = run.stdout.splitlines()
    assert push.startswith("The knowledge bank was not uploaded: ") and message in push
    assert load.startswith("user/absent is neither a folder nor a knowledge bank that can be had from the Hub")


BUILD = """
    import sys, time
    from diffusers_difftune.cli import main
    time.sleep = lambda seconds: print("waits", seconds)
    pipeline, folder, wrong = sys.argv[1:]
    flags = ["--pretrained_model_name_or_path", pipeline, "--output_dir", folder, "--resolution", "16", "--push_to_hub"]
    flags += ["--bank_samples", "2", "--bank_steps", "2", "--bank_prompts", "empty", "--cache_dir", folder + "-cache"]
    for more in (["--hub_token", wrong], ["--hub_model_id", "team/built"], ["--hub_model_id", "user/refused"]):
        print("exit code", main(["bank", "build", *flags, *more]))
"""


@pytest.mark.slow
def test_a_bank_is_built_for_the_hub(hub_server: HubServer, tiny_pipeline: Path, tmp_path: Path) -> None:
    hub_server.faults += [Fault("/user/refused/commit/", 503), Fault("/team/built/commit/", 503, times=1)]
    folder = tmp_path / "bank"
    run = hub_server.run(BUILD, tiny_pipeline, folder, "hf_wrong")
    said = run.stdout.splitlines()
    assert [line for line in said if line.startswith("exit code")] == ["exit code 2", "exit code 0", "exit code 3"], (
        run
    )
    first, second, third = run.stdout.split("exit code")[:3]
    assert not first and "waits 1" in second and f"{hub_server.url}/datasets/team/built/commit/" in second
    assert third.count("waits") == 5
    told = [line for line in run.stderr.splitlines() if line.startswith("difftune: ")]
    assert told[0] == (
        "difftune: --push_to_hub: the Hub does not accept the token; log in again with `hf auth login` or give another"
        " --hub_token."
    )
    assert told[1].endswith(f"upload it later with: difftune bank push {folder} user/refused")
    there = hub_server.files("team/built", "datasets")
    assert {"manifest.json", "README.md", "preview.png", "data/shard-00000.parquet"} <= set(there)
    assert str(tmp_path).encode() not in b"".join(there.values())


def test_nobody_else_writes_in_the_card_of_a_bank(bank: KnowledgeBank) -> None:
    nasty = "x\n# Owned\n```\n<script> [a](b) {{c}} | d; rm -rf ~"
    card = bank_card(dataclasses.replace(bank.manifest, model=nasty, prompt_source=nasty))
    tame = bank_card(dataclasses.replace(bank.manifest, model="x", prompt_source="x"))
    assert len(card.splitlines()) == len(tame.splitlines()) and "\n# Owned" not in card
    for line, tame_line in zip(card.splitlines(), tame.splitlines(), strict=True):
        if not line.startswith("python "):
            assert all(line.count(mark) == tame_line.count(mark) for mark in "<>[]{}|`~"), line
    (command,) = (line for line in card.splitlines() if line.startswith("python "))
    assert shlex.split(command)[3] == "x # Owned ``` <script> [a](b) {{c}} | d; rm -rf ~"
