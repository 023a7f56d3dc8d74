# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Handing a training script over to the launcher of accelerate, whose own words after a mistake or a stop are left out."""

import logging
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import patch_environment
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ..config.parse import Parser
from ..errors import DiffTuneError


# Where torch's launcher says that a worker has ended, which the worker has said better.
TALKATIVE = ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api")
# Of a script: a mistake of the user, a failed upload, a stop by SIGINT or SIGTERM. They were told in a sentence.
TOLD = (2, 3, 130, 143)
DEFAULTS = {"num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"}


def launch(words: Sequence[str], written: dict[str, Any]) -> int:
    """Runs the launcher in this process; the script runs in others.

    Args:
        words (`Sequence[str]`): The launcher's flags, the script, and its flags.
        written (`dict[str, Any]`): What accelerate's file says, if there is one.

    Returns:
        `int`: The exit code of the first process that failed.
    """
    parser = launch_command_parser()
    parser.error = Parser().error
    arguments = parser.parse_args(words)
    if not written:  # without a word about each
        for name, value in DEFAULTS.items():
            if getattr(arguments, name) is None:
                setattr(arguments, name, value)
    told = {}
    if (arguments.num_processes or written.get("num_processes") or 1) > 1:
        told = on_processors(arguments, written)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with patch_environment(**told):
            launch_command(arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code not in TOLD:
            print(error, file=sys.stderr)
        return 128 - code if code < 0 else code
    except SignalException as error:
        return 128 + error.sigval
    except subprocess.CalledProcessError as error:
        return 128 - error.returncode if error.returncode < 0 else error.returncode
    except ValueError as error:  # what it says of its flags
        raise DiffTuneError(str(error)) from error
    return 0


def on_processors(arguments: Any, written: dict[str, Any]) -> dict[str, str]:
    """Lets several processes be launched where there is no device, too; accelerate by itself needs MPI for that. Returns what
    they are to find in their environment."""
    if not (arguments.cpu or written.get("use_cpu") or not torch.accelerator.is_available()):
        return {}
    arguments.cpu, arguments.use_cpu = False, True
    arguments.multi_gpu = not (arguments.use_fsdp or arguments.use_deepspeed)
    return {"ACCELERATE_USE_CPU": "true"}
