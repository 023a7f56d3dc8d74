# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A process that has loaded everything and makes runs in forked children, which are killed there.

python -m benchmarks.reliability.serve

A run is what `order.json` in its folder says: `script`, `argv`, what to `kill` at, and a `breakage` of the library, which
the tests of the harness use. Its words go to `output.log`, and what happened to `notes.jsonl`.
"""

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from tests.killing import serve
from tests.training.runs import load_script

from .configurations import CONFIGURATIONS, THREADS


LONGEST = 300  # seconds of a start; then it hangs


def runner() -> Callable[[Path], object]:
    # What a run imports when it gets there.
    from diffusers import ControlNetModel, DiTPipeline, StableDiffusionControlNetPipeline  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    from .watch import Watch

    scripts = {name: load_script(name) for name in {each.script for each in CONFIGURATIONS}}

    def start(folder: Path) -> None:
        order = json.loads((folder / "order.json").read_text())
        output = os.open(folder / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        signal.alarm(LONGEST)
        torch.set_num_threads(THREADS)
        script = scripts[order["script"]]
        if order["breakage"] is not None:
            module, name = order["breakage"].split(":")
            getattr(importlib.import_module(module), name)()
        if not order["watched"]:
            return script.main(order["argv"])
        watch = Watch(folder / "notes.jsonl", order["kill"])
        watch.install()
        script.main(order["argv"])
        watch.note({"events": watch.events})
        sys.stdout.flush()

    return start


if __name__ == "__main__":
    serve(runner)
