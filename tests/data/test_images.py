# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import io
import pickle
import struct
import zipfile
import zlib
from fnmatch import fnmatch

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from diffusers_difftune.data.images.check import upright_size
from diffusers_difftune.data.images.decode import PIL_FILTERS, ImageTransform, UnreadableImage, decode, load_rgb
from diffusers_difftune.data.images.formats import FORMATS, IMAGE_SUFFIXES, is_image_file


ORIENTATION = 0x0112  # the EXIF tag


def test_one_list_of_formats_has_all_the_suffixes_that_pillow_knows_for_them():
    Image.init()
    for name, suffixes in FORMATS.items():
        assert set(suffixes) == {suffix for suffix, of in Image.registered_extensions().items() if of == name}, name
    assert is_image_file("a/CAT.JFIF") and not is_image_file("cat.heic") and not is_image_file("png")
    assert len(IMAGE_SUFFIXES) == sum(map(len, FORMATS.values()))


def pixel(image: Image.Image) -> tuple[int, ...]:
    rgb = load_rgb(image)
    assert rgb.mode == "RGB"
    return rgb.getpixel((0, 0))


@pytest.mark.parametrize(
    "image, expected",
    [
        (Image.new("RGB", (2, 2), (10, 20, 30)), (10, 20, 30)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("L", (2, 2), 99), (99, 99, 99)),
        (Image.new("LA", (2, 2), (99, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (0, 0, 255, 255)), (0, 0, 255)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 127)), (128, 128, 128)),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 255)), (0, 0, 0)),
        (Image.new("RGB", (2, 2), (10, 20, 30)).quantize(4), (10, 20, 30)),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 32768, np.uint16)), (128, 128, 128)),
        (Image.fromarray(np.full((2, 2), 32768, np.int32)), (128, 128, 128)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_any_mode_becomes_rgb(image, expected):
    assert pixel(image) == expected


def test_a_transparent_palette_entry_becomes_white(tmp_path):
    image = Image.new("P", (2, 2), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "palette.png", transparency=0)
    assert pixel(Image.open(tmp_path / "palette.png")) == (255, 255, 255)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (4, 2), "white")
    image.putpixel((0, 0), (0, 0, 0))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was held upright: turn by 90° clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright = load_rgb(decode({"bytes": None, "path": str(tmp_path / "turned.png")}))
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    "size, resolution, resized",
    [
        ((100, 100), 64, (64, 64)),
        ((64, 64), 64, (64, 64)),
        ((100, 50), 64, (128, 64)),
        ((50, 101), 64, (64, 129)),  # 129.28 is cut, as torchvision does
        ((3, 2), 5, (7, 5)),  # 7.5 is cut
        ((641, 427), 512, (768, 512)),  # 768.599
        ((10, 1000), 16, (16, 1600)),
    ],
)
def test_the_shorter_side_is_resized_to_the_resolution(size, resolution, resized):
    transform = ImageTransform(resolution)
    assert transform.resized_size(*size) == resized
    assert transform.resize(Image.new("RGB", size)).size == resized


def test_an_image_of_the_right_size_is_not_filtered():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8))
    for name in PIL_FILTERS:
        assert ImageTransform(16, name).resize(image) is image


def test_interpolation_modes_differ():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    results = {name: ImageTransform(16, name).resize(image).tobytes() for name in PIL_FILTERS}
    assert results.pop("nearest_exact") == results["nearest"]
    assert len(set(results.values())) == len(results)


@pytest.mark.parametrize(
    "size, at, box",
    [
        ((16, 16), None, (0, 0)),
        ((16, 16), (0.99, 0.99), (0, 0)),
        ((19, 16), None, (0, 2)),  # 1.5 and 2.5 both go to 2: half to even, as torchvision does
        ((21, 16), None, (0, 2)),
        ((16, 20), (0.0, 0.0), (0, 0)),
        ((16, 20), (0.999, 0.0), (4, 0)),
    ],
)
def test_crop_box(size, at, box):
    assert ImageTransform(16).crop_box(size, at) == box


def test_random_crops_are_uniform_over_all_places():
    boxes = [ImageTransform(8).crop_box((8, 11), (u / 400, 0.0))[0] for u in range(400)]
    assert np.bincount(boxes).tolist() == [100] * 4


def test_to_tensor_crops_flips_and_scales():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    plain = ImageTransform(8).to_tensor(image, 0, 3, flip=False)
    flipped = ImageTransform(8).to_tensor(image, 0, 3, flip=True)
    assert plain.shape == (3, 8, 8) and plain.dtype == torch.float32
    expected = (torch.from_numpy(pixels[:, 3:11].copy()).permute(2, 0, 1) / 255 - 0.5) / 0.5
    assert torch.equal(plain, expected)
    assert torch.equal(flipped, expected.flip(-1))
    assert plain.min() >= -1 and plain.max() <= 1


@pytest.mark.parametrize(
    "content, reason",
    [(b"no image at all", "not an image"), (b"", "not an image"), (None, "no such file {}")],
)
def test_unreadable_images_say_why(tmp_path, content, reason):
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImage) as error:
        decode({"bytes": None, "path": str(path)})
    reason = reason.format(path)
    assert error.value.reason == reason
    assert str(error.value) == f"The image {path} cannot be read: {reason}."


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif"])
def test_truncated_images_are_damaged(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    decode({"bytes": path.read_bytes(), "path": None})
    with pytest.raises(UnreadableImage) as error:
        decode({"bytes": path.read_bytes()[: path.stat().st_size // 2], "path": None})
    assert error.value.reason.startswith(("damaged", "not an image"))


def png(width: int, height: int) -> bytes:
    """A black PNG of any size, in a few KB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = zlib.compress(bytes(1 + (width + 7) // 8) * height, 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RED = Image.new("RGB", (4, 4), "red")
HOSTILE = {
    "a bomb": (png(20_000, 10_000), "too large: Image size (200000000 pixels) exceeds limit of 178956970 pixels, *"),
    "a strip": (png(1, 60_000), "1 × 60000 is more than 100 times as long as wide"),
    "a line": (png(60_000, 1), "60000 × 1 is more than 100 times as long as wide"),
    "no width": (png(0, 5), "not an image"),
    "no height": (png(5, 0), "not an image"),
    "PostScript, which is a program": (saved(RED, "EPS"), "not an image"),
    "a PDF": (saved(RED, "PDF"), "not an image"),
    "a drawing in XML": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "a web page": (b"<html><script>alert()</script></html>", "not an image"),
    "a pickle": (pickle.dumps({"image": 1}), "not an image"),
    "an archive": (b"PK\x03\x04" + bytes(60), "not an image"),
    "a device's name": (b"/dev/zero", "not an image"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_images_are_refused(case):
    content, reason = HOSTILE[case]
    with pytest.raises(UnreadableImage) as error:
        decode({"bytes": content, "path": None})
    assert fnmatch(error.value.reason.replace("[", "("), reason)


def test_the_limits_leave_room_for_what_people_have():
    assert decode({"bytes": png(12_000, 9_000), "path": None}).size == (12_000, 9_000)  # a camera's hundred megapixels
    assert decode({"bytes": png(10_000, 100), "path": None}).size == (10_000, 100)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_it_is_the_first_frame(kind):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert pixel(decode({"bytes": content, "path": None})) == (255, 0, 0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL tells of each damage
def test_a_damaged_orientation_is_none_or_a_damaged_image():
    """Whatever is in the EXIF block, an image is upright or refused, and of the size that is promised."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    whole = saved(Image.new("RGB", (8, 4)), "JPEG", exif=exif.tobytes())
    start, random = whole.index(b"Exif"), np.random.default_rng(0)
    sizes = set()
    for _ in range(400):
        content = bytearray(whole)
        for place in random.integers(0, 40, 3):
            content[start + place] = random.integers(256)
        try:
            image = decode({"bytes": bytes(content), "path": None})
        except UnreadableImage:
            continue
        sizes.add(load_rgb(image).size)
        assert upright_size(image) == load_rgb(image).size
    assert sizes == {(8, 4), (4, 8)}


@pytest.mark.parametrize("value", range(-1, 11))
def test_orientations_are_those_that_pil_undoes(value):
    exif = Image.Exif()
    exif[ORIENTATION] = value % 2**16
    drawn = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    image = Image.open(io.BytesIO(saved(drawn, "PNG", exif=exif)))
    assert load_rgb(image).tobytes() == ImageOps.exif_transpose(image).convert("RGB").tobytes()


@pytest.mark.parametrize("stored", [None, {"bytes": None, "path": None}])
def test_a_row_without_an_image(stored):
    with pytest.raises(UnreadableImage, match="The image of a row cannot be read: no image."):
        decode(stored)


def test_an_image_inside_a_streamed_archive_is_opened(tmp_path):
    Image.new("RGB", (3, 2), "red").save(tmp_path / "red.png")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(tmp_path / "red.png", "red.png")
    image = decode({"bytes": None, "path": f"zip://red.png::{tmp_path}/images.zip"})
    assert image.size == (3, 2)
