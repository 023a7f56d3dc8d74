# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Two runs that build in one folder, the second a little later.

    python -m tests.two_runs conditions FOLDER LOG
    python -m tests.two_runs bank FOLDER LOG PIPELINE

Each run adds a line with its process id to LOG for everything that it makes. Prints the process id of each when both
have begun, and the exit code of each when both have ended. What a run logs goes to standard error.
"""

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from diffusers_difftune.controls.manifest import ConditionManifest
from diffusers_difftune.controls.write import png_bytes, table_bytes
from diffusers_difftune.io.shards import build_shards
from tests.bank.building import load_pipeline, small_bank


SHARDS = 20
APART, LASTS = 0.3, 2  # seconds


def make_conditions(folder: Path, made: Callable[[], None]) -> None:
    manifest = ConditionManifest(
        extractor={"kind": "edge"}, source={"samples": "some"}, num_rows=SHARDS, shard_size=1, libraries={}
    )

    def make_shard(rows: range) -> bytes:
        made()
        return table_bytes({"index": list(rows), "conditioning_image": [png_bytes(Image.new("RGB", (8, 8)))]})

    build_shards(folder, manifest, make_shard, progress=False)


def bank_maker(model: Path) -> Callable[[Path, Callable[[], None]], None]:
    pipeline = load_pipeline(model)

    def make(folder: Path, made: Callable[[], None]) -> None:
        pipeline.unet.register_forward_hook(lambda *_: made())  # called once a shard: one step of sampling
        small_bank(pipeline, model, folder, num_samples=SHARDS, batch_size=1, steps=1, guidance_scale=1)

    return make


def main() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    kind, folder, log, *model = sys.argv[1:]
    make = bank_maker(Path(*model)) if kind == "bank" else make_conditions

    def made() -> None:
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(LASTS / SHARDS)

    children = []
    for wait in (APART, 0):
        child = os.fork()
        if child == 0:
            try:
                make(Path(folder), made)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
        time.sleep(wait)
    print(*children, flush=True)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)


if __name__ == "__main__":
    main()
