# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`--push_to_hub` of both scripts, with the real client over HTTP against the server in `hub_server.py`.

Runs are in processes of their own, because the client reads where the Hub is when it is imported. What the uploading code
does on its own is tested in `test_hub.py`.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from tests.hub_server import Fault, HubServer, Repo, running_hub_server
from tests.training.runs import FULL, LORA, SCRIPTS, arguments


pytestmark = pytest.mark.slow


CONTROL = "train_controlnet_difftune"
TRAINED = "--max_train_steps 2 --checkpointing_steps 1 --bank_samples 2 --report_to tensorboard --cache_dir"
PROMPT = {FULL: "--validation_prompts red blue", LORA: "--validation_prompt red --num_validation_images 2"}
BESIDE = {"README.md", "figures", "run_config.json", "training_log.jsonl"}
FIGURES = {"figures/losses.png", "figures/noise_levels.png"}
PIPELINE = {"model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler"}

SEVERAL_RUNS = """
    import json, sys
    from tests.training.runs import load_script
    for script, argv in json.loads(sys.argv[1]):
        try:
            load_script(script).main(argv)
        except SystemExit as stopped:
            print(f"exit code {stopped.code}", file=sys.stderr)
"""

BACK = """
    import json, os, sys
    import torch
    from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionControlNetPipeline
    from diffusers_difftune.cli import main
    from tests.tiny import tiny_condition
    places, command, codes = json.loads(sys.argv[1])
    print("push", main(command))
    for place in places:
        lora, control = "lora" in place, "control" in place
        given = dict(height=16, width=16, num_inference_steps=2, output_type="np")
        if control:
            controlnet = ControlNetModel.from_pretrained(place)
            pipeline = StableDiffusionControlNetPipeline.from_pretrained(places[0], controlnet=controlnet)
            given["image"] = tiny_condition(0)
        else:
            pipeline = DiffusionPipeline.from_pretrained(places[0] if lora else place)
        if lora:
            pipeline.load_lora_weights(place)
        pipeline.set_progress_bar_config(disable=True)
        image = pipeline("a red bar", generator=torch.Generator().manual_seed(0), **given).images
        print("image", *image.flatten().tolist())
    for folder, code in codes:
        os.makedirs(folder)
        os.chdir(folder)
        code = code.replace("https://huggingface.co", os.environ["HF_ENDPOINT"])
        exec(code.replace("width=16)", "width=16, num_inference_steps=2)"), {})
"""


class Hub:
    """The server, and the folders of the runs."""

    def __init__(self, server: HubServer, folder: Path, pipeline: Path, images: Path) -> None:
        self.server, self.folder, self.pipeline, self.images = server, folder, pipeline, images
        self.stderr = ""

    def arguments(self, name: str, flags: str, pipeline: str | Path | None = None) -> list[str]:
        output, cache = self.folder / name, self.folder / "cache"
        flags = f"{TRAINED} {cache} --push_to_hub {flags}"
        return arguments(pipeline or self.pipeline, self.images, output, flags)

    def launch(self, script: str, argv: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """A run as a user starts it, with `accelerate launch`."""
        program = "import sys; from accelerate.commands.launch import main; sys.argv[0] = 'accelerate-launch'; main()"
        launch = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        return self.server.run(program, *launch, SCRIPTS / f"{script}.py", *argv, PYTHONPATH=".", **environment)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path, tiny_conditions: Path) -> Iterator[Hub]:
    """After one run of each script by `accelerate launch`, the one of LoRA on a model that is on the Hub, and then some
    more runs in one process."""
    with running_hub_server() as server:
        hub = Hub(server, tmp_path_factory.mktemp("runs"), tiny_pipeline, tiny_conditions)
        files = {str(p.relative_to(tiny_pipeline)): p.read_bytes() for p in tiny_pipeline.rglob("*") if p.is_file()}
        server.repos["models/org/tiny"] = Repo("models", "org/tiny", [files], ["the base model"])
        server.cards["models/org/tiny"] = {"license": "mit"}
        given = f"--hub_token {server.token}"
        for script, argv in (
            (FULL, hub.arguments("launched-full", f"{given} {PROMPT[FULL]}")),
            (LORA, hub.arguments("launched-lora", f"{given} {PROMPT[LORA]}", "org/tiny")),
        ):
            done = hub.launch(script, argv, HF_TOKEN="")
            assert done.returncode == 0, done.stderr[-3000:]
        server.faults += [Fault("/user/refused/commit/", 400), Fault("/user/full/commit/", 503, times=1)]
        server.faults += [Fault("PUT /lfs/", times=1, cut="body"), Fault("PUT /lfs/", times=1, delay=2.0)]
        condition = tiny_conditions / "condition-00.png"
        pairs = f"--learning_rate 0.1 --validation_prompt red blue --validation_image {condition} --num_validation_images 1"
        runs = [
            (FULL, hub.arguments("full", "")),
            (LORA, hub.arguments("lora", "--hub_model_id team/my-lora")),
            (LORA, hub.arguments("nobody", "--hub_token hf_nobody")),
            (FULL, hub.arguments("refused", PROMPT[FULL])),
            (CONTROL, hub.arguments("control", "--learning_rate 0.1")),
            (CONTROL, hub.arguments("seen-control", pairs, "org/tiny")),
        ]
        done = server.run(SEVERAL_RUNS, json.dumps(runs))
        assert done.returncode == 0, done.stderr[-3000:]
        hub.stderr = done.stderr
        server.faults.clear()
        yield hub


@dataclass
class Returned:
    """The exit code of `difftune push`, images by the place the model was loaded from, and what the cards' code wrote."""

    pushed: str
    images: dict[str, torch.Tensor]
    written: list[Path]


@pytest.fixture(scope="module")
def returned(hub: Hub) -> Returned:
    command = re.search(r"upload it later with: difftune (.*)", hub.stderr)[1].split()
    results = [*RESULTS, ("refused", "user/refused", True)]
    places = [str(hub.pipeline), *(str(p) for name, repo_id, _ in results for p in (hub.folder / name, repo_id))]
    codes = []
    for repo_id in ("user/launched-full", "user/launched-lora", "user/seen-control"):
        card = hub.server.files(repo_id)["README.md"].decode()
        codes.append((str(hub.folder / "code" / repo_id), card.split("```python\n")[1].split("```")[0]))
    done = hub.server.run(BACK, json.dumps([places, command, codes]))
    assert done.returncode == 0, done.stderr[-3000:]
    found = [line.split() for line in done.stdout.splitlines()]
    images = [line for line in found if line[0] == "image"]
    return Returned(
        pushed=next(line[1] for line in found if line[0] == "push"),
        images={place: torch.tensor([*map(float, line[1:])]) for place, line in zip(places, images)},
        written=[Path(folder) / "image.png" for folder, _ in codes],
    )


RESULTS = [
    ("launched-full", "user/launched-full", True),
    ("launched-lora", "user/launched-lora", True),
    ("full", "user/full", False),
    ("lora", "team/my-lora", False),
    ("control", "user/control", False),
    ("seen-control", "user/seen-control", True),
]


@pytest.mark.parametrize(("name", "repo_id", "validated"), RESULTS)
def test_the_result_is_uploaded_and_nothing_else(hub: Hub, name: str, repo_id: str, validated: bool) -> None:
    repo = hub.server.repos[f"models/{repo_id}"]
    assert repo.messages == ["initial commit", "End of training"]
    files, run = hub.server.files(repo_id), hub.folder / name
    result = {"pytorch_lora_weights.safetensors"} if "lora" in name else PIPELINE
    images = {"validation/step-2/0.png", "validation/step-2/1.png"} if validated else set()
    if "control" in name:
        result = {"config.json", "diffusion_pytorch_model.safetensors"}
        images |= {image.replace(".png", "-condition.png") for image in images}
    assert {path.split("/")[0] for path in files} == BESIDE | result | ({"validation"} if validated else set())
    assert (run / "knowledge_bank").is_dir() and (run / "checkpoint-2").is_dir() and (run / "logs").is_dir()
    assert {path for path in files if path.endswith(".png") and not path.startswith("figures/")} == images
    assert {path for path in files if path.startswith("figures/")} == FIGURES
    for path, content in files.items():
        assert hub.server.token.encode() not in content, path
        for place in (hub.folder, hub.pipeline, hub.images):
            assert str(place).encode() not in content, path
        if path.endswith((".safetensors", ".png", "README.md")):
            assert content == (run / path).read_bytes(), path
    flags = json.loads(files["run_config.json"])["flags"]
    assert "hub_token" not in flags
    assert (flags["output_dir"], flags["train_data_dir"]) == (name, hub.images.name)
    base = "org/tiny" if name in ("launched-lora", "seen-control") else hub.pipeline.name
    assert flags["pretrained_model_name_or_path"] == base


def test_the_card_shows_the_images_of_the_last_step(hub: Hub) -> None:
    card = hub.server.files("user/launched-full")["README.md"].decode()
    assert "*red*\n\n![](validation/step-2/0.png)" in card and "*blue*\n\n![](validation/step-2/1.png)" in card
    card = hub.server.files("user/launched-lora")["README.md"].decode()
    assert "*red*\n\n![](validation/step-2/0.png) ![](validation/step-2/1.png)" in card
    card = hub.server.files("user/seen-control")["README.md"].decode()
    for i, prompt in enumerate(("red", "blue")):
        assert f"*{prompt}*\n\n![](validation/step-2/{i}-condition.png) ![](validation/step-2/{i}.png)" in card
    for repo_id in ("user/full", "user/control"):
        shown = re.findall(r"!\[\]\((.*?)\)", hub.server.files(repo_id)["README.md"].decode())
        assert set(shown) == FIGURES


def test_the_card_knows_the_base_model_and_its_license(hub: Hub) -> None:
    for repo_id in ("user/launched-lora", "user/seen-control"):
        card = ModelCard(hub.server.files(repo_id)["README.md"].decode()).data
        assert (card.base_model, card.base_model_relation, card.license) == ("org/tiny", "adapter", "mit")
    assert {"controlnet", "stable-diffusion", "diff-tuning"} <= set(card.tags)
    assert ModelCard(hub.server.files("user/full")["README.md"].decode()).data.base_model is None


@pytest.mark.parametrize(("name", "repo_id"), [result[:2] for result in RESULTS] + [("refused", "user/refused")])
def test_what_comes_back_makes_the_same_image(hub: Hub, returned: Returned, name: str, repo_id: str) -> None:
    local, back = returned.images[str(hub.folder / name)], returned.images[repo_id]
    assert local.shape == (16 * 16 * 3,)
    torch.testing.assert_close(back, local, atol=1e-5, rtol=0)
    assert (local - returned.images[str(hub.pipeline)]).abs().max() > 1e-3, "another than the base model's"


def test_the_code_of_the_card_runs(hub: Hub, returned: Returned) -> None:
    for path in returned.written:
        assert Image.open(path).size == (16, 16)


def test_a_bad_token_is_told_before_anything_is_done(hub: Hub) -> None:
    told = [line for line in hub.stderr.splitlines() if line.startswith("error: --push_to_hub")]
    assert len(told) == 1 and "the Hub does not accept the token" in told[0]
    assert not list((hub.folder / "nobody").glob("[!.]*")), "no bank was sampled, nothing was trained"
    assert "models/user/nobody" not in hub.server.repos


def test_an_upload_that_fails_loses_nothing_and_can_be_made_later(hub: Hub, returned: Returned) -> None:
    told = [line for line in hub.stderr.splitlines() if line.startswith("error: The upload")]
    folder = hub.folder / "refused"
    assert len(told) == 1 and told[0].startswith("error: The upload to user/refused failed: the Hub refused")
    assert told[0].endswith(f"Everything is in {folder}; upload it later with: difftune push {folder} user/refused")
    assert (hub.stderr.count("exit code 2"), hub.stderr.count("exit code 3")) == (1, 1)
    assert "Traceback" not in hub.stderr
    assert {path.name for path in folder.iterdir()} >= BESIDE | PIPELINE | {"validation", "checkpoint-2"}
    assert returned.pushed == "0", "difftune push"
    assert {path.split("/")[0] for path in hub.server.files("user/refused")} == BESIDE | PIPELINE | {"validation"}
