# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A process that builds control images in forked children, so that a test can kill many without loading torch for each.

python -m tests.controls.zygote data IMAGES CACHE
python -m tests.controls.zygote bank BANK PIPELINE
"""

import sys
from collections.abc import Callable
from pathlib import Path

from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.config import DataConfig
from diffusers_difftune.controls import bank as controls_bank
from diffusers_difftune.controls.bank import bank_conditions
from diffusers_difftune.controls.build import build_conditions
from diffusers_difftune.data.dataset import load_target_data
from tests.controls.building import decoder
from tests.controls.drawings import drawing_extractor
from tests.killing import serve


def builder(kind: str, path: str, other: str) -> Callable[[Path], object]:
    extractor = drawing_extractor("sketch")
    if kind == "data":
        target = load_target_data(DataConfig(train_data_dir=path), 0, other)
        target.content_key  # noqa: B018  (remembered, for all children)
        return lambda folder: build_conditions(target, folder, extractor, shard_size=2, batch_size=1, progress=False)
    bank, decode = KnowledgeBank.load(path), decoder(Path(other))

    def build(folder: Path) -> object:
        controls_bank.place_for = lambda bank, name, cache_dir: folder / name
        return bank_conditions(bank, extractor, decode, progress=False)

    return build


if __name__ == "__main__":
    serve(lambda: builder(*sys.argv[1:]))
