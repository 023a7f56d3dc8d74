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
"""

import sys
from collections.abc import Callable
from pathlib import Path

from tests.bank.building import load_pipeline, small_bank
from tests.killing import serve


def builder(model: Path, num_samples: int) -> Callable[[Path], object]:
    pipeline = load_pipeline(model)
    return lambda folder: small_bank(pipeline, model, folder, num_samples=num_samples)


if __name__ == "__main__":
    serve(lambda: builder(Path(sys.argv[1]), int(sys.argv[2])))
