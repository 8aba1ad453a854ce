"""EXIF orientation 1 to 8 → the upright picture, where the rules ask for it."""

import struct

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
from tests.shared_data import SHARED, needs_shared_data

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


def stored_picture(layout: str, short: int = 16, long: int = 32) -> Image.Image:
    """Blocks are 16 high and 32 wide upright, so they are stored standing for 5 to 8."""
    image = Image.new("RGB", (2 * long, 2 * short))
    for y, row in enumerate(layout.split("/")):
        for x, name in enumerate(row):
            image.paste(COLOURS[name], (x * long, y * short, (x + 1) * long, (y + 1) * short))
    return image


def jpeg(value: int, order: str = "<") -> bytes:
    block = (32, 16) if value >= 5 else (16, 32)
    plain = encoded(stored_picture(STORED[value], *block), "JPEG", quality=100, subsampling=0)
    return jpeg_with_segment(plain, APP1, b"Exif\0\0" + exif_orientation(value, order))


def layout_of(image: Image.Image) -> str:
    def name(x, y):
        pixel = image.getpixel((x, y))
        return min(
            COLOURS, key=lambda n: sum(abs(a - b) for a, b in zip(COLOURS[n], pixel, strict=True))
        )

    width, height = image.size
    columns, rows = (width // 4, 3 * width // 4), (height // 4, 3 * height // 4)
    return "/".join("".join(name(x, y) for x in columns) for y in rows)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_each_orientation_comes_out_upright(value, order):
    image = decode_image(jpeg(value, order), UPRIGHT, LIMITS)

    assert image.size == (64, 32)
    assert layout_of(image) == "ab/cd"


def test_an_upright_picture_is_not_turned_again_by_a_class_that_looks_at_its_metadata():
    image = decode_image(jpeg(6), UPRIGHT, LIMITS)

    assert layout_of(ImageOps.exif_transpose(image)) == "ab/cd"


def test_without_the_rule_the_picture_stays_as_stored():
    image = decode_image(jpeg(6), DecodeRules(), LIMITS)

    assert image.size == (32, 64)
    assert layout_of(image) == STORED[6]


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_undefined_orientation_is_none(value):
    plain = encoded(stored_picture("ab/cd"), "JPEG")
    file = jpeg_with_segment(plain, APP1, b"Exif\0\0" + exif_orientation(value))

    assert layout_of(decode_image(file, UPRIGHT, LIMITS)) == "ab/cd"


@pytest.mark.parametrize(
    "block",
    [b"", b"II", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"nonsense" * 9],
    ids=["empty", "no header", "directory outside", "entries missing", "not TIFF"],
)
def test_damaged_exif_is_no_orientation_and_no_error(block):
    file = jpeg_with_segment(encoded(stored_picture("ab/cd"), "JPEG"), APP1, b"Exif\0\0" + block)

    assert layout_of(decode_image(file, UPRIGHT, LIMITS)) == "ab/cd"


@pytest.mark.parametrize("chunk", [b"tEXt", b"iTXt"])
@pytest.mark.parametrize("key", [b"exif", b"xmp", b"XML:com.adobe.xmp", b"Raw profile type exif"])
def test_a_text_named_like_metadata_is_no_orientation_and_no_error(key, chunk):
    before = b"\0" if chunk == b"tEXt" else b"\0\0\0\0\0"
    text = png_chunk(chunk, key + before + b"a note")
    file = png((1, 2), 8, PNG_RGB, [b"\1\2\3", b"\4\5\6"], text)

    assert pixels(file, UPRIGHT) == [[(1, 2, 3)], [(4, 5, 6)]]


def test_thousands_of_damaged_entries_cause_no_warning():
    # Pillow's own parser, which also runs when it opens a JPEG, warns of each. Warnings fail tests.
    entries = b"".join(struct.pack("<HHII", tag, 1, 60_000, 8) for tag in range(1, 5001))
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 5000) + entries
    plain = jpeg_without_segment(encoded(stored_picture("ab/cd"), "JPEG"), APP0)
    file = jpeg_with_segment(plain, APP1, block)

    assert layout_of(decode_image(file, UPRIGHT, LIMITS)) == "ab/cd"


def test_xmp_orientation_counts_where_exif_has_none():
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="3"/>'
    file = jpeg_with_segment(encoded(stored_picture(STORED[3]), "JPEG"), APP1, xmp)

    assert layout_of(decode_image(file, UPRIGHT, LIMITS)) == "ab/cd"


@needs_shared_data
def test_every_file_with_an_orientation_comes_out_as_exif_transpose_turns_it():
    files = [
        *(SHARED / "broken" / "exif").iterdir(),
        *(SHARED / "broken" / "generated").glob("quadrants_*"),
    ]
    assert len(files) >= 18

    for file in files:
        with Image.open(file) as image:
            expected = ImageOps.exif_transpose(image).convert("RGB")
        got = decode_image(file.read_bytes(), UPRIGHT, LIMITS)
        assert got.size == expected.size, file.name
        assert got.tobytes() == expected.tobytes(), file.name
