# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune train`: the training scripts, in this process or, on several, by the launcher of accelerate."""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config.parse import Parser, yaml_content
from ..errors import DiffTuneError


SCRIPTS = {
    "text-to-image": "train_text_to_image_difftune",
    "lora": "train_text_to_image_lora_difftune",
    "controlnet": "train_controlnet_difftune",
    "class-conditional": "train_class_conditional_difftune",
}
USAGE = "difftune train [LAUNCH FLAGS] TASK [FLAGS]"
HELP = """\
Trains on one process, in this one. On several GPUs or machines, with FSDP or DeepSpeed, it is a run of `accelerate launch`, whose flags
stand before the task:

    difftune train --num_processes 2 lora --pretrained_model_name_or_path ...

The file that `accelerate config` writes counts as well. `difftune train TASK --help` shows the flags of a task.
"""
# Settings of accelerate's file, and flags, that are followed here or say nothing on one process.
FOLLOWED = {
    "config_file",
    "cpu",
    "downcast_bf16",
    "machine_rank",
    "main_training_function",
    "mixed_precision",
    "rdzv_backend",
    "same_network",
    "use_cpu",
}
NUMBERS = ("num_machines", "num_processes")
# What the others say if they say nothing.
NOTHING_SPECIAL = {"", "[]", "all", "false", "local_machine", "no", "none", "{}"}
# Flags of the launcher that no script has: where one of them stands after the task, it is meant for the launcher.
LAUNCH_FLAGS = {"--config_file", "--multi_gpu", "--num_machines", "--num_processes", "--use_deepspeed", "--use_fsdp"}


def add_parser(subcommands: Any) -> None:
    """Adds `difftune train`, whose words are those of a launcher and of a script: no word is a flag of its own."""
    parser = subcommands.add_parser("train", help="train a model", usage=USAGE, prefix_chars="\0", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.set_defaults(run=lambda arguments: train(arguments.words))


def train(words: Sequence[str]) -> int:
    """Runs the training script of the words after `difftune train`; returns its exit code."""
    launch_words, task, flags = split_words(words)
    settings, others = launch_parser().parse_known_args(launch_words)
    if task is None:
        raise DiffTuneError(f"A task is missing, or is not one of {', '.join(SCRIPTS)}: {USAGE}.")
    misplaced = LAUNCH_FLAGS & {word.split("=")[0] for word in flags}
    if misplaced:
        flag = sorted(misplaced)[0]
        raise DiffTuneError(f"{flag} is a flag of the launcher and stands before the task: {USAGE}.")
    written = read_launch_settings(settings.config_file)
    module = f"{__package__.rpartition('.')[0]}.scripts.{SCRIPTS[task]}"
    if others or needs_launcher(written | {name: v for name, v in vars(settings).items() if v is not None}):
        from .launch import launch

        return launch([*launch_words, "-m", module, *flags], written)
    with process_like_launched(settings, written, [f"difftune train {task}", *flags]):
        importlib.import_module(module).main()
    return 0


def split_words(words: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """The launcher's flags, the task, and the script's flags."""
    for number, word in enumerate(words):
        if word in SCRIPTS:
            return list(words[:number]), word, list(words[number + 1 :])
    return list(words), None, []


def launch_parser() -> argparse.ArgumentParser:
    """A parser of those of the launcher's flags that can be followed without the launcher."""
    parser = Parser(
        "difftune train",
        usage=USAGE,
        description=HELP,
        epilog=f"TASK is one of {', '.join(SCRIPTS)}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("launch flags", "and every other flag of `accelerate launch`")
    group.add_argument("--config_file", metavar="FILE", help="A file that `accelerate config` wrote.")
    group.add_argument("--num_processes", type=int, help="Processes in all; 1 if nothing says otherwise.")
    group.add_argument("--cpu", action="store_const", const=True, help="Train on the CPU.")
    group.add_argument("--mixed_precision", choices=("no", "fp16", "bf16", "fp8"), help="As of the scripts.")
    return parser


def read_launch_settings(config_file: str | None) -> dict[str, Any]:
    """What accelerate's file says, or its default file if that is there."""
    path = Path(config_file) if config_file else default_config_file()
    if path is None:
        return {}
    settings = yaml_content("--config_file", path)
    if not isinstance(settings, dict):
        raise DiffTuneError(f"--config_file {path} is not a file that `accelerate config` wrote.")
    return settings


def default_config_file() -> Path | None:
    """The file that `accelerate config` writes if it is not told where to, if it is there."""
    cache = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    file = Path(cache).expanduser() / "accelerate" / "default_config.yaml"
    return file if file.is_file() else None


def needs_launcher(settings: dict[str, Any]) -> bool:
    """Whether settings ask for anything else than one process on the first device."""
    if any(str(settings.get(name, 1)) not in ("0", "1", "None") for name in NUMBERS):
        return True
    others = {name: value for name, value in settings.items() if name not in FOLLOWED and name not in NUMBERS}
    return any(str(value).lower() not in NOTHING_SPECIAL for name, value in others.items() if name[:4] != "tpu_")


@contextmanager
def process_like_launched(settings: argparse.Namespace, written: dict[str, Any], argv: list[str]) -> Iterator[None]:
    """A context in which this process has the arguments of a script, and what the launcher would have told it."""
    precision = settings.mixed_precision or written.get("mixed_precision")
    told = {}
    if precision:
        told["ACCELERATE_MIXED_PRECISION"] = str(precision)
    if settings.cpu or written.get("use_cpu"):
        told["ACCELERATE_USE_CPU"] = "true"
    before, argv_before = {name: os.environ.get(name) for name in told}, sys.argv
    os.environ.update(told)
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = argv_before
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
