# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The extractors that need no model, on drawings whose edges, regions and heights are known."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffusers_difftune.controls import KINDS, make_extractor
from diffusers_difftune.controls.shapes import PALETTE, height, silhouette
from diffusers_difftune.errors import DiffTuneError
from tests.controls.drawings import (
    control,
    disk,
    distance_to_centre,
    drawing_extractor,
    icons,
    rectangle,
    with_noise,
)


def test_edges_lie_on_the_border_of_a_rectangle() -> None:
    left, top, right, bottom = box = (10, 8, 38, 30)
    edges = control("edge", rectangle(box=box))
    assert set(np.unique(edges)) == {0, 255} and (edges[..., :1] == edges).all()
    down, across = np.nonzero(edges[..., 0])
    to_border = np.maximum(
        np.maximum(left - across - 0.5, across + 0.5 - right), np.maximum(top - down - 0.5, down + 0.5 - bottom)
    )
    assert (abs(to_border) <= 1).all()
    # and all along it, but for the corners
    assert set(range(left + 2, right - 2)) <= set(across) and set(range(top + 2, bottom - 2)) <= set(down)
    assert len(down) >= 2 * (right - left + bottom - top) - 12


def test_the_thresholds_of_edges_are_about_neighbouring_pixels() -> None:
    """A step of 25 is not above the upper threshold, one of 60 is, at every size."""
    for side in (32, 512):
        for step, found in ((20, False), (60, True)):
            image = Image.new("RGB", (side, side), (200, 200, 200))
            image.paste((200 - step,) * 3, (0, 0, side // 2, side))
            assert control("edge", image).any() == found


def test_edges_between_colours_of_equal_lightness_are_found() -> None:
    image = Image.new("RGB", (32, 32), (200, 60, 60))
    image.paste((60, 131, 60), (0, 0, 16, 32))
    for kind in ("edge", "sketch"):
        assert control(kind, image)[:, 12:20].any(), kind
        assert not control(kind, image)[:, :10].any() and not control(kind, image)[:, 22:].any()


def test_channels_that_change_in_opposite_ways_are_sketched() -> None:
    image = Image.new("RGB", (32, 32), (200, 60, 60))
    image.paste((60, 200, 60), (0, 0, 16, 32))
    assert control("sketch", image)[:, 14:18].max() > 200


@pytest.mark.parametrize("side", [32, 512])
def test_a_sketch_has_one_soft_line_where_an_edge_detector_sees_two(side: int) -> None:
    image = Image.new("RGB", (side, side), "white")
    width = max(1, side // 128)
    at = side // 2
    image.paste((60, 60, 60), (at, side // 8, at + width, side * 7 // 8))
    row = control("sketch", image)[side // 2, :, 0].astype(int)
    assert row[at + width // 2] > 200  # on the stroke
    bright = np.nonzero(row > 40)[0]
    assert bright.max() - bright.min() + 1 == len(bright)  # one line
    edges = np.nonzero(control("edge", image)[side // 2, :, 0])[0]
    assert len(edges) == 2 and edges[1] - edges[0] >= 2  # two lines, with the stroke between them


def test_a_sketch_is_the_fainter_the_fainter_the_contrast() -> None:
    def strength(grey: int) -> int:
        return control("sketch", rectangle(color=(grey,) * 3)).max()

    assert strength(20) >= strength(190) > strength(225) > strength(245) == 0


def test_a_sketch_has_nothing_in_flat_areas_and_in_noise() -> None:
    for color in ("white", "black", (90, 160, 30)):
        assert not control("sketch", Image.new("RGB", (64, 64), color)).any()
    noisy = control("sketch", with_noise(Image.new("RGB", (64, 64), (128, 128, 128)), 2))
    assert noisy.mean() < 2


def test_the_lines_of_a_sketch_grow_with_the_image() -> None:
    def width(side: int) -> int:
        image = rectangle((side, side), (side // 4, side // 4, 3 * side // 4, 3 * side // 4), (40, 40, 40))
        return (control("sketch", image)[side // 2, : side // 2, 0] > 60).sum()

    assert width(1024) >= 1.7 * width(512) >= 2.5 * width(128)


def test_depth_of_a_disk_is_a_ball() -> None:
    depth = control("depth", disk(64, 24))
    assert (depth[..., :1] == depth).all()
    depth, distance = depth[..., 0].astype(int), distance_to_centre(64)
    assert (depth[distance > 24.5] == 0).all() and (depth[distance <= 24] >= 64).all()
    assert depth.max() == depth[31:33, 31:33].max() > 200
    across = depth[31]
    assert (np.diff(across[8:31]) >= 0).all() and (np.diff(across[33:56]) <= 0).all()
    assert (
        np.array_equal(depth, depth.T) and np.array_equal(depth, depth[::-1]) and np.array_equal(depth, depth[:, ::-1])
    )
    # round, not a cone: higher than the straight line between border and centre
    assert across[20] > (across[8] + across[31]) / 2 + 10


def test_wide_things_are_nearer_than_thin_ones() -> None:
    image = Image.new("RGB", (64, 64), "white")
    image.paste((20, 120, 20), (4, 4, 40, 40))
    image.paste((20, 120, 20), (50, 4, 53, 60))
    depth = control("depth", image)[..., 0]
    assert depth[22, 22] > depth[30, 51] + 60 and depth[30, 51] > 64


def test_what_is_enclosed_belongs_to_the_silhouette() -> None:
    ring = np.asarray(disk(32, 12)).copy()
    ring[distance_to_centre(32) <= 9] = 255
    filled = silhouette(ring)
    assert np.array_equal(filled, distance_to_centre(32) <= 12)
    open_ring = ring.copy()
    open_ring[14:18, :16] = 255
    assert not silhouette(open_ring)[16, 16]
    # a line of pixels that touch by their corners only encloses, too
    corners = np.full((9, 9, 3), 255, np.uint8)
    for x, y in ((4, 1), (5, 2), (6, 3), (7, 4), (6, 5), (5, 6), (4, 7), (3, 6), (2, 5), (1, 4), (2, 3), (3, 2)):
        corners[y, x] = 0
    assert silhouette(corners)[4, 4] and not silhouette(corners)[0, 0]


def test_dust_and_paper_are_ground() -> None:
    pixels = np.asarray(disk(40, 10)).copy()
    pixels[2, 2] = pixels[38, 3] = 0
    pixels[pixels == 255] = 240
    assert np.array_equal(silhouette(pixels), distance_to_centre(40) <= 10)


def test_a_drawing_that_fills_the_image_is_a_pillow() -> None:
    heights = height(np.zeros((32, 32, 3), np.uint8))
    assert heights[0].max() < heights[16].max() and heights.argmax() in (15 * 32 + 15, 15 * 32 + 16, 16 * 32 + 15)


def test_normals_of_a_disk_point_outward() -> None:
    normals = control("normal", disk(64, 24)).astype(float) / 255 * 2 - 1
    lengths = np.linalg.norm(normals, axis=-1)
    assert abs(lengths - 1).max() < 0.02
    x, y, z = np.moveaxis(normals, -1, 0)
    assert x[32, 12] < -0.4 and x[32, 52] > 0.4  # left and right
    assert y[12, 32] > 0.4 and y[52, 32] < -0.4  # up is positive
    assert abs(x[12, 32]) < 0.1 and abs(y[32, 12]) < 0.1
    assert z[31, 31] > 0.95 and (z > 0).all()
    assert (control("normal", disk(64, 24))[:4] == (128, 128, 255)).all()  # the ground faces the viewer


def test_two_colours_are_two_regions() -> None:
    image = Image.new("RGB", (40, 30), (225, 45, 45))
    image.paste((45, 125, 235), (20, 0, 40, 30))
    regions = control("segmentation", image)
    colors = np.unique(regions.reshape(-1, 3), axis=0)
    assert {tuple(color) for color in colors} == {(220, 40, 40), (50, 130, 230)}
    assert (regions[:, :20] == (220, 40, 40)).all() and (regions[:, 20:] == (50, 130, 230)).all()


def test_regions_have_colours_of_the_palette_only() -> None:
    palette = {tuple(color) for color in PALETTE.tolist()}
    assert len(palette) == len(PALETTE)
    for image in icons("source_held_out.parquet", 20, 37):
        assert {tuple(color) for color in control("segmentation", image).reshape(-1, 3).tolist()} <= palette


def test_smooth_borders_are_no_regions() -> None:
    """An edge that was smoothed when it was drawn has colours in between, which are no thing of their own."""
    large = Image.new("RGB", (256, 256), "white")
    large.paste((40, 40, 40), (40, 70, 200, 190))
    regions = control("segmentation", large.resize((32, 32), Image.Resampling.BICUBIC))
    assert {tuple(color) for color in regions.reshape(-1, 3).tolist()} == {(255, 255, 255), (40, 40, 40)}


@pytest.mark.parametrize("side, small, large", [(32, 1, 2), (512, 7, 9)])
def test_small_regions_fall_to_those_around_them(side: int, small: int, large: int) -> None:
    image = Image.new("RGB", (side, side), (50, 130, 230))
    image.paste((40, 40, 40), (side // 4, side // 4, side // 4 + small, side // 4 + small))
    assert (control("segmentation", image) == (50, 130, 230)).all()
    image.paste((40, 40, 40), (side // 2, side // 2, side // 2 + large, side // 2 + large))
    regions = control("segmentation", image)
    assert (regions == (40, 40, 40)).all(-1).sum() >= large**2 / 2 and (regions[: side // 3] == (50, 130, 230)).all()


@pytest.mark.parametrize("deviation, most", [(2, 0.02), (4, 0.03)])
def test_a_little_noise_changes_little_of_a_segmentation(deviation: float, most: float) -> None:
    images = icons("source_held_out.parquet", 60, 13) + icons("fluent_emoji_held_out.parquet", 30, 10)
    changed = [
        (control("segmentation", image) != control("segmentation", with_noise(image, deviation, seed))).any(-1).mean()
        for seed, image in enumerate(images)
    ]
    assert np.mean(changed) < most and np.quantile(changed, 0.9) < 4 * most
    others = [
        (control("segmentation", a) != control("segmentation", b)).any(-1).mean() for a, b in zip(images, images[1:])
    ]
    assert np.mean(others) > 10 * np.mean(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_moves_a_condition_far_less_than_another_drawing_does(kind: str) -> None:
    images = icons("source_held_out.parquet", 60, 13)

    def distance(a: list[Image.Image], b: list[Image.Image]) -> float:
        return np.mean([((control(kind, x) / 255.0 - control(kind, y) / 255.0) ** 2).mean() for x, y in zip(a, b)])

    noisy = [with_noise(image, 2, seed) for seed, image in enumerate(images)]
    assert 15 * distance(images, noisy) < distance(images, images[1:] + images[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_extracting_twice_is_exact(kind: str) -> None:
    images = [*icons("source_held_out.parquet", 6, 90), disk(512, 200), rectangle()]
    extractor = drawing_extractor(kind)
    first, second = extractor(images), extractor(images)
    alone = [drawing_extractor(kind)([image])[0] for image in images]
    for a, b, c, image in zip(first, second, alone, images):
        assert a.mode == "RGB" and a.size == image.size
        assert a.tobytes() == b.tobytes() == c.tobytes()
    assert drawing_extractor(kind).settings == extractor.settings


def test_extraction_is_exact_in_another_process_and_with_other_threads() -> None:
    code = (
        "import sys, hashlib, cv2; cv2.setNumThreads(int(sys.argv[1]));"
        "from tests.controls.drawings import *; from diffusers_difftune.controls import KINDS;"
        "images = [with_noise(disk(300, 100), 20), *icons('source_held_out.parquet', 5, 90)];"
        "print(hashlib.sha256(b''.join(control(k, i).tobytes() for k in KINDS for i in images)).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, threads], capture_output=True, text=True, check=True).stdout
        for threads in ("0", "3")
    ]
    assert len(runs[0]) == 65 and runs[0] == runs[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (40, 3), (33, 17), (200, 60)])
def test_any_size(kind: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    images = [Image.new("RGB", size, "white"), Image.new("RGB", size, "black"), Image.fromarray(noise)]
    assert [image.size for image in drawing_extractor(kind)(images)] == [size] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_are_distinct(kind: str) -> None:
    image = icons("source_held_out.parquet", 1, 1)[0]
    others = [control(other, image) for other in KINDS if other != kind]
    assert all((control(kind, image) != other).any(-1).mean() > 0.05 for other in others)


def test_an_image_of_another_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="takes RGB images, not RGBA"):
        make_extractor("edge")([Image.new("RGBA", (4, 4))])
    assert make_extractor("edge")([]) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("egde",), "'egde' is no kind of control images; the kinds are edge, sketch, depth, normal, segmentation"),
        (("edge", "drawing"), "The model is 'drawing', but edge is computed without a model"),
        (("sketch", None, "main"), "The revision is 'main', but sketch is computed without a model"),
        (("depth", "drawing", "main"), "The revision is 'main', but 'drawing' is no model"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(DiffTuneError, match=message):
        make_extractor(*arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_black_control_image_means(kind: str) -> None:
    """As docs/conditions.md has it, for what `--retention_condition blank` gives to source rows."""
    model = "drawing" if kind in ("depth", "normal", "segmentation") else None
    empty = np.asarray(make_extractor(kind, model)([Image.new("RGB", (32, 32), "white")])[0])
    assert (not empty.any()) == (kind in ("edge", "sketch", "depth"))
    if kind in ("normal", "segmentation"):
        assert control(kind, disk()).any(-1).all()


def test_the_kinds_are_known_without_opencv() -> None:
    code = "import sys, diffusers_difftune.controls as c; assert c.KINDS; print({'cv2', 'numpy', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
