# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`--hub_strategy`: what is on the Hub while a run trains, with the real client over HTTP, and what trouble there does to a run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.hub_server import Fault, HubClient, HubServer, running_hub_server
from tests.training.runs import CLASS, FULL, LORA, SCRIPTS, arguments, unet


pytestmark = pytest.mark.slow


RUNS = """
    import json, sys
    from tests.training.runs import load_script
    for script, argv in json.loads(sys.argv[1]):
        print("run", argv[argv.index("--output_dir") + 1], file=sys.stderr)
        try:
            load_script(script).main(argv)
        except SystemExit as stopped:
            print(f"exit code {stopped.code}", file=sys.stderr)
"""
CONTROL = "train_controlnet_difftune"
EVERY_STEP = "--checkpointing_steps 1 --checkpoints_total_limit 1 --bank_samples 2 --push_to_hub"
STATE = {"last-checkpoint/optimizer.safetensors", "last-checkpoint/training_state.json"}


@dataclass
class World:
    """The server, the folder of the runs, and what they logged."""

    server: HubServer
    folder: Path
    pipeline: Path
    images: Path
    stderr: str = ""

    def arguments(self, name: str, flags: str, pipeline: Path | None = None) -> list[str]:
        shared = f"--cache_dir {self.folder / 'cache'} --hub_model_id user/{name}"
        return arguments(pipeline or self.pipeline, self.images, self.folder / name, f"{shared} {flags}")

    def run(self, *runs: tuple[str, list[str]]) -> str:
        done = self.server.run(RUNS, json.dumps(runs))
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    def of(self, name: str) -> str:
        """What a run logged."""
        return self.stderr.split(f"run {self.folder / name}\n")[1].split("\nrun ")[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline, tiny_conditions, tiny_dit) -> Iterator[World]:
    with running_hub_server() as server:
        world = World(server, tmp_path_factory.mktemp("runs"), tiny_pipeline, tiny_conditions)
        slow, token = Fault("/user/full/commit/", delay=1.0, times=1), f"--hub_token {server.token}"
        server.faults += [slow, Fault("/user/unlucky/commit/", 400, times=1), Fault("/user/nowhere/commit/", 403)]
        prompt = "--validation_prompts red --validation_steps 1"
        world.stderr = world.run(
            (FULL, world.arguments("full", f"{EVERY_STEP} --use_ema --hub_strategy checkpoint {token} {prompt}")),
            (LORA, world.arguments("lora", f"{EVERY_STEP} --hub_strategy every_save --max_train_steps 2")),
            (CONTROL, world.arguments("control", f"{EVERY_STEP} --hub_strategy every_save --max_train_steps 2")),
            (CLASS, world.arguments("dit", f"{EVERY_STEP} --hub_strategy checkpoint --max_train_steps 2", tiny_dit)),
            (LORA, world.arguments("unlucky", f"{EVERY_STEP} --hub_strategy every_save --max_train_steps 2")),
            (LORA, world.arguments("nowhere", f"{EVERY_STEP} --hub_strategy every_save --max_train_steps 2")),
        )
        server.faults.clear()
        yield world


def test_the_hub_always_has_a_pipeline_that_loads_and_a_checkpoint_to_go_on_from(world: World) -> None:
    repo, folder = world.server.repos["models/user/full"], world.folder / "full"
    assert repo.messages[:2] == ["initial commit", "Training in progress, step 1"]
    assert repo.messages[-1] == "End of training"
    steps = [int(message.split()[-1]) for message in repo.messages[1:-1]]
    assert steps == sorted(set(steps)) and len(steps) < 3, "the first one takes so long that others are left out"
    assert "is not uploaded, because an earlier upload is still under way" in world.of("full")
    assert not (folder / "checkpoint-1").exists(), "the limit of one checkpoint does not wait for uploads"
    last = {f"last-checkpoint/{path.relative_to(folder / 'checkpoint-4')}" for path in files(folder / "checkpoint-4")}
    for files_there, step in zip(repo.commits[1:], [*steps, 4], strict=True):
        assert {"model_index.json", "vae/config.json", "README.md", "run_config.json"} <= set(files_there)
        assert {name for name in files_there if name.startswith("last-checkpoint/")} == last >= STATE
        state = json.loads(files_there["last-checkpoint/training_state.json"])
        assert state["step"] == step
        for name, size in state["files"].items():
            assert len(files_there[f"last-checkpoint/{name}"]) == size, name
        average, weights = (
            load(files_there[f"{name}/diffusion_pytorch_model.safetensors"])
            for name in ("last-checkpoint/unet_ema", "unet")
        )
        assert all(torch.equal(weights[name], average[name]) for name in weights), "of the same step"
        card = files_there["README.md"].decode()
        assert f"for {step} steps" in card and ("Training goes on: it is to make 4 steps." in card) == (step < 4)
        assert f"validation/step-{step}/0.png" in files_there and f"](validation/step-{step}/0.png)" in card
    for path in files(folder / "checkpoint-4"):
        if path.suffix == ".safetensors":
            assert (
                repo.commits[-1][f"last-checkpoint/{path.relative_to(folder / 'checkpoint-4')}"] == path.read_bytes()
            )


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_going_on_from_the_hubs_checkpoint_is_the_same_run(world: World) -> None:
    there = world.server.repos["models/user/full"].commits[1]
    for name, content in there.items():
        if name.startswith("last-checkpoint/"):
            path = world.folder / "downloaded" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    again = f"--use_ema --bank_samples 2 --resume_from_checkpoint {world.folder / 'downloaded' / 'last-checkpoint'}"
    said = world.run((FULL, world.arguments("resumed", again)))  # it makes the same bank again
    assert "after 1 steps" in said
    mine, others = unet(world.folder / "resumed"), unet(world.folder / "full")
    assert all(torch.equal(mine[name], others[name]) for name in others), said[-2000:]


@pytest.mark.parametrize(
    ("name", "expected", "checkpoint"),
    [
        ("lora", {"pytorch_lora_weights.safetensors"}, False),
        ("control", {"config.json", "diffusion_pytorch_model.safetensors"}, False),
        ("dit", {"model_index.json", "transformer/diffusion_pytorch_model.safetensors"}, True),
    ],
)
def test_every_script_uploads_while_it_trains(world: World, name: str, expected: set[str], checkpoint: bool) -> None:
    repo = world.server.repos[f"models/user/{name}"]
    assert repo.messages == ["initial commit", "Training in progress, step 1", "End of training"]
    for files_there in repo.commits[1:]:
        assert expected <= set(files_there) and "README.md" in files_there
        assert any(path.startswith("last-checkpoint/") for path in files_there) == checkpoint
        assert (set(files_there) >= STATE) == checkpoint


def test_an_upload_that_fails_does_not_stop_the_run(world: World) -> None:
    assert "Step 1 was not uploaded: the Hub refused 'user/unlucky'" in world.of("unlucky")
    assert "exit code" not in world.of("unlucky")
    assert world.server.repos["models/user/unlucky"].messages == ["initial commit", "End of training"]
    assert "Step 1 was not uploaded: the token may not write to 'user/nowhere'" in world.of("nowhere")
    assert "exit code 3" in world.of("nowhere") and "difftune push" in world.of("nowhere")
    assert (world.folder / "nowhere" / "pytorch_lora_weights.safetensors").is_file()


def test_nothing_is_left_over_and_nothing_private_anywhere(world: World) -> None:
    assert not list(world.folder.glob("*/.upload.tmp"))
    secrets = [world.server.token.encode()]
    private = [*secrets, *(str(place).encode() for place in (world.folder, world.pipeline, world.images))]
    for name, repo in world.server.repos.items():
        for commit in repo.commits:
            for path, content in commit.items():
                assert not any(word in content for word in private), (name, path)
    for path in files(world.folder):
        assert not any(word in path.read_bytes() for word in secrets), path
    assert world.server.token not in world.stderr


def test_an_upload_does_not_keep_a_run_from_stopping(world: World) -> None:
    world.server.faults[:] = [Fault("PUT /lfs/", delay=60)]
    argv = world.arguments("stopped", f"{EVERY_STEP} --hub_strategy checkpoint --max_train_steps 100000")
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / f"{LORA}.py"), *argv],
        env={**os.environ, **world.server.environment(), "PYTHONPATH": str(SCRIPTS.parent)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 120
        while not any("PUT /lfs/" in request for request in world.server.requests[-3:]):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, said = process.communicate(timeout=50)
    finally:
        process.kill()
        world.server.faults.clear()
    assert process.returncode == 143, said[-2000:]
    assert time.monotonic() - began < 30, "the launcher's patience"
    assert "checkpoint-" in said and list((world.folder / "stopped").glob("checkpoint-*"))


BEGIN = """
    import sys
    from pathlib import Path
    from types import SimpleNamespace
    from diffusers_difftune.errors import DiffTuneError
    from diffusers_difftune.training.publish import begin_publishing
    folder, checkpoint = sys.argv[1:]
    flags = {"push_to_hub": True, "hub_model_id": "late", "hub_token": None, "hub_strategy": "end"}
    main = SimpleNamespace(is_main_process=True, num_processes=1)
    run = SimpleNamespace(
        config=SimpleNamespace(**flags), accelerator=main, output_dir=Path(folder), checkpoint=checkpoint or None
    )
    try:
        publisher = begin_publishing(run)
        print(publisher.repo_id)
        publisher.finish()
    except DiffTuneError as error:
        print(error)
"""


def test_a_hub_that_is_down_stops_a_new_run_and_not_one_that_is_resumed(world: World, tmp_path: Path) -> None:
    client = HubClient(world.server)
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / ".upload.tmp").mkdir()
    try:
        world.server.faults[:] = [Fault("/api/repos/create", 503)]
        printed, waits = client.run(BEGIN, tmp_path, "")
        assert printed.startswith("--push_to_hub: the Hub answered 503") and waits == [1, 2, 4, 8, 8]
        world.server.faults[:] = [Fault("/api/repos/create", 503, times=6)]
        printed, waits = client.run(BEGIN, tmp_path, "checkpoint-1")
        assert printed == "None\n" and waits == [1, 2, 4, 8, 8], "it is made before the upload"
        assert "model_index.json" in world.server.files("user/late")
        world.server.faults[:] = [Fault("/api/repos/create", 401)]
        printed, waits = client.run(BEGIN, tmp_path, "checkpoint-1")
        assert printed.startswith("--push_to_hub: the Hub does not accept the token") and not waits
    finally:
        world.server.faults.clear()
        client.close()
    assert not (tmp_path / ".upload.tmp").exists(), "what a run that was killed has left"
