# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Draw the benchmark's data: Parquet files with the columns image (32 × 32 pixels, on white), label, name and set.

    pip install -e ".[icons]"                            # npm is needed, too
    python benchmarks/transfers/data.py --estimate
    python benchmarks/transfers/data.py --threads 2      # 3 minutes

What is drawn is committed (`splits/*.csv`, made by make_splits.py), and so are the packages' versions: every machine draws
the same. A set whose files are there is not drawn again. Writes `<target>_train`, `<target>_held_out` and `<target>_rest`
for every target set, and `source_train` and `source_held_out`, into `outputs/transfers/data`.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, Value


ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "icons" / "make")]
from benchmarks.transfers.settings import DATA, TARGETS, TUNING_TARGET  # noqa: E402
from benchmarks.transfers.splits import PARTS, SOURCE, SPLITS, Entry, class_names, counts, read_split  # noqa: E402
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402
from diffusers_difftune.io.hashing import file_sha256  # noqa: E402


DRAWINGS_PER_SECOND = 100  # on one thread of an Intel Xeon core
RESOLUTION = 32
NPM = ROOT / "examples" / "icons" / "make" / "raw" / "npm"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DATA, help="Where the Parquet files go.")
    parser.add_argument("--cache_dir", type=Path, default=NPM, help="Where packages of the npm registry are kept.")
    sets = (SOURCE, *TARGETS, TUNING_TARGET)
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets, help="Only these.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--estimate", action="store_true", help="Say what there is to do and how long it takes.")
    arguments = parser.parse_args(argv)
    names = arguments.sets
    splits = {name: read_split(name) for name in names}
    print(table(splits))
    missing = [name for name in names if not is_drawn(name, arguments.output)]
    drawings = sum(len(splits[name]) for name in missing)
    minutes = drawings / DRAWINGS_PER_SECOND / arguments.threads / 60
    print(
        f"{len(missing)} of {len(names)} are to be drawn: {drawings} drawings, about {minutes:.0f} minutes", flush=True
    )
    if not arguments.estimate:
        for name in missing:
            make(name, splits[name], arguments)


def table(splits: dict[str, list[Entry]]) -> str:
    """Drawings of every set by part, as Markdown."""
    lines = ["| set | classes | train | held out | rest |", "|---|---|---|---|---|"]
    for name, entries in splits.items():
        parts = counts(entries)
        cells = [len(class_names(entries)), *(parts[part] for part in PARTS)]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def stamp(name: str, output: Path) -> Path:
    """The file that says which split the drawings are of."""
    return output / f"{name}.split"


def is_drawn(name: str, output: Path) -> bool:
    """Whether the files of a set are there, by the split of now."""
    file = stamp(name, output)
    return file.is_file() and file.read_text() == file_sha256(SPLITS / f"{name}.csv")


def make(name: str, entries: list[Entry], arguments: argparse.Namespace) -> None:
    """Draws a set and writes its parts."""
    from fetch import draw

    wanted = defaultdict(set)
    for entry in entries:
        wanted[entry.icon_set].add(entry.name)
    drawn = {}
    for icon_set, own in wanted.items():
        rows = draw(icon_set, arguments.cache_dir, RESOLUTION, arguments.threads, own)
        drawn |= {(icon_set, row["name"]): row["image"] for row in rows}
    if lost := [entry for entry in entries if (entry.icon_set, entry.name) not in drawn]:
        sys.exit(f"{lost[0].icon_set} has no drawing {lost[0].name}; is it another version of the package?")
    labels = class_names(entries)
    features = Features(
        {"image": Image(), "label": ClassLabel(names=labels), "name": Value("string"), "set": Value("string")}
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    for part in counts(entries):
        own_entries = [entry for entry in entries if entry.part == part]
        columns = {
            "image": [drawn[entry.icon_set, entry.name] for entry in own_entries],
            "label": [entry.label for entry in own_entries],
            "name": [entry.name for entry in own_entries],
            "set": [entry.icon_set for entry in own_entries],
        }
        Dataset.from_dict(columns, features=features).to_parquet(arguments.output / f"{name}_{part}.parquet")
    write_bytes_atomic(stamp(name, arguments.output), file_sha256(SPLITS / f"{name}.csv").encode())


if __name__ == "__main__":
    main()
