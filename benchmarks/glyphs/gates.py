# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What must hold before the benchmark can tell anything: gates (a) to (e), on the source model and the tuning target.

    python benchmarks/glyphs/gates.py                   # 10 minutes on one thread, estimated
    python benchmarks/glyphs/gates.py --target tamil

- (a) The source model's samples are good: their Fréchet distance to real letters is at most twice that of real letters
  among themselves, in both feature spaces, and at least 90 % are recognised.
- (b) The premise: near the data (noise levels up to 0.2) the source's loss on held-out letters of the target is within 10 %
  of the best fine-tuned one's.
- (c) There is something to forget: standard fine-tuning raises the loss of source letters near the data by at least 50 %,
  and less than half as many of its source samples are recognised.
- (d) No copies: at most 2 % of the samples of standard fine-tuning are nearer to a training image than 99 % of real letters.
- (e) The two feature spaces rank models alike: the rank correlation over blends of both regimes is at least 0.8.

Trains standard fine-tuning on the tuning target with 1,000 and with 100 images. Writes `results/gates_<target>.json` and a
picture.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.glyphs.bench import Bench, held_out_letters, some_glyphs  # noqa: E402
from benchmarks.glyphs.finetune import finetune  # noqa: E402
from benchmarks.glyphs.measure import distances, recognition, rounded, sample, source_rows  # noqa: E402
from benchmarks.glyphs.read import read_glyphs  # noqa: E402
from benchmarks.glyphs.scripts import SOURCE, TUNING_TARGETS  # noqa: E402
from benchmarks.glyphs.settings import (  # noqa: E402
    DATA,
    GATES_SEED,
    LARGE,
    MADE_OF,
    RATE,
    RESULTS,
    SMALL,
    SOURCE_MODEL,
    WORK,
)
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


PER_CLASS = 11  # real letters and samples of every source class for gate (a)
TIMES_FLOOR, RECOGNISED, PREMISE, RISE, LEFT, COPIES, AGREEMENT = 2.0, 0.9, 0.1, 0.5, 0.5, 0.02, 0.8
LOSSES_OF_TARGET = ("loss of target letters", "loss of target letters, null class")
SHOWN, ZOOM = 30, 2  # letters of a row of the picture, and how large


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TUNING_TARGETS, default=TUNING_TARGETS[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--source_only", action="store_true", help="Gate (a) alone.")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    started = time.process_time()
    bench = Bench()
    found: dict[str, Any] = {"source": json.loads((SOURCE_MODEL / MADE_OF).read_text())}
    found["a"], rows = gate_a(bench)
    print(json.dumps(found["a"]), flush=True)
    if not arguments.source_only:
        found |= {"target": arguments.target, "rate": RATE}
        more, runs, target_rows = target_gates(bench, arguments.target)
        found |= more
        found["runs"] = runs
        rows |= target_rows
    found["core_seconds"] = round(time.process_time() - started)
    name = "source" if arguments.source_only else arguments.target
    arguments.results.mkdir(parents=True, exist_ok=True)
    picture(rows, arguments.results / f"gates_{name}.png")
    write_bytes_atomic(
        arguments.results / f"gates_{name}.json", (json.dumps(rounded(found), indent=1) + "\n").encode()
    )


def gate_a(bench: Bench) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Samples of the source model against real letters of type families that it has not seen."""
    judges, count = bench.judges, PER_CLASS * bench.classes
    real, labels = some_glyphs(f"{SOURCE}_families", count)
    styles, _ = some_glyphs(f"{SOURCE}_styles", count)
    train, _ = some_glyphs(f"{SOURCE}_train", count)
    images = sample(bench.backbone, bench.source, source_rows(labels.tolist()), seed=1)
    floor, found = distances(judges, real, train), distances(judges, real, images)
    floor_styles, found_styles = distances(judges, styles, train), distances(judges, styles, images)
    recognised = recognition(judges, images, labels, SOURCE)
    figures = {
        "distance to other families": found,
        "floor of it": floor,
        "distance to other styles": found_styles,
        "floor of that": floor_styles,
        "recognised": recognised,
        "recognised of real": recognition(judges, real, labels, SOURCE),
        "samples": count,
        "holds": all(one <= TIMES_FLOOR * other for one, other in zip(found, floor)) and recognised >= RECOGNISED,
    }
    shown = evenly(count)
    return figures, {"source, real": real[shown], "source model": images[shown]}


def target_gates(bench: Bench, target: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Standard fine-tuning on a tuning target, in both regimes and with every blend."""
    before = bench.before
    first = {"model": "source", "source recognised": bench.source_recognised(before)}
    runs = [first | bench.losses(bench.source, *held_out_letters(target), knows_classes=False)]
    styles, _ = read_glyphs(DATA / f"{target}_styles.parquet")
    rows = {f"{target}, real": styles[evenly(len(styles))]}
    rows["source classes, source model"] = before[evenly(len(before))]
    for count in (LARGE, SMALL):
        method = {"objective": "standard", "learning_rate": RATE}
        folder = finetune(target, count, GATES_SEED, method, WORK / "gates" / f"{target}-{count}-standard")
        for found in bench.blends(bench.backbone.load_denoiser(folder), target, count, GATES_SEED):
            runs.append({"model": "standard", "images": count, "alpha": found.alpha} | found.figures)
            print(json.dumps(rounded(runs[-1])), flush=True)
            if found.alpha == 1:
                rows[f"{target}, {count} images"] = found.images[evenly(len(found.images))]
                rows[f"source classes, {count} images"] = found.drawn[evenly(len(found.drawn))]
    return judged(runs), runs, rows


def judged(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Gates (b) to (e) of the figures of the source model and of standard fine-tuning."""
    source, *tuned = runs
    whole = {run["images"]: run for run in tuned if run["alpha"] == 1}
    best = min(run[key]["near"] for run in tuned for key in LOSSES_OF_TARGET)
    premise = source["loss of target letters, null class"]["near"] / best - 1
    rise = {
        str(count): run["loss of source letters"]["near"] / source["loss of source letters"]["near"] - 1
        for count, run in whole.items()
    }
    left = {str(count): run["source recognised"] / source["source recognised"] for count, run in whole.items()}
    copies = {str(count): run["copied"] for count, run in whole.items()}
    agreement = rank_correlation(*zip(*(run["distance to other styles"] for run in tuned)))
    return {
        "b": {"source's loss above the best": premise, "holds": premise <= PREMISE},
        "c": {
            "rise of the loss near the data": rise,
            "recognised of before": left,
            "holds": min(rise.values()) >= RISE and max(left.values()) <= LEFT,
        },
        "d": {"copied": copies, "holds": max(copies.values()) <= COPIES},
        "e": {"rank correlation": agreement, "models": len(tuned), "holds": agreement >= AGREEMENT},
    }


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def evenly(count: int) -> list[int]:
    """Rows of the picture's letters."""
    return np.linspace(0, count - 1, SHOWN).round().astype(int).tolist()


def picture(rows: dict[str, torch.Tensor], file: Path) -> None:
    """One row of letters under another, each with its title, in 16 greys."""
    margin = 190
    side = rows[next(iter(rows))].shape[-1] * ZOOM
    canvas = Image.new("L", (margin + SHOWN * side, len(rows) * side), 255)
    pen = ImageDraw.Draw(canvas)
    for place, (title, images) in enumerate(rows.items()):
        pen.text((4, place * side + side // 3), title, fill=0)
        strip = torch.cat([*images[:, 0]], dim=1).add(1).mul(127.5).round().to(torch.uint8).numpy()
        canvas.paste(
            Image.fromarray(strip).resize((SHOWN * side, side), Image.Resampling.NEAREST), (margin, place * side)
        )
    canvas.quantize(16).save(file, optimize=True)


if __name__ == "__main__":
    main()
