# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""A process that builds control images in forked children, so that a test can kill many without loading torch for each.

    python -m tests.conditions.zygote data IMAGES CACHE
    python -m tests.conditions.zygote bank BANK PIPELINE

For each folder it reads from standard input it writes two lines: the child's process id when it begins, and the
child's exit code when it has ended.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.conditions.bank import bank_conditions
from diffusers_difftune.conditions.build import build_conditions
from diffusers_difftune.data.dataset import load_target_data
from diffusers_difftune.training.config import TargetDataConfig
from tests.conditions.building import decoder
from tests.conditions.drawings import drawing_extractor


def builder(kind: str, path: str, other: str) -> Callable[[Path], object]:
    extractor = drawing_extractor("sketch")
    if kind == "data":
        target = load_target_data(TargetDataConfig(train_data_dir=path), 0, other)
        target.content_key  # noqa: B018  (remembered, for all children)
        return lambda folder: build_conditions(target, folder, extractor, shard_size=2, batch_size=1, progress=False)
    bank, decode = KnowledgeBank.load(path), decoder(Path(other))
    return lambda folder: bank_conditions(bank, extractor, decode, folder, progress=False)


def main() -> None:
    torch.set_num_threads(1)
    build = builder(*sys.argv[1:])
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                build(Path(line.rstrip("\n")))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
