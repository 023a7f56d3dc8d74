# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The fault table of docs/hub.md: what becomes of an upload when something is wrong with the Hub or the way to it.

The real client, over HTTP, in a process of its own; only its clock does not wait.
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hub_server import Fault, HubClient, HubServer, running_hub_server


UPLOAD = """
    import sys
    from huggingface_hub import close_session
    from diffusers_difftune.errors import DiffTuneError
    from diffusers_difftune.publishing import client
    folder, name, seconds = sys.argv[1:]
    client.ANSWER_WITHIN = float(seconds)
    close_session()
    try:
        repo_id = client.create_repo(name, folder)
        print("made", repo_id)
        print("uploaded", client.upload(folder, repo_id))
    except DiffTuneError as error:
        print(type(error).__name__, error.exit_code, error)
"""

PUSH = """
    import sys
    from diffusers_difftune.cli import main
    print("exit code", main(sys.argv[1:]))
"""

CLIENT_WAITS = OUR_WAITS = [1, 2, 4, 8, 8]
CREATE, RIGHT, CARD = "/api/repos/create", "/auth-check/write", "/api/validate-yaml"
FILES, LARGE, VERIFY, COMMIT = "/preupload/", "PUT /lfs/", "/verify", "/commit/"
ALWAYS = 10**9


@dataclass
class Row:
    """What goes wrong, and what is to come of it.

    Attributes:
        fault ([`Fault`]): What goes wrong.
        waits (`list[float]`): The seconds until the next attempts.
        said (`str`, *optional*): What the error says; `None` if the upload succeeds all the same.
        exit_code (`int`): The command's, if it fails: 2 before training, 3 after it.
        seconds (`float`): After how long without an answer the client gives up.
        large (`str`): The large file of the folder: weights go up one by one, and other files within the commit.
    """

    fault: Fault
    waits: list[float]
    said: str | None = None
    exit_code: int = 3
    seconds: float = 60.0
    large: str = "unet/diffusion_pytorch_model.safetensors"


def once(part: str, status: int | None = None, **more) -> Fault:
    return Fault(part, status, times=1, **more)


SLOW, TOO_SLOW = 0.5, 1.5
TABLE = {
    # Before training: a mistake is told at once, and trouble that passes is waited out.
    "401 before": Row(Fault(CREATE, 401), [], "the Hub does not accept the token", 2),
    "403 before": Row(Fault(CREATE, 403), [], "the token may not write to", 2),
    "403 on the right to write": Row(Fault(RIGHT, 403), [], "the token may not write to", 2),
    "429 before": Row(once(CREATE, 429, headers={"Retry-After": "7"}), [7]),
    "500 before": Row(once(RIGHT, 500), [1]),
    "503 before, for ever": Row(Fault(CREATE, 503), OUR_WAITS, "the Hub answered 503", 2),
    "cut before": Row(once(CREATE, cut="body"), [1]),
    "slow before": Row(Fault(CREATE, delay=SLOW), []),
    # Uploads: the client waits most of it out, and we the rest.
    "401": Row(Fault(COMMIT, 401), [], "the Hub does not accept the token"),
    "403": Row(Fault(COMMIT, 403), [], "the token may not write to"),
    "409, another commit at that moment": Row(once(COMMIT, 409), [1]),
    "409 for ever": Row(Fault(COMMIT, 409), OUR_WAITS, "the Hub answered 409"),
    "412, the same of newer Hubs": Row(once(COMMIT, 412), [1]),
    "429": Row(once(COMMIT, 429, headers={"Retry-After": "7"}), [7]),
    "429 of a file": Row(once(LARGE, 429, headers={"Retry-After": "30"}), [31]),
    "429 for the card": Row(once(CARD, 429, headers={"Retry-After": "7"}), [7]),
    "500": Row(once(COMMIT, 500), [1]),
    "503": Row(Fault(FILES, 503, times=2), [1, 2]),
    "503 for ever": Row(Fault(COMMIT, 503), OUR_WAITS, "the Hub answered 503"),
    "503 of a file, for ever": Row(Fault(LARGE, 503), CLIENT_WAITS, "the Hub answered 503"),
    "503 of an image, for ever": Row(Fault(LARGE, 503), CLIENT_WAITS, "the Hub answered 503", large="images/0.png"),
    "503 with a page in place of JSON": Row(once(CARD, 503, body=b"<html>Bad gateway</html>"), [1]),
    "504 after a file": Row(once(VERIFY, 504), [1]),
    "cut in a file": Row(once(LARGE, cut="body"), [1]),
    "cut in a file, for ever": Row(Fault(LARGE, cut="body"), CLIENT_WAITS, "did not take it"),
    "cut for the card": Row(once(CARD, cut="body"), [1]),
    "cut before the answer": Row(once(COMMIT, cut="after"), [1]),
    "slow": Row(Fault("", delay=SLOW), []),
    "no answer": Row(once(COMMIT, delay=TOO_SLOW), [1], seconds=SLOW),
    "no answer, for ever": Row(
        Fault(LARGE, delay=TOO_SLOW), CLIENT_WAITS, "did not take it (ReadTimeout", seconds=0.2
    ),
    "dies in a file": Row(once(LARGE, dies=True), CLIENT_WAITS, "did not take it (ConnectError"),
}


@dataclass
class World:
    """The server, the client's process and a folder."""

    server: HubServer
    client: HubClient
    folder: Path

    def run_folder(self, name: str, large: str = Row.large) -> Path:
        """A small run folder, with a large file of its own."""
        folder = self.folder / name
        (folder / large).parent.mkdir(parents=True)
        (folder / "model_index.json").write_text("{}")
        (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# A card\n")
        (folder / "run_config.json").write_text(json.dumps({"flags": {"output_dir": str(folder)}}))
        (folder / large).write_bytes(name.encode() * 20_000)
        return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_hub_server() as server:
        client = HubClient(server)
        yield World(server, client, tmp_path_factory.mktemp("runs"))
        client.close()


def is_uploaded(world: World, folder: Path) -> bool:
    """Whether the repository has what the folder has, but for the path of this machine."""
    found = dict(world.server.files(f"user/{folder.name}"))
    config = json.loads(found.pop("run_config.json", b"{}"))
    local = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del local["run_config.json"]
    return found == local and config == {"flags": {"output_dir": folder.name}}


@pytest.mark.parametrize("name", TABLE)
def test_fault(world: World, name: str) -> None:
    row = TABLE[name]
    folder = world.run_folder(re.sub(r"\W+", "-", name), row.large)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    world.server.requests.clear()
    world.server.faults[:] = [row.fault]
    times = row.fault.times
    try:
        printed, waits = world.client.run(UPLOAD, folder, folder.name, row.seconds)
    finally:
        world.server.faults.clear()
        if world.server.server is None:
            world.server.revive()
    assert waits == row.waits, printed
    asked = [request for request in world.server.requests if row.fault.part in request]
    if row.said is not None and times > 1:
        assert len(asked) == 1 + len(waits), "nobody repeats what another one repeats already"
    last = printed.splitlines()[-1]
    if row.said is None:
        assert last.startswith("uploaded ") and is_uploaded(world, folder), printed
        return
    assert row.said in last and "Traceback" not in printed
    assert last.split()[1] == str(row.exit_code)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before, "nothing is lost"
    if row.exit_code == 3:
        command = shlex.split(last.split("upload it later with: difftune ")[1])
        assert command == ["push", str(folder), f"user/{folder.name}"]
        printed, waits = world.client.run(PUSH, *command)
        assert printed.endswith("exit code 0\n") and not waits and is_uploaded(world, folder)


def test_a_repository_that_is_there_already(world: World) -> None:
    folder = world.run_folder("there")
    for _ in range(2):  # the Hub answers 409 to the second wish to make it
        printed, waits = world.client.run(UPLOAD, folder, "there", 60)
        assert "uploaded" in printed and not waits and is_uploaded(world, folder)


def test_the_token_is_nowhere(world: World) -> None:
    """Runs last: in nothing that was printed, logged or uploaded."""
    assert world.server.token not in world.client.stderr()
    assert "Asking again in 1 s." in world.client.stderr()
    for repo in world.server.repos.values():
        for content in repo.commits[-1].values():
            assert world.server.token.encode() not in content


XET = """
    import sys
    from diffusers_difftune.errors import DiffTuneError
    from diffusers_difftune.publishing import create_repo, upload
    try:
        print(upload(sys.argv[1], create_repo("xet", sys.argv[1])))
    except DiffTuneError as error:
        print(error)
"""


def test_xet_without_a_token_of_its_own(world: World) -> None:
    folder = world.run_folder("xet")
    world.server.faults[:] = [Fault("/xet-write-token/", 503)]
    quickly = {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2", "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms"}
    done = world.server.run(XET, folder, HF_HUB_DISABLE_XET="0", **quickly)
    world.server.faults.clear()
    assert "The upload to user/xet failed: Xet did not take it (" in done.stdout and "503" in done.stdout, done.stderr
    assert "with HF_HUB_DISABLE_XET=1 it goes another way" in done.stdout
    assert sum("xet-write-token" in request for request in world.server.requests) >= 2
    printed, _ = world.client.run(UPLOAD, folder, "xet", 60)  # that client has Xet off
    assert "uploaded" in printed and is_uploaded(world, folder)
