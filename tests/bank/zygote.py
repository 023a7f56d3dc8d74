# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
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
