# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What real images score against other real images, by how many there are and how many features describe each.

Disjoint draws of the 1,300 drawings of one icon set are compared with each other. All are of one kind, so whatever they score is the
floor: what the number of images and features does, and no model. The table is in docs/evaluation.md.

    python benchmarks/sample_counts.py
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "icons"))
from features import PROJECTION  # noqa: E402
from measure import read_drawings  # noqa: E402

from diffusers_difftune.evaluation.features import make_features  # noqa: E402
from diffusers_difftune.evaluation.metrics import extract_features, frechet_distance, kernel_distance  # noqa: E402
from diffusers_difftune.evaluation.precision_recall import precision_recall  # noqa: E402
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402
from diffusers_difftune.io.random import seeded_order  # noqa: E402


RESULT = ROOT / "benchmarks" / "results" / "sample_counts.json"
COUNTS = (50, 100, 200, 400, 650)
FEW = 16  # the first of the 64 components


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3, help="Pairs of draws of each size.")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="Drawings of each draw.")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args(argv)
    drawings = torch.cat(
        [read_drawings(ROOT / f"examples/icons/data/fluent_emoji_{part}.parquet")[0] for part in ("train", "held_out")]
    )
    projection = make_features(str(PROJECTION))
    raw = extract_features(projection.extractor, drawings)
    projected = (raw - projection.mean) @ projection.components
    sets = {"1280": raw, "64": projected, str(FEW): projected[:, :FEW]}
    found = [row(features, count, arguments.draws) for features in sets.values() for count in arguments.counts]
    content = {
        "drawings": len(drawings),
        "features": projection.extractor.name,
        "draws": arguments.draws,
        "rows": found,
    }
    write_bytes_atomic(arguments.output, (json.dumps(content, indent=1) + "\n").encode())
    print(table(found))


def row(features: torch.Tensor, count: int, draws: int) -> dict[str, float | int]:
    """The mean over some pairs of disjoint draws, and the standard deviation of the KID."""
    found = []
    for draw in range(draws):
        order = torch.from_numpy(seeded_order(draw, "sample counts", 0, len(features)))
        pair = features[order[:count]], features[order[count : 2 * count]]
        found.append((frechet_distance(*pair), kernel_distance(*pair)[0], *precision_recall(*pair)))
    fid, kid, precision, recall = (statistics.fmean(values) for values in zip(*found))
    kids = [kid for _, kid, _, _ in found]
    return {
        "num_features": features.shape[1],
        "num_images": count,
        "fid": fid,
        "kid": kid,
        "kid_deviation": statistics.stdev(kids) if draws > 1 else 0.0,
        "precision": precision,
        "recall": recall,
    }


def table(rows: list[dict]) -> str:
    """The figures as Markdown; a FID of no more images than features is in brackets."""
    lines = ["| features | images | FID | KID | precision | recall |", "|---|---|---|---|---|---|"]
    for each in rows:
        fid = f"{each['fid']:.1f}"
        fid = f"({fid})" if each["num_images"] <= each["num_features"] else fid
        kid = f"{each['kid']:.4f} ± {each['kid_deviation']:.4f}"
        facts = [each["num_features"], each["num_images"], fid, kid]
        lines.append(f"| {' | '.join(map(str, facts))} | {each['precision']:.2f} | {each['recall']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
