# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Fetch icon sets from the npm registry, rasterise them and write captioned Parquet files.

    pip install -e ".[icons]"
    python examples/icons/make/fetch.py                       # the embedded pipeline's data and the two demo targets
    python examples/icons/make/fetch.py --targets fxemoji     # further target sets, to --raw_dir

Writes `source_train.parquet` to `--raw_dir` (not committed), and to `--data_dir` (committed) `source_held_out.parquet`,
`source_examples.parquet` (drawings that were trained on, to show what the pipeline knew)
and `<target>_train.parquet`, `<target>_held_out.parquet` for the demo targets. Columns: image, text, set, name, category,
licence. Hidden aliases are skipped, pixel duplicates dropped, within a set and across sets; a source drawing that equals
a drawing of any target set is dropped from the sources. Source drawings are split by what they show: the near-twins of
a held-out drawing in other sets are never trained on.
"""

import argparse
import hashlib
import io
import json
import random
import re
import subprocess
import tarfile
from collections import Counter, defaultdict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import resvg_py
from captions import caption, core, loose_core, unaccented, without_skin_tone
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage


HERE = Path(__file__).resolve().parent
VERSIONS = {
    # sources of the embedded pipeline
    "noto": "1.2.9", "noto-v1": "1.2.5", "emojione": "1.2.3", "emojione-v1": "1.2.3", "logos": "1.2.19",
    "material-icon-theme": "1.2.70", "devicon": "1.2.68", "fluent-color": "1.2.21", "catppuccin": "1.2.17",
    "skill-icons": "1.2.4", "circle-flags": "1.2.11", "flag": "1.2.12",
    # targets of the demo
    "fluent-emoji": "1.2.7", "flat-color-icons": "1.2.3",
    # targets of the transfer benchmark
    "twemoji": "1.2.5", "openmoji": "1.2.29", "fluent-emoji-flat": "1.2.6", "streamline-ultimate-color": "1.2.2",
    "streamline-freehand-color": "1.2.2", "streamline-emojis": "1.2.4", "vscode-icons": "1.2.97",
    "token-branded": "1.2.45", "fxemoji": "1.2.2",
}  # fmt: skip
SOURCES = tuple(list(VERSIONS)[:12])
DEMO_TARGETS = ("fluent-emoji", "flat-color-icons")
OTHER_TARGETS = tuple(list(VERSIONS)[14:])  # fetched to make sure that no source drawing is one of theirs
EMOJI = ("noto", "noto-v1", "emojione", "emojione-v1")  # what the target fluent-emoji draws, too
FEATURES = Features({"image": Image(), **{c: Value("string") for c in ("text", "set", "name", "category", "licence")}})


def package(set_name: str, cache: Path) -> dict:
    """The JSON files of an icon set's npm package: {"icons": ..., "info": ..., "metadata": ...}."""
    version = VERSIONS.get(set_name)
    pattern = f"iconify-json-{set_name}-{version or '[0-9]*'}.tgz"
    if not list(cache.glob(pattern)):
        cache.mkdir(parents=True, exist_ok=True)
        name = f"@iconify-json/{set_name}" + (f"@{version}" if version else "")
        subprocess.run(["npm", "pack", "--silent", name], cwd=cache, check=True)
    found = sorted(cache.glob(pattern))
    with tarfile.open(found[-1]) as tar:
        names = {Path(m.name).stem: m for m in tar.getmembers() if m.name.count("/") == 1 and m.name.endswith(".json")}
        return {k: json.load(tar.extractfile(names[k])) for k in ("icons", "info", "metadata") if k in names}


def rasterise(svg: str, size: int) -> PILImage.Image:
    """Four times oversampled, then reduced, on white; system fonts are ignored so that every machine draws the same."""
    png = bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg, width=4 * size, height=4 * size, background="#ffffff", skip_system_fonts=True
        )
    )
    image = PILImage.open(io.BytesIO(png)).convert("RGB")
    if image.size != (4 * size, 4 * size):
        raise ValueError(f"rendered {image.size}")
    return image.resize((size, size), PILImage.Resampling.HAMMING)


def draw(
    set_name: str, cache: Path, resolution: int = 32, threads: int = 2, only: Collection[str] | None = None
) -> list[dict]:
    """All visible drawings of one set, or only some, without pixel duplicates, in the package's order."""
    files = package(set_name, cache)
    icons, info = files["icons"], files["info"]
    categories = {n: c for c, names in (files.get("metadata", {}).get("categories") or {}).items() for n in names}
    visible = {n: i for n, i in icons["icons"].items() if not i.get("hidden")}
    drawn = {n: i for n, i in visible.items() if only is None or n in only}

    def one(item: tuple[str, dict]) -> dict | None:
        name, icon = item
        get = lambda key, default: icon.get(key, icons.get(key, info.get(key, default)))  # noqa: E731
        left, top, width, height = get("left", 0), get("top", 0), get("width", 16), get("height", 16)
        side = max(width, height)  # a square view box around the drawing, so that the background is drawn everywhere
        box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{side}" height="{side}" viewBox="{box}" color="#000000">{icon["body"]}</svg>'
        )
        try:
            image = rasterise(svg, resolution)
        except ValueError as error:
            print(f"{set_name}:{name} skipped: {error}")
            return None
        if image.getextrema() == ((255, 255),) * 3:
            return None  # nothing to see on white
        png = io.BytesIO()
        image.save(png, "PNG", optimize=True)
        return {
            "image": {"bytes": png.getvalue(), "path": None},
            "text": caption(set_name, name, visible.keys()),
            "set": set_name,
            "name": name,
            "category": categories.get(name),
            "licence": info["license"]["spdx"],
            "pixels": hashlib.sha256(image.tobytes()).hexdigest(),
        }

    with ThreadPoolExecutor(threads) as pool:
        rows = [row for row in pool.map(one, drawn.items()) if row is not None]
    unique = list({row["pixels"]: row for row in reversed(rows)}.values())[::-1]
    print(
        f"{set_name:28s} {len(icons['icons']):5d} icons {len(visible):5d} visible {len(unique):5d} distinct",
        flush=True,
    )
    return unique


def write(rows: list[dict], path: Path) -> None:
    columns = {c: [row[c] for row in rows] for c in FEATURES}
    columns["text"] = [unaccented(text) for text in columns["text"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=FEATURES).to_parquet(path)
    print(f"{path}: {len(rows)} rows, {path.stat().st_size / 1e6:.2f} MB")


def split_sources(rows: list[dict], held_out: int, seed: int) -> tuple[list[dict], list[dict]]:
    """Whole groups of near-twins are held out; of one, at most one drawing per set is kept for measuring."""
    groups = defaultdict(list)
    for row in rows:
        groups[core(row["text"])].append(row)
    keys = sorted(groups)
    random.Random(seed).shuffle(keys)
    chosen, kept = set(), []
    for key in keys:
        if len(kept) >= held_out:
            break
        chosen.add(key)
        kept += list({row["set"]: row for row in reversed(groups[key])}.values())
    twins = {loose_core(row["text"]) for row in kept}  # the same thing in another spelling is not trained on either
    train = [row for row in rows if core(row["text"]) not in chosen and loose_core(row["text"]) not in twins]
    return train, kept[:held_out]


def split_target(rows: list[dict], train: int, held_out: int, seed: int) -> tuple[list[dict], list[dict]]:
    """One drawing per name without skin tone (the plain one where there is one), then a random split."""
    names = {row["name"] for row in rows}
    plain = {name: without_skin_tone(name) for name in names}
    rows = [row for row in rows if plain[row["name"]] == row["name"] or plain[row["name"]] not in names]
    random.Random(seed).shuffle(rows)
    held, rest = rows[:held_out], rows[held_out : held_out + train]
    by_name = lambda row: row["name"]  # noqa: E731
    return sorted(rest, key=by_name), sorted(held, key=by_name)


def distinct_sources(targets: list[dict], cache: Path, resolution: int = 32, threads: int = 2) -> list[dict]:
    """The drawings of all source sets, each once and none that is a target's."""
    forbidden = {row["pixels"] for row in targets}
    counts, seen, sources = Counter(), set(), []
    for row in (row for name in SOURCES for row in draw(name, cache, resolution, threads)):
        fate = (
            "in_a_target" if row["pixels"] in forbidden else "in_another_source" if row["pixels"] in seen else "kept"
        )
        counts[fate] += 1
        if fate == "kept":
            seen.add(row["pixels"])
            sources.append(row)
    print(f"source drawings: {dict(counts)}")
    return sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache_dir", type=Path, default=HERE / "raw" / "npm", help="where packages are kept")
    parser.add_argument("--raw_dir", type=Path, default=HERE / "raw", help="where uncommitted Parquet files go")
    parser.add_argument("--data_dir", type=Path, default=HERE.parent / "data", help="where committed ones go")
    parser.add_argument("--targets", nargs="+", help="fetch only these sets, each into raw_dir/<set>.parquet")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--held_out", type=int, default=800, help="source drawings held out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    options = (args.cache_dir, args.resolution, args.threads)

    if args.targets:
        for name in args.targets:
            write(draw(name, *options), args.raw_dir / f"{name}.parquet")
        return

    demo = {name: draw(name, *options) for name in DEMO_TARGETS}
    targets = [row for rows in demo.values() for row in rows]
    targets += [row for name in OTHER_TARGETS for row in draw(name, *options)]
    sources = distinct_sources(targets, *options)
    train, held = split_sources(sources, args.held_out, args.seed)
    print(f"{len(train)} source drawings for training, {len(held)} held out")
    write(train, args.raw_dir / "source_train.parquet")
    write(held, args.data_dir / "source_held_out.parquet")
    others = [row for row in train if row["set"] not in EMOJI]
    write(random.Random(args.seed).sample(others, 64), args.data_dir / "source_examples.parquet")
    sizes = {"fluent-emoji": (1000, 300), "flat-color-icons": (229, 100)}
    for name, rows in demo.items():
        for part, part_rows in zip(("train", "held_out"), split_target(rows, *sizes[name], args.seed), strict=True):
            write(part_rows, args.data_dir / f"{re.sub('-', '_', name)}_{part}.parquet")


if __name__ == "__main__":
    main()
