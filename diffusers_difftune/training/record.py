# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`run_config.json`: every flag, and what was found out about a run before it trained."""

import importlib.metadata
import json
import platform
from typing import Any

import torch

from ..io.atomic import write_bytes_atomic
from ..io.processes import from_main
from .folder import clear
from .run import Run


LIBRARIES = ("diffusers-difftune", "torch", "diffusers", "transformers", "peft", "accelerate", "datasets")


def begin_records(run: Run, facts: dict[str, Any]) -> None:
    """Writes `run_config.json`, every flag and what was found out about the run, and starts the trackers.

    A run that is not resumed has passed every check by now, and what an earlier one left in its folder goes.

    The Hub token is in neither.

    Args:
        run ([`Run`]): The run.
        facts (`dict[str, Any]`): More to write down, JSON-able.
    """
    flags = run.config.flags()
    flags.pop("hub_token")
    content = {
        "flags": flags,
        "seed": run.seed,
        "num_processes": run.accelerator.num_processes,
        "global_batch_size": run.global_batch_size,
        "mixed_precision": run.accelerator.mixed_precision,
        "device": run.accelerator.device.type,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES if is_installed(name)},
        **facts,
    }
    if run.checkpoint is None:
        from_main(run.accelerator, lambda: clear(run.output_dir))
    if run.accelerator.is_main_process:
        write_bytes_atomic(run.output_dir / "run_config.json", (json.dumps(content, indent=2) + "\n").encode())
    # trackers take plain values only
    plain = {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in flags.items()}
    run.accelerator.init_trackers(run.config.tracker_project_name, config=plain)


def is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
