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
"""A process that builds banks in forked children, so that a test can kill many without loading torch for each.

    python -m tests.bank.zygote PIPELINE NUM_SAMPLES

For each folder it reads from standard input it writes two lines: the child's process id when it begins, and the
child's exit code when it has ended.
"""

import os
import sys
import traceback
from pathlib import Path

import torch

from tests.bank.building import load_pipeline, small_bank


def main() -> None:
    torch.set_num_threads(1)
    model, num_samples = Path(sys.argv[1]), int(sys.argv[2])
    pipeline = load_pipeline(model)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                small_bank(pipeline, model, Path(line.rstrip("\n")), num_samples=num_samples)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
