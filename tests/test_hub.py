# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Uploads, with the real client over HTTP, and what may not be in them."""

import json
import shutil
import textwrap
from pathlib import Path

import pytest

from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.publishing import LEFT_OUT, create_repo, files_to_upload, public_facts
from diffusers_difftune.publishing.card import model_card
from tests.hub_server import Fault, HubServer


CREATE = """
    import sys
    from diffusers_difftune.errors import DiffTuneError
    from diffusers_difftune.publishing import create_repo
    name, folder, token = sys.argv[1:]
    try:
        print(create_repo(name or None, folder, token or None))
    except DiffTuneError as error:
        print(f"refused: {error}")
"""

UPLOAD = """
    import sys
    from diffusers_difftune.errors import DiffTuneError
    from diffusers_difftune.publishing import create_repo, upload
    try:
        print(upload(sys.argv[1], sys.argv[2]))
    except DiffTuneError as error:
        print(f"refused: {error}")
"""

DOWNLOAD = """
    import sys
    from huggingface_hub import snapshot_download
    print(type(pipeline).__name__, image.size)
    print(snapshot_download(sys.argv[1]))
"""


@pytest.fixture
def run_folder(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A run folder as a training script leaves it, with all that must not be uploaded."""
    folder = tmp_path / "icons-tuned"
    shutil.copytree(tiny_pipeline, folder)
    flags = {"output_dir": str(folder), "hub_token": "hf_secret", "train_data_dir": "/home/someone/cats"}
    flags |= {"logging_dir": "tensorboard", "cache_dir": str(folder / "models")}
    (folder / "run_config.json").write_text(json.dumps({"flags": flags, "seed": 3}))
    (folder / "training_log.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    unet = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(unet | {"_name_or_path": str(tiny_pipeline / "unet")}))
    for name in (
        *("checkpoint-2/unet/config.json", "knowledge_bank/manifest.json", "logs/events", "tensorboard/events"),
        *(".cache/x", "cache/y", "models/z", ".checkpoint-4.tmp/unet/config.json", "unet/.config.json.7.tmp"),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (folder / "validation").mkdir()
    (folder / "validation" / "step 4.png").write_bytes(b"\x89PNG" + bytes(200_000))
    return folder


def test_repository_is_made_and_found_again(hub_server: HubServer, tmp_path: Path) -> None:
    for _ in range(2):
        result = hub_server.run(CREATE, "", tmp_path / "my-run", "")
        assert result.stdout == "user/my-run\n", result.stderr
    assert hub_server.run(CREATE, "team/name", tmp_path, hub_server.token, HF_TOKEN="").stdout == "team/name\n"
    assert list(hub_server.repos) == ["models/user/my-run", "models/team/name"]


@pytest.mark.parametrize(
    ("name", "token", "environment", "said"),
    [
        ("run", "hf_wrong", {}, "does not accept the token"),
        ("run", "read", {}, "the token may not write to 'run'"),
        ("user/there", "read", {}, "the token may not write to 'user/there'"),
        ("someone/run", "", {}, "the token may not write to 'someone/run'"),
        ("not a name!", "", {}, "'not a name!' is not a name the Hub takes"),
        ("run", "", {"HF_TOKEN": ""}, "There is no Hub token"),
        ("run", "", {"HF_HUB_OFFLINE": "1"}, "OfflineModeIsEnabled"),
    ],
)
def test_what_will_not_do_is_said_before_training(
    hub_server: HubServer, tmp_path: Path, name: str, token: str, environment: dict[str, str], said: str
) -> None:
    if name == "user/there":
        hub_server.run(CREATE, name, tmp_path, "")
    result = hub_server.run(CREATE, name, tmp_path, hub_server.read_token if token == "read" else token, **environment)
    assert result.stdout.startswith("refused: ") and said in result.stdout, result
    assert result.stdout.count("\n") == 1
    assert len(hub_server.requests) <= 3 + 2 * (name == "user/there"), "it is said at once, not after a row of retries"


def test_upload_and_back_by_the_code_of_the_card(hub_server: HubServer, run_folder: Path, tmp_path: Path) -> None:
    card = run_folder / "README.md"
    told = {"result": "pipeline", "pipeline_class": "StableDiffusionPipeline"}
    run = {"flags": {"objective": "difftune", "resolution": 16}, "seed": 7, "card": told}
    card.write_text(model_card(run_folder, run, repo_id="user/icons"))
    assert hub_server.run(CREATE, "icons", run_folder, "").stdout == "user/icons\n"
    result = hub_server.run(UPLOAD, run_folder, "user/icons")
    repo = hub_server.repos["models/user/icons"]
    assert result.stdout == f"{hub_server.url}/user/icons/commit/{repo.sha()}\n", result.stderr
    assert repo.messages == ["initial commit", "End of training"]

    files = hub_server.files("user/icons")
    assert {name.split("/")[0] for name in files} == {
        *("model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler", "validation"),
        *("run_config.json", "training_log.jsonl", "README.md"),
    }
    assert not [name for name in files if name.endswith(".tmp")]
    flags = {
        "output_dir": "icons-tuned",
        "train_data_dir": "cats",
        "logging_dir": "tensorboard",
        "cache_dir": "models",
    }
    assert json.loads(files["run_config.json"]) == {"flags": flags, "seed": 3}
    assert json.loads(files["unet/config.json"])["_name_or_path"] == "unet"
    for name, content in files.items():
        assert str(tmp_path).encode() not in content, name
        assert hub_server.token.encode() not in content, name
    assert len(hub_server.large_files) == 4  # three weight files and the image
    local = json.loads((run_folder / "run_config.json").read_text())
    assert local["flags"]["train_data_dir"] == "/home/someone/cats", "the run folder itself stays as it is"

    code = card.read_text().split("```python\n")[1].split("```")[0]
    code = code.replace("width=16)", "width=16, num_inference_steps=2)").replace(
        "image.png", str(tmp_path / "image.png")
    )
    result = hub_server.run(code + textwrap.dedent(DOWNLOAD), "user/icons")
    assert result.returncode == 0, result.stderr
    made, folder = result.stdout.splitlines()
    assert made == "StableDiffusionPipeline (16, 16)"
    assert (tmp_path / "image.png").stat().st_size > 0
    assert {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()} == set(files)


@pytest.mark.parametrize(
    ("failure", "status", "said"), [("/commit/", 403, "may not write"), ("PUT /lfs/", 400, "the Hub refused")]
)
def test_failed_upload_keeps_everything_and_says_how_to_go_on(
    hub_server: HubServer, run_folder: Path, failure: str, status: int, said: str
) -> None:
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    hub_server.run(CREATE, "icons", run_folder, "")
    hub_server.faults.append(Fault(failure, status))
    result = hub_server.run(UPLOAD, run_folder, "user/icons")
    assert result.stdout.startswith("refused: The upload to user/icons failed: "), result
    assert said in result.stdout
    assert result.stdout.endswith(f"with: difftune push {run_folder} user/icons\n")
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before

    hub_server.faults.clear()
    command = result.stdout.split("with: difftune ")[1].split()
    result = hub_server.run("import sys; from diffusers_difftune.cli import main; sys.exit(main())", *command)
    assert result.returncode == 0 and "/user/icons/commit/" in result.stdout, result
    assert "model_index.json" in hub_server.files("user/icons")


def test_a_token_in_any_text_stops_the_upload(hub_server: HubServer, run_folder: Path) -> None:
    (run_folder / "training_log.jsonl").write_text(json.dumps({"command": f"--hub_token {hub_server.token}"}))
    hub_server.run(CREATE, "icons", run_folder, "")
    result = hub_server.run(UPLOAD, run_folder, "user/icons")
    assert result.stdout.startswith("refused: training_log.jsonl has the Hub token in it"), result
    assert hub_server.files("user/icons") == {}


def test_files_to_upload(run_folder: Path) -> None:
    names = list(files_to_upload(run_folder, ("validation",)))
    assert names == sorted(names)
    assert "unet/diffusion_pytorch_model.safetensors" in names
    assert not [
        name
        for name in names
        if name.startswith(("checkpoint", "logs", "tensorboard", "models", "validation", "cache", "."))
    ]
    assert "knowledge_bank" in LEFT_OUT


def test_public_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "cats").mkdir(parents=True)
    found = public_facts(
        {
            "hub_token": "hf_x",
            "nested": [{"WANDB_API_KEY": "x", "max_tokens": 5}],
            "pretrained_model_name_or_path": "/home/me/.cache/hub/models--org--some-model/snapshots/0123abc/unet",
            "dataset_name": "org/data",
            "train_data_dir": "data/cats",
            "output_dir": tmp_path,
            "cache_dir": "~/caches/here",
            "other": "..\\up",
            "windows": "C:\\Users\\me",
            "validation_prompts": ["a cat / dog", f"in {Path.home()}/x"],
            "learning_rate": 1e-4,
            "snr_gamma": None,
        }
    )
    assert found == {
        "nested": [{"max_tokens": 5}],
        "pretrained_model_name_or_path": "org/some-model",
        "dataset_name": "org/data",
        "train_data_dir": "cats",
        "output_dir": tmp_path.name,
        "cache_dir": "here",
        "other": "up",
        "windows": "me",
        "validation_prompts": ["a cat / dog", "in x"],
        "learning_rate": 1e-4,
        "snr_gamma": None,
    }


@pytest.mark.parametrize(
    ("sentence", "public"),
    [
        ("16 rows of /home/jane/secret project/cats", "16 rows of cats"),
        ("/home/jane/pipeline, StableDiffusionPipeline; UNet of 9 parameters", "pipeline, StableDiffusionPipeline; UNet of 9 parameters"),
        ("6 rows (/home/jane/images); 2 of ../other/images, all", "6 rows (images); 2 of images, all"),
        ("256 samples of org/model from C:\\Users\\me\\bank", "256 samples of org/model from bank"),
        ("/home/jane/.cache/hub/models--org--model/snapshots/0123abc, cut", "org/model, cut"),
        ("in /home/jane/out (there, all of it); losses also to wandb", "in out (there, all of it); losses also to wandb"),
        ("org/model at 1/2 of https://huggingface.co/org/model, and/or / t^1", None),
        ("a picture, /imagine a cat", None),
    ],
)  # fmt: skip
def test_sentences_keep_no_paths_of_this_machine(
    sentence: str, public: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "secret project" in sentence:  # a path with a space in it is one where it is there
        (tmp_path / "jane" / "secret project" / "cats").mkdir(parents=True)
        sentence = sentence.replace("/home/jane", str(tmp_path / "jane"))
    assert public_facts({"summary": {"data": sentence}})["summary"]["data"] == (public or sentence)


def test_no_token_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(DiffTuneError, match="There is no Hub token"):
        create_repo(None, "out")
