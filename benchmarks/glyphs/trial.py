# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""One run of the glyph benchmark, in a process of its own: trains, measures, writes a JSON file. Started by table.py.

    python benchmarks/glyphs/trial.py SPEC.json

A run that was stopped goes on from its last checkpoint.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.glyphs.bench import Bench  # noqa: E402
from benchmarks.glyphs.finetune import finetune  # noqa: E402
from benchmarks.glyphs.measure import rounded  # noqa: E402
from benchmarks.glyphs.methods import METHODS  # noqa: E402
from benchmarks.glyphs.plan import Run  # noqa: E402
from benchmarks.glyphs.settings import BANK, MADE_OF, SOURCE_MODEL, WORK  # noqa: E402
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


def main(argv: list[str]) -> None:
    spec = json.loads(Path(argv[0]).read_text())
    torch.set_num_threads(1)
    found = one_run(Run(**spec["run"]))
    output = Path(spec["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(output, (json.dumps(rounded(found), indent=1) + "\n").encode())


def one_run(run: Run) -> dict[str, Any]:
    """Trains and measures."""
    started = time.process_time()
    method = METHODS[run.method]
    flags = method.flags | {"learning_rate": run.rate}
    if method.needs_bank:
        flags |= {"knowledge_bank": str(BANK)}
    folder = finetune(run.target, run.images, run.seed, flags, WORK / "runs" / run.name, run.strength)
    trained = time.process_time()
    bench = Bench(run.each)
    finetuned = bench.backbone.load_denoiser(folder)
    by_alpha = {
        f"{found.alpha:g}": found.figures for found in bench.blends(finetuned, run.target, run.images, run.seed)
    }
    shutil.rmtree(folder)
    return {
        **vars(run),
        "source": json.loads((SOURCE_MODEL / MADE_OF).read_text()),
        "before": {"source recognised": bench.source_recognised(bench.before)},
        "by_alpha": by_alpha,
        "seconds": {"training": trained - started, "measurement": time.process_time() - trained},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
