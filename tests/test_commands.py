# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Every command of the documents is one that the programs take, and what the named install brings is enough for it."""

import argparse
import ast
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from diffusers_difftune.cli import main, make_parser
from diffusers_difftune.cli.train import SCRIPTS, split_words
from diffusers_difftune.config import (
    ClassConditionalConfig,
    ControlNetConfig,
    TextToImageConfig,
    TextToImageLoraConfig,
)
from diffusers_difftune.config.parse import config_parser, parse_config
from diffusers_difftune.errors import DiffTuneError

from .commands import PAGES, ROOT, Command, all_commands, commands_in
from .tiny import tiny_image
from .training.runs import check_flags


COMMANDS = all_commands()
CONFIGS = {
    "train_class_conditional_difftune": ClassConditionalConfig,
    "train_controlnet_difftune": ControlNetConfig,
    "train_text_to_image_difftune": TextToImageConfig,
    "train_text_to_image_lora_difftune": TextToImageLoraConfig,
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What only somebody imports who asked for it by a flag or a kind of control image, whose error says how to install it.
ASKED_FOR = {"bitsandbytes", "deepspeed", "opencv-python-headless", "wandb"}
# Packages that a sentence may tell to install beside those of pyproject.toml.
OTHERS = ASKED_FOR | {"pre-commit", "pycountry", "torch-fidelity"}


def named(requirement: str) -> str:
    """The package of a requirement, as registries compare names."""
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


DEPENDENCIES = {named(item) for item in PROJECT["dependencies"]}
EXTRAS = {name: {named(item) for item in items} for name, items in PROJECT["optional-dependencies"].items()}


def known_flags(parser: argparse.ArgumentParser) -> set[str]:
    """The flags of a parser and of all its subcommands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {flag for one in action.choices.values() for flag in known_flags(one)}
    return found


def flags_of(words: tuple[str, ...]) -> set[str]:
    return {word.split("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)}


def check_script(script: str, words: tuple[str, ...], is_whole: bool) -> None:
    """A training script takes these flags and, if nothing is left out, finds no mistake in them. (Images of
    --validation_image, which it looks for, are made where the test runs; see `downloads`.)"""
    configs = [CONFIGS[Path(script).stem]] if script != "training_scripts/…" else list(CONFIGS.values())
    unknown = flags_of(words) - {flag for one in configs for flag in config_parser(one)._option_string_actions}
    assert not unknown, f"{script} has no {', '.join(sorted(unknown))}"
    if is_whole:
        config = parse_config(configs[0], list(words))
        check_flags(config)


def check_train(words: tuple[str, ...], is_whole: bool) -> None:
    """`difftune train`: flags of the launcher, a task, and the flags of its script."""
    launch_words, task, flags = split_words(words)
    if task is None:
        assert not is_whole and set(words) <= {"TASK", "--help"}, f"difftune train {' '.join(words)} names no task"
        return
    launch_command_parser().parse_args([*launch_words, "-m", SCRIPTS[task]])
    check_script(SCRIPTS[task], tuple(flags), is_whole)


def check_difftune(words: tuple[str, ...], is_whole: bool) -> None:
    if words[:1] == ("train",):
        return check_train(words[1:], is_whole)
    parser = make_parser()
    if is_whole:
        try:
            parser.parse_args(words)
        except DiffTuneError as error:
            raise AssertionError(f"difftune {' '.join(words)} is refused") from error
    rooms = [word for word in words[:2] if re.fullmatch(r"[a-z]+", word)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and rooms:
            assert rooms[0] in action.choices, f"there is no difftune {rooms[0]}"
            parser = action.choices[rooms[0]]
    unknown = flags_of(words) - known_flags(parser)
    assert not unknown, f"difftune {rooms} has no {unknown}"


def check_program(words: tuple[str, ...], place: str, is_whole: bool) -> None:
    """`python …`: a program of the repository, from its root or beside the document."""
    if words[0] == "-c":
        compile(words[1], place, "exec")
    elif words[0] == "-m":
        check_module(words[1:], is_whole)
    elif Path(words[0]).stem in CONFIGS:
        check_script(words[0], words[1:], is_whole)
    else:
        beside = (ROOT, ROOT / Path(place).parent, ROOT / "examples" / "icons" / "make")
        files = [folder / words[0] for folder in beside if (folder / words[0]).is_file()]
        assert files, f"there is no {words[0]}"
        text = files[0].read_text(encoding="utf-8")
        for name in re.findall(r"(?m)^ *(?:from|import) (\w+)", text):  # neighbours, whose flags it may take
            for neighbour in {files[0].parent / f"{name}.py", ROOT / "examples" / "icons" / f"{name}.py"}:
                text += neighbour.read_text(encoding="utf-8") if neighbour.is_file() else ""
        known = set(re.findall(r'"(--?[\w-]+)"', text))
        if "train_text_to_image_difftune" in text:  # hands flags on
            known |= set(config_parser(TextToImageConfig)._option_string_actions)
        assert flags_of(words) <= known, f"{words[0]} has no {flags_of(words) - known}"


def check_module(words: tuple[str, ...], is_whole: bool) -> None:
    if words[0] == "diffusers_difftune":
        check_difftune(words[1:], is_whole)
    elif words[0].startswith("diffusers_difftune.scripts."):
        check_script(words[0].split(".")[2], words[1:], is_whole)
    else:
        assert words[0] in ("pytest", "venv", "pip"), words


def check_launch(words: tuple[str, ...], is_whole: bool) -> None:
    """`accelerate launch`: its own flags, then a script or module with its flags."""
    if words in (("launch",), ("config",)):
        return
    parser = launch_command_parser()
    start = next((i for i, word in enumerate(words) if word.startswith("training_scripts/")), None)
    if start is not None:
        parser.parse_args(words[1 : start + 1])
        check_script(words[start], words[start + 1 :], is_whole)
    elif "-m" in words:
        start = words.index("-m")
        parser.parse_args(words[1 : start + 2])
        check_module(words[start + 1 :], is_whole)
    else:  # the script is left out
        assert not is_whole
        known = known_flags(parser) | {flag for one in CONFIGS.values() for flag in known_flags(config_parser(one))}
        assert flags_of(words) <= known


def check_hf(words: tuple[str, ...]) -> None:
    import inspect

    from huggingface_hub.cli import download

    if words[0] == "download":
        known = {f"--{name.replace('_', '-')}" for name in inspect.signature(download.download).parameters}
        assert flags_of(words) <= known, f"hf download has no {flags_of(words) - known}"
    else:
        assert words == ("auth", "login"), words


def downloads(command: Command) -> None:
    """Leaves the images that a document's `hf download` would leave, for later commands to find."""
    if command.words[:2] == ("hf", "download") and "--include" in command.words:
        include = command.words[command.words.index("--include") + 1]
        if include.endswith("conditioning_image_*.png"):
            for number in (1, 2):
                image = Path(include.replace("*", str(number)))
                image.parent.mkdir(parents=True, exist_ok=True)
                tiny_image(number)[0].save(image)


def check_pip(words: tuple[str, ...], place: str) -> None:
    """What is installed is this project, with extras that there are, or packages that are known."""
    assert words[0] == "install", words
    rest = [
        word for word in words[1:] if word not in ("-e", "-c", "--editable", "--constraint", "constraints.txt", "-U")
    ]
    for word in rest:
        ours = re.fullmatch(rf"(?:\.|{PROJECT['name']})(?:\[(.*)\])?", word)
        if ours:
            missing = set(filter(None, (ours[1] or "").split(","))) - set(EXTRAS)
            assert not missing, f"{place}: there is no extra {missing}"
        else:
            assert named(word) in DEPENDENCIES | set().union(*EXTRAS.values()) | OTHERS, f"{place}: {word}"


def check(command: Command) -> None:
    """Whether a command can be run as far as that is known without running it; every kind of command is known here."""
    program, *rest = command.words
    words = tuple(rest)
    if program == "accelerate":
        assert words[0] in ("launch", "config")
        check_launch(words, command.is_whole)
    elif program == "difftune":
        check_difftune(words, command.is_whole)
    elif program == "python" or program.endswith("/python"):
        check_program(words, command.place, command.is_whole)
    elif program == "make":
        targets = set(re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
        assert {word for word in words if "=" not in word} <= targets, f"the Makefile has no {words}"
    elif program == "pip":
        check_pip(words, command.place)
    elif program == "hf":
        check_hf(words)
    elif program == "cd":
        assert (ROOT / words[0]).is_dir(), words
    else:
        assert (program, *words[:1]) in {("pre-commit", "install"), ("npm", "pack"), ("apt-get", "install")}, (
            f"what is {program}?"
        )


@pytest.mark.parametrize("place", sorted({command.place for command in COMMANDS}))
def test_every_command_is_one_that_can_be_run(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed by the programs themselves, their checks of flags included, and not run."""
    monkeypatch.chdir(tmp_path)
    for folder in ("examples", "training_scripts"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    commands = [command for command in COMMANDS if command.place == place]
    for command in commands:
        downloads(command)
    wrong = []
    for command in commands:
        try:
            check(command)
        except (AssertionError, DiffTuneError, OSError) as error:
            wrong.append(f"{command}\n    {error}")
    assert not wrong, "\n".join(wrong)


def test_the_documents_have_commands_of_every_kind() -> None:
    programs = [command.words[0] for command in COMMANDS]
    assert programs.count("accelerate") > 8 and programs.count("difftune") > 40 and programs.count("pip") >= 8
    tasks = {c.words[2] for c in COMMANDS if c.words[:2] == ("difftune", "train") and len(c.words) > 2}
    assert set(SCRIPTS) <= tasks and set(SCRIPTS.values()) == set(CONFIGS)
    assert {"README.md", "training_scripts/train_controlnet_difftune.py"} <= {command.place for command in COMMANDS}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("git clone REPOSITORY folder", "what is git"),
        ("pip install 'diffusers-difftune[metrics]'", "no extra"),
        ("pip install '.[nothing]'", "no extra"),
        ("difftune evaluate --flag_that_is_none model data", "is refused"),
        ("accelerate launch training_scripts/train_controlnet_difftune.py --snr_gamma_2 5 …", "has no --snr_gamma_2"),
        ("accelerate launch training_scripts/train_text_to_image_difftune.py --resolution 32", "missing"),
        ("difftune train lora --num_processes 2 --rank 8 …", "has no --num_processes"),
        ("difftune train --num_processes 2 lora --resolution 32", "missing"),
        ("difftune train text_to_image --resolution 32", "names no task"),
        ("python benchmarks/nothing.py", "there is no"),
        ("make nothing", "the Makefile has no"),
    ],
)
def test_a_command_that_cannot_be_run_is_noticed(line: str, complaint: str) -> None:
    (command,) = commands_in(line, "README.md")
    with pytest.raises((AssertionError, DiffTuneError), match=complaint):
        check(command)


# Named in the documents though no program of ours takes them: pytest's, and one that is not there on purpose.
NOT_OURS = {"--hypothesis-profile", "--trust_remote_code"}


def test_flags_that_prose_names_are_there() -> None:
    """A flag that was renamed or taken away is noticed wherever a document speaks of it."""
    parsers = [make_parser(), launch_command_parser(), *map(config_parser, CONFIGS.values())]
    known = {flag for parser in parsers for flag in known_flags(parser)} | NOT_OURS
    for folder in ("benchmarks", "examples"):
        for program in (ROOT / folder).rglob("*.py"):
            known |= set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', program.read_text(encoding="utf-8")))
    unknown = {}
    for page in PAGES:
        prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"))
        quoted = re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)
        missing = {flag for code in quoted for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)} - known
        if missing:
            unknown[page.name] = sorted(missing)
    assert unknown == {}


def test_defaults_that_are_not_the_references_are_the_ones_that_the_page_names() -> None:
    """docs/method.md has a table of what differs from the reference implementation by default."""
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8").split("## Where we differ")[1].split("\n## ")[0]
    config = parse_config(ClassConditionalConfig, [])
    assert (config.variance_loss, config.source_share, config.retention_weight) == ("both", 0.2, 0.1)
    before, table = text.split("that is different:")
    assert "variational term on both halves" in before and "both halves" not in table
    rows = {row.split(" | ")[0].strip("| "): row.split(" | ") for row in table.splitlines() if row.startswith("|")}
    assert not config.use_ema and rows["moving average"][2] == "none"
    assert config.max_grad_norm == 1 and rows["gradient clipping"][2].startswith("to a norm of 1")
    assert not config.center_crop and not config.random_flip and config.image_interpolation_mode == "lanczos"
    assert rows["target images"][2].startswith("cropped at random, not flipped, resized by Lanczos")
    for name in ("source images", "end of an epoch", "likelihood at t = 0 in the variational term"):
        assert name in rows
    doc = ClassConditionalConfig.__doc__ or ""
    assert "These defaults are" not in doc and "gradient clipping" in doc and "moving average" in doc


def imports(folder: str) -> dict[str, str]:
    """The packages that the files of a folder import, at whatever place, and one of the files."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0]: path.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found[node.module.split(".")[0]] = path.name
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names}


def test_the_plain_install_brings_what_is_imported() -> None:
    """Not only what is imported at the start: figures and FID come with `pip install .` as well."""
    distributions = packages_distributions()
    missing = {
        name: file
        for name, file in (imports("diffusers_difftune") | imports("training_scripts")).items()
        if not {named(one) for one in distributions.get(name, [name])} & (DEPENDENCIES | ASKED_FOR | {PROJECT["name"]})
    }
    assert missing == {}
    for config in CONFIGS.values():
        (tracker,) = [action.default for action in config_parser(config)._actions if action.dest == "report_to"]
        assert tracker in EXTRAS, f"--report_to {tracker}, the default, which is used where it is installed"


def test_sentences_of_errors_tell_what_can_be_installed() -> None:
    """`pip install …` in the code's messages and docstrings names packages that there are."""
    found = 0
    for path in sorted([*(ROOT / "diffusers_difftune").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]):
        text = path.read_text(encoding="utf-8")
        quoted = re.findall(r"`(pip install [^`{]+)", text)
        assert "; pip install" not in text, f"{path.name}: quote the command in `…`"
        for sentence in quoted:
            check_pip(tuple(shlex.split(sentence.rstrip("'>=") + "'" * (sentence.count("'") % 2)))[1:], path.name)
            found += 1
    assert found


def cpu_commands() -> list[Command]:
    """The commands on the embedded pipeline in the training scripts' docstrings."""
    return [
        command
        for command in COMMANDS
        if command.place.startswith("training_scripts/") and "examples/icons/pipeline" in command.words
    ]


SMALL = "--max_train_steps 2 --max_train_samples 24 --bank_samples 6 --bank_steps 2 --train_batch_size 6"


@pytest.mark.slow
def test_what_the_scripts_docstrings_say_for_two_cores_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands themselves, their output elsewhere and with fewer steps."""
    monkeypatch.chdir(ROOT)
    build = [command for command in COMMANDS if "outputs/edges" in command.words and command.words[1] == "conditions"]
    assert len(cpu_commands()) == 3 and len(build) == 1
    edges = str(tmp_path / "edges")
    words = [edges if word == "outputs/edges" else word for word in build[0].words[1:]]
    assert main([*words, "--max_train_samples", "24"]) == 0
    for command in cpu_commands():
        words = [edges if word == "outputs/edges" else word for word in command.words[1:]]
        output = tmp_path / words[1]
        assert main([*words, *SMALL.split(), "--output_dir", str(output)]) == 0
        assert (output / "README.md").is_file()
        assert list((output / "figures").glob("*.png")), "the card has its figures"
        assert list((output / "logs").rglob("events.out.tfevents*")), "and the default tracker wrote"


@pytest.mark.slow
def test_the_command_of_the_documents_that_needs_no_download_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (command,) = [c for c in COMMANDS if c.words[:3] == ("difftune", "evaluate", "examples/icons/pipeline")]
    before = next(c for c in COMMANDS if c.words[:2] == ("python", "examples/icons/contrastive_model.py"))
    made, model = before.words[2], str(tmp_path / "contrastive")
    subprocess.run([sys.executable, before.words[1], model], check=True)
    small = f"--num_images 66 --steps 2 --output {tmp_path / 'evaluation.json'}".split()
    assert main([*(model if word == made else word for word in command.words[1:]), *small]) == 0
    assert (tmp_path / "evaluation.json").is_file()
