# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Render the benchmark's data: Parquet files with the columns image (24 × 24 pixels, grey), label, font and family.

    apt-get install --no-install-recommends $(python benchmarks/glyphs/render.py --packages)
    python benchmarks/glyphs/render.py                  # 5 minutes
    python benchmarks/glyphs/render.py --sets georgian

Writes into `outputs/glyphs/data`, for the source and every target:

- `<set>_train`: what is trained on, or drawn from;
- `<set>_styles`: other styles (weights, widths, slants) of the same type families;
- `<set>_families`: fonts of type families that no training font is of;
- `<target>_train_<100 or 1000>_<seed>`: the training images of a regime.

Every draw is a function of names, so that the same fonts give the same files; `counts.json` says what they were.
"""

import argparse
import hashlib
import io
import itertools
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.glyphs.fonts import Font, package_fonts, package_versions  # noqa: E402
from benchmarks.glyphs.scripts import (  # noqa: E402
    PACKAGES,
    SETS,
    SOURCE,
    SOURCE_PACKAGES,
    TARGET_PACKAGES,
    TUNING_TARGETS,
    class_name,
    letters,
)
from benchmarks.glyphs.settings import COUNTS, DATA, GATES_SEED, LARGE, SEEDS, SIDE, SMALL, TUNING_SEED  # noqa: E402
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


FINE = 4  # drawn at so many times the size, and averaged
EM = round(0.8 * SIDE * FINE)  # pixels of an em; larger letters are made to fit
LEAST_LETTERS = 1 / 3  # of a set, which a font must have to be used: the Latin ones do for the source
LEAST_FONTS = 1 / 4  # of the fonts that are used, which must have a letter for it to be a class
MOST_STYLES = 36  # of a family, evenly spaced, so that no family of many is most of a set
SAME = 0.02  # root mean square difference of two images, of the range, below which they are one
CLONES = 0.05  # mean difference of two fonts' letters below which their families are one
LEAST_SHARED = 10  # letters that two fonts must both have for that
PARTS = ("train", "styles", "families")
EVERY = 6  # of the styles of a family, one is not trained on
HELD_OUT_SHARE = 0.15  # of the fonts are of families that are not trained on, if the small families are so many
LARGEST_SHARE = 0.25  # of the fonts, above which a family is always trained on


@dataclass(frozen=True)
class Glyph:
    """A letter of a font.

    Attributes:
        letter (`int`): The place of the letter in its set.
        font (`str`): Name of the font's file.
        family (`str`): Its type family.
        pixels (`np.ndarray` of shape `(24, 24)`): uint8, black on white.
    """

    letter: int
    font: str
    family: str
    pixels: np.ndarray


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DATA, help="Where the Parquet files go.")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="Only these.")
    parser.add_argument(
        "--packages", action="store_true", help="Print the names of the Debian packages that are needed."
    )
    parser.add_argument("--counts", type=Path, default=COUNTS, help="The file that says what was rendered.")
    arguments = parser.parse_args(argv)
    if arguments.packages:
        print(" ".join(PACKAGES))
        return
    versions = package_versions(PACKAGES)
    if missing := sorted({*PACKAGES} - {*versions}):
        sys.exit(f"{len(missing)} Debian packages are not installed: {' '.join(missing)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = json.loads(arguments.counts.read_text()) if arguments.counts.is_file() else {"sets": {}}
    found["packages"] = versions
    for name in arguments.sets:
        found["sets"][name] = make(name, arguments.output)
        print(name, json.dumps(found["sets"][name]["images"]), flush=True)
    found["sets"] = {name: found["sets"][name] for name in SETS if name in found["sets"]}
    write_bytes_atomic(arguments.counts, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())


def make(name: str, output: Path) -> dict:
    """Renders a set, writes its parts and returns what is said of it."""
    glyphs, wanted = glyphs_of(name)
    merged = merge_clones(glyphs)
    part_of = assign_parts(sorted({(merged[glyph.family], glyph.font) for glyph in glyphs}), name)
    kept = defaultdict(list)
    for glyph in distinct(sorted(glyphs, key=lambda glyph: PARTS.index(part_of[glyph.font]))):
        kept[part_of[glyph.font]].append(glyph)
    labels = [class_name(letter) for letter in wanted]
    for part in PARTS:
        write(output / f"{name}_{part}.parquet", kept[part], labels, merged)
    if name != SOURCE:
        for count, seed in itertools.product((SMALL, LARGE), seeds_of(name)):
            chosen = [kept["train"][row] for row in draw([glyph.letter for glyph in kept["train"]], count, seed)]
            write(output / f"{name}_train_{count}_{seed}.parquet", chosen, labels, merged)
    families = {part: sorted({merged[glyph.family] for glyph in kept[part]}) for part in PARTS if part != "styles"}
    return {
        "classes": len(wanted),
        "letters": wanted,
        "fonts": {part: len({glyph.font for glyph in kept[part]}) for part in PARTS},
        "images": {part: len(kept[part]) for part in PARTS},
        "left out as equal": len(glyphs) - sum(map(len, kept.values())),
        "families": families,
        "pixels": {part: digest(kept[part]) for part in PARTS},
    }


def seeds_of(name: str) -> tuple[int, ...]:
    """The seeds of a target's regimes."""
    return (GATES_SEED, TUNING_SEED) if name in TUNING_TARGETS else SEEDS


def glyphs_of(name: str) -> tuple[list[Glyph], str]:
    """Every letter of every font of a set, and the letters that are its classes."""
    every = letters(name)
    fonts = package_fonts(SOURCE_PACKAGES if name == SOURCE else TARGET_PACKAGES)
    fonts = [
        font for font in fonts if sum(ord(letter) in font.characters for letter in every) >= LEAST_LETTERS * len(every)
    ]
    by_family = defaultdict(list)
    for font in fonts:
        by_family[font.family].append(font)
    fonts = [font for family in sorted(by_family) for font in evenly(by_family[family], MOST_STYLES)]
    common = Counter(letter for font in fonts for letter in every if ord(letter) in font.characters)
    wanted = "".join(letter for letter in every if common[letter] >= LEAST_FONTS * len(fonts))
    return [glyph for font in fonts for glyph in draw_font(font, wanted)], wanted


def evenly(items: list, most: int) -> list:
    """At most so many of the items, evenly spaced."""
    return [
        items[index] for index in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    ]


def draw_font(font: Font, wanted: str) -> Iterator[Glyph]:
    """The letters of a font that are not blank."""
    face = ImageFont.truetype(str(font.path), EM, layout_engine=ImageFont.Layout.BASIC)
    for index, letter in enumerate(wanted):
        if ord(letter) in font.characters:
            pixels = draw_letter(face, letter)
            if pixels is not None:
                yield Glyph(index, font.path.name, font.family, pixels)


def draw_letter(face: ImageFont.FreeTypeFont, letter: str) -> np.ndarray | None:
    """A letter in the middle of its image; `None` if it is blank."""
    left, top, right, bottom = face.getbbox(letter, anchor="ls")
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0:
        return None
    side = max(SIDE * FINE, max(width, height) + FINE)
    canvas = PILImage.new("L", (side, side), 255)
    place = ((side - width) // 2 - left, (side - height) // 2 - top)
    ImageDraw.Draw(canvas).text(place, letter, font=face, fill=0, anchor="ls")
    pixels = np.asarray(canvas.resize((SIDE, SIDE), PILImage.Resampling.BOX))
    return pixels if pixels.min() < 128 else None


def merge_clones(glyphs: list[Glyph]) -> dict[str, str]:
    """The name under which every family is counted: families with fonts that draw nearly the same letters are one."""
    fonts = sorted({(glyph.family, glyph.font) for glyph in glyphs})
    place = {font: row for row, (_, font) in enumerate(fonts)}
    total, shared = np.zeros((2, len(fonts), len(fonts)), np.float32)
    for of_letter in by_letter(glyphs):
        rows = np.array([place[glyphs[row].font] for row in of_letter])
        total[np.ix_(rows, rows)] += differences(np.stack([glyphs[row].pixels for row in of_letter]))
        shared[np.ix_(rows, rows)] += 1
    near = (total < CLONES * shared) & (shared >= LEAST_SHARED)
    merged = {family: family for family, _ in fonts}
    for one, other in np.argwhere(np.triu(near, 1)):
        first, second = sorted((merged[fonts[one][0]], merged[fonts[other][0]]))
        merged = {family: first if group == second else group for family, group in merged.items()}
    return merged


def by_letter(glyphs: Sequence[Glyph]) -> list[list[int]]:
    """The rows of each letter's glyphs."""
    rows = defaultdict(list)
    for row, glyph in enumerate(glyphs):
        rows[glyph.letter].append(row)
    return [rows[letter] for letter in sorted(rows)]


def differences(pixels: np.ndarray) -> np.ndarray:
    """The root mean square difference of every two images, of the range; of shape `(N, N)` for N images."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
    squares = (flat**2).sum(1)
    return np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * flat @ flat.T, 0) / flat.shape[1])


def distinct(glyphs: list[Glyph]) -> list[Glyph]:
    """The glyphs without those that are the same as an earlier one of their letter."""
    kept: list[int] = []
    for rows in by_letter(glyphs):
        same = differences(np.stack([glyphs[row].pixels for row in rows])) < SAME
        own: list[int] = []
        for place in range(len(rows)):
            if not same[place, own].any():
                own.append(place)
        kept += [rows[place] for place in own]
    return [glyphs[row] for row in sorted(kept)]


def assign_parts(fonts: list[tuple[str, str]], name: str) -> dict[str, str]:
    """The part of every font, given with its family.

    Families are held out in an order drawn from their names until they have their share of the fonts, the largest never;
    of the others every sixth style is.
    """
    styles = defaultdict(list)
    for family, font in fonts:
        styles[family].append(font)
    part_of = {}
    held_out = 0
    for family in sorted(styles, key=lambda family: hashlib.sha256(f"{name} {family}".encode()).digest()):
        count = len(styles[family])
        if held_out < HELD_OUT_SHARE * len(fonts) and count <= LARGEST_SHARE * len(fonts):
            held_out += count
            part_of |= dict.fromkeys(styles[family], "families")
        else:
            part_of |= {
                font: "styles" if index % EVERY == EVERY - 1 else "train" for index, font in enumerate(styles[family])
            }
    return part_of


def draw(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """So many rows, every class as often as the others as far as it has them."""
    generator = np.random.default_rng([seed, count])
    shuffled = generator.permutation(len(labels))
    turns: dict[int, int] = Counter()
    turn_of = {}
    for row in shuffled:
        turn_of[row] = turns[labels[row]]
        turns[labels[row]] += 1
    return sorted(sorted(shuffled, key=lambda row: turn_of[row])[:count])


def digest(glyphs: Sequence[Glyph]) -> str:
    """What tells the pixels of one part from those of another."""
    return hashlib.sha256(b"".join(glyph.pixels.tobytes() for glyph in glyphs)).hexdigest()[:16]


def write(file: Path, glyphs: Sequence[Glyph], labels: list[str], merged: dict[str, str]) -> None:
    """Writes a Parquet file that the training scripts read."""
    features = Features(
        {"image": Image(), "label": ClassLabel(names=labels), "font": Value("string"), "family": Value("string")}
    )
    columns = {
        "image": [{"bytes": png(glyph.pixels), "path": None} for glyph in glyphs],
        "label": [glyph.letter for glyph in glyphs],
        "font": [glyph.font for glyph in glyphs],
        "family": [merged[glyph.family] for glyph in glyphs],
    }
    Dataset.from_dict(columns, features=features).to_parquet(file)


def png(pixels: np.ndarray) -> bytes:
    """An image as a PNG file."""
    stream = io.BytesIO()
    PILImage.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


if __name__ == "__main__":
    main()
