"""EXIF orientations 1 to 8 are turned upright. test_conformance.py has XMP, PNG and WebP files."""

import struct

import numpy as np
import pytest
from PIL import Image

from preprocessing import DecodeRules, conformance_cases, decode_image
from tests.preprocessing.encoders import (
    PNG_RGB,
    exif_orientation,
    jpeg_with_segment,
    jpeg_without_segment,
    png,
    png_chunk,
)
from tests.preprocessing.files import LIMITS, encoded, pixels

APP0, APP1 = 0xE0, 0xE1
UPRIGHT = DecodeRules(exif_orientation=True)
# Rows of two blocks as stored, by orientation, for the upright picture "ab/cd".
# Exif 2.32: the value says where row 0 and column 0 of the stored picture belong.
STORED = {
    1: "ab/cd",
    2: "ba/dc",
    3: "dc/ba",
    4: "cd/ab",
    5: "ac/bd",
    6: "bd/ac",
    7: "db/ca",
    8: "ca/db",
}
COLOURS = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255), "d": (255, 255, 255)}


def jpeg(layout: str, width: int = 32, height: int = 16) -> bytes:
    """JPEG of four blocks of (width, height)."""
    image = Image.new("RGB", (2 * width, 2 * height))
    for y, row in enumerate(layout.split("/")):
        for x, name in enumerate(row):
            box = (x * width, y * height, (x + 1) * width, (y + 1) * height)
            image.paste(COLOURS[name], box)
    return encoded(image, "JPEG", quality=100, subsampling=0)


PLAIN = jpeg("ab/cd")


def tagged(value: int) -> bytes:
    """JPEG with an orientation; 5 to 8 are stored in portrait format."""
    width, height = (16, 32) if value >= 5 else (32, 16)
    exif = b"Exif\0\0" + exif_orientation(value)
    return jpeg_with_segment(jpeg(STORED[value], width, height), APP1, exif)


def layout_of(image: Image.Image) -> str:
    def name(x: int, y: int) -> str:
        pixel = np.asarray(image)[y, x].astype(int)
        return min(COLOURS, key=lambda name: int(abs(pixel - COLOURS[name]).sum()))

    width, height = image.size
    columns, rows = (width // 4, 3 * width // 4), (height // 4, 3 * height // 4)
    return "/".join("".join(name(x, y) for x in columns) for y in rows)


@pytest.mark.parametrize("value", range(1, 9))
def test_each_orientation_is_decoded_upright(value: int) -> None:
    image = decode_image(tagged(value), UPRIGHT, LIMITS)

    assert image.size == (64, 32)
    assert layout_of(image) == "ab/cd"


def test_an_upright_image_has_no_orientation_that_a_users_class_could_apply_again() -> None:
    for name, file in conformance_cases().items():
        if "orientation" in name:
            assert decode_image(file, UPRIGHT, LIMITS).getexif().get(0x0112, 1) == 1, name


def jpeg_with_exif(exif: bytes) -> bytes:
    return jpeg_with_segment(PLAIN, APP1, b"Exif\0\0" + exif)


def png_with_text(chunk: bytes, content: bytes) -> bytes:
    return png((1, 2), 8, PNG_RGB, [b"\1\2\3", b"\4\5\6"], png_chunk(chunk, content))


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(jpeg_with_exif(exif_orientation(9)), id="undefined value"),
        pytest.param(jpeg_with_exif(b""), id="empty"),
        pytest.param(jpeg_with_exif(b"II*\0\xff\xff\xff\xff"), id="directory outside"),
        pytest.param(jpeg_with_exif(b"II*\0\x08\0\0\0\xff\xff"), id="entries missing"),
        pytest.param(jpeg_with_exif(b"nonsense" * 9), id="not TIFF"),
        pytest.param(png_with_text(b"tEXt", b"exif\0a note"), id="text"),
        pytest.param(png_with_text(b"iTXt", b"xmp\0\0\0\0\0a note"), id="international text"),
    ],
)
def test_undefined_or_damaged_metadata_is_ignored(file: bytes) -> None:
    assert pixels(file, UPRIGHT) == pixels(file)


def test_thousands_of_damaged_entries_cause_no_warning() -> None:
    # Pillow's own parser, which also runs when it opens a JPEG, warns of each. Warnings fail tests.
    entries = b"".join(struct.pack("<HHII", tag, 1, 60_000, 8) for tag in range(1, 5001))
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 5000) + entries
    file = jpeg_with_segment(jpeg_without_segment(PLAIN, APP0), APP1, block)

    assert layout_of(decode_image(file, UPRIGHT, LIMITS)) == "ab/cd"
