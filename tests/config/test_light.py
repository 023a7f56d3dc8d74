# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What is told of flags is told at once: nothing heavy is loaded for it."""

import ast

import pytest

from tests.test_project import HEAVY, in_a_new_process


SCRIPTS = (
    "train_text_to_image_difftune",
    "train_text_to_image_lora_difftune",
    "train_controlnet_difftune",
    "train_class_conditional_difftune",
)
COMMANDS = (
    "",
    "train",
    "bank build",
    "cache clean",
    "card",
    "conditions build",
    "convergence",
    "evaluate",
    "forgetting",
    "push",
)
NUMBERS = ("numpy", "PIL", "pyarrow", "huggingface_hub")  # heavy enough, and of no use to flags


def loaded(code: str) -> list[str]:
    """The heavy libraries that some code loads; what it prints is hidden."""
    code = f"""
import contextlib, io, sys
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
{chr(10).join("    " + line for line in code.splitlines())}
print([name for name in {HEAVY + NUMBERS!r} if name in sys.modules])
"""
    return ast.literal_eval(in_a_new_process(code))


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_help_of_a_script_and_its_mistakes_of_flags_load_nothing(script: str) -> None:
    mistakes = [
        ["--help"],
        ["--no_such_flag"],
        ["--config", "/no/such/file.yaml"],
        [],  # there is no model
        ["--pretrained_model_name_or_path=m", "--train_data_dir=d", "--source_share=2"],
        [
            "--pretrained_model_name_or_path=m",
            "--train_data_dir=d",
            "--report_to=none",
            "--rank=4",
            "--adapter=bitfit",
        ],
    ]
    assert (
        loaded(f"""
from training_scripts.{script} import main
for argv in {mistakes!r}:
    with contextlib.suppress(SystemExit):
        main(argv)
        raise AssertionError(argv)
""")
        == []
    )


def test_a_config_in_python_loads_nothing() -> None:
    assert (
        loaded("""
import diffusers_difftune, diffusers_difftune.mistakes
from diffusers_difftune.config import TextToImageConfig, checks, idle_flags, parse
config = TextToImageConfig(pretrained_model_name_or_path="m", train_data_dir="d", report_to="none", seed=3)
checks.check_flags(config)
assert idle_flags.idle_flags(config) == []
""")
        == []
    )


def test_the_help_of_the_command_loads_nothing() -> None:
    words = [[*command.split(), "--help"] for command in COMMANDS] + [
        ["train", "lora", "--help"],
        ["evaluate", "--no"],
    ]
    assert (
        loaded(f"""
from diffusers_difftune.cli import main
for argv in {words!r}:
    with contextlib.suppress(SystemExit):
        main(argv)
""")
        == []
    )
