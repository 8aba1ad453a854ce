"""EXIF orientation 1 to 8 → the upright picture, where the rules ask for it."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from preprocessing import DecodeRules, decode_image
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
# What is stored, as rows of four blocks of 16 pixels, so that "ab/cd" comes out upright.
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


def jpeg(layout: str, short: int = 16, long: int = 32) -> bytes:
    image = Image.new("RGB", (2 * long, 2 * short))
    for y, row in enumerate(layout.split("/")):
        for x, name in enumerate(row):
            image.paste(COLOURS[name], (x * long, y * short, (x + 1) * long, (y + 1) * short))
    return encoded(image, "JPEG", quality=100, subsampling=0)


PLAIN = jpeg("ab/cd")


def tagged(value: int, order: str = "<") -> bytes:
    """Blocks are 16 high and 32 wide upright, so they are stored standing for 5 to 8."""
    block = (32, 16) if value >= 5 else (16, 32)
    exif = b"Exif\0\0" + exif_orientation(value, order)
    return jpeg_with_segment(jpeg(STORED[value], *block), APP1, exif)


def layout_of(image: Image.Image) -> str:
    def name(x: int, y: int) -> str:
        pixel = np.asarray(image)[y, x].astype(int)
        return min(COLOURS, key=lambda name: int(abs(pixel - COLOURS[name]).sum()))

    width, height = image.size
    columns, rows = (width // 4, 3 * width // 4), (height // 4, 3 * height // 4)
    return "/".join("".join(name(x, y) for x in columns) for y in rows)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_each_orientation_comes_out_upright_and_is_not_turned_again(value: int, order: str) -> None:
    image = decode_image(tagged(value, order), UPRIGHT, LIMITS)

    assert image.size == (64, 32)
    assert layout_of(image) == "ab/cd"
    # By a class of the user that looks at the metadata.
    assert layout_of(ImageOps.exif_transpose(image)) == "ab/cd"


def test_without_the_rule_the_picture_stays_as_stored() -> None:
    image = decode_image(tagged(6), DecodeRules(), LIMITS)

    assert image.size == (32, 64)
    assert layout_of(image) == STORED[6]


@pytest.mark.parametrize(
    "exif",
    [
        *(pytest.param(exif_orientation(value), id=str(value)) for value in (0, 9, 65535)),
        pytest.param(b"", id="empty"),
        pytest.param(b"II", id="no header"),
        pytest.param(b"II*\0\xff\xff\xff\xff", id="directory outside"),
        pytest.param(b"II*\0\x08\0\0\0\xff\xff", id="entries missing"),
        pytest.param(b"nonsense" * 9, id="not TIFF"),
    ],
)
def test_undefined_or_damaged_exif_is_no_orientation_and_no_error(exif: bytes) -> None:
    file = jpeg_with_segment(PLAIN, APP1, b"Exif\0\0" + exif)

    assert layout_of(decode_image(file, UPRIGHT, LIMITS)) == "ab/cd"


@pytest.mark.parametrize("chunk", [b"tEXt", b"iTXt"])
@pytest.mark.parametrize("key", [b"exif", b"xmp", b"XML:com.adobe.xmp", b"Raw profile type exif"])
def test_a_text_named_like_metadata_is_no_orientation_and_no_error(
    key: bytes, chunk: bytes
) -> None:
    before = b"\0" if chunk == b"tEXt" else b"\0\0\0\0\0"
    text = png_chunk(chunk, key + before + b"a note")
    file = png((1, 2), 8, PNG_RGB, [b"\1\2\3", b"\4\5\6"], text)

    assert pixels(file, UPRIGHT) == [[(1, 2, 3)], [(4, 5, 6)]]


def test_thousands_of_damaged_entries_cause_no_warning() -> None:
    # Pillow's own parser, which also runs when it opens a JPEG, warns of each. Warnings fail tests.
    entries = b"".join(struct.pack("<HHII", tag, 1, 60_000, 8) for tag in range(1, 5001))
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 5000) + entries
    file = jpeg_with_segment(jpeg_without_segment(PLAIN, APP0), APP1, block)

    assert layout_of(decode_image(file, UPRIGHT, LIMITS)) == "ab/cd"


def test_orientation_is_read_from_xmp_and_from_png_and_webp_too() -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="3"/>'
    image = Image.new("RGB", (2, 1), "red")
    image.putpixel((1, 0), (0, 0, 255))
    three, six = (b"Exif\0\0" + exif_orientation(value, ">") for value in (3, 6))

    with_xmp = decode_image(jpeg_with_segment(jpeg(STORED[3]), APP1, xmp), UPRIGHT, LIMITS)

    assert layout_of(with_xmp) == "ab/cd"
    red, blue = (255, 0, 0), (0, 0, 255)
    assert pixels(encoded(image, "PNG", exif=six), UPRIGHT) == [[red], [blue]]
    assert pixels(encoded(image, "WEBP", lossless=True, exif=three), UPRIGHT) == [[blue, red]]
